"""The pipeline: from a question set to a served, evaluated adapter. Run it with `medgrpo run CONFIG`."""

from pathlib import Path

from prefect import flow

from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.evaluation import best
from medgrpo.report import Findings, Summary
from medgrpo.types import CheckpointRef
from tasks.audit import audit
from tasks.evaluate import evaluate, evaluate_all
from tasks.prepare import prepare, resolve_base
from tasks.promote import decide, find_incumbent, promote
from tasks.register import register
from tasks.report import card, report, report_evaluation
from tasks.serve import ask_served
from tasks.track import close_run, fail_run, hold_run, open_run
from tasks.train import train
from tasks.validate import validate


@flow(name="medgrpo", on_running=[hold_run], on_failure=[fail_run], on_crashed=[fail_run], on_cancellation=[fail_run])
def pipeline(config: Config) -> Summary:
    """Validate, train, evaluate, register, decide, promote, and ask the served stage one question.

    Checkpoints are chosen on validation rows; the gate decides on test rows, which nothing was chosen on.
    """
    base = resolve_base(config)
    dataset = prepare(config, base)
    run = open_run(config, base, dataset)
    validate(config, dataset, run)
    audit(config, base, dataset, run)
    training = train(config, base, dataset, run)
    curve = report(run, training)

    measured = (CheckpointRef.base(), *training.checkpoints)
    reports = evaluate_all(config, base, dataset, measured, "validation", run)
    chosen = best(reports).checkpoint

    incumbent = find_incumbent(config)
    tested, *benchmarks = (
        (
            evaluate(config, base, dataset, chosen, "test", run, name),
            evaluate(incumbent.config, incumbent.base, dataset, incumbent.checkpoint, "test", run, name),
        )
        for name in ("", *dataset.benchmarks)
    )
    files = card(config, base, dataset, run, tested[0])
    version = register(config, base, dataset, chosen, run, files)
    proposal = decide(config, dataset, version, incumbent, tested, benchmarks)
    findings = Findings(
        run=run,
        base=reports[0],
        checkpoints=tuple(reports[1:]),
        challenger=tested[0],
        incumbent=tested[1],
        benchmarks=tuple(benchmarks),
        version=version,
        decision=proposal.decision,
    )
    page = report_evaluation(config, findings)
    outcome = promote(config, proposal)
    served = ask_served(config, dataset, outcome)
    close_run(run)
    return Summary(**dict(findings), outcome=outcome, served=served, curve=curve, page=page)


@flow(name="medgrpo-train", on_running=[hold_run])
def train_from_file(config_path: str) -> Summary:
    """The pipeline as a deployment runs it: on a config file of the worker's machine."""
    summary: Summary = pipeline(read_config(Path(config_path)))
    return summary
