"""The pipeline: from a question set to a served, evaluated adapter. Run it with `medgrpo run CONFIG`."""

from pathlib import Path

from prefect import flow

from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.evaluate import best
from medgrpo.report import Summary
from medgrpo.types import CheckpointRef
from tasks.audit import audit
from tasks.evaluate import evaluate
from tasks.prepare import prepare, resolve_base
from tasks.promote import find_incumbent, promote
from tasks.register import register
from tasks.report import report
from tasks.serve import ask_served
from tasks.track import close_run, fail_run, open_run
from tasks.train import train
from tasks.validate import validate


@flow(name="medgrpo", on_failure=[fail_run], on_crashed=[fail_run], on_cancellation=[fail_run])
def pipeline(config: Config) -> Summary:
    """Validate, train, evaluate, register, decide, and ask the served stage one question.

    Checkpoints are chosen on validation rows; the gate decides on test rows, which nothing was chosen on.
    """
    base = resolve_base(config)
    dataset = prepare(config, base)
    run = open_run(config, base, dataset)
    validate(config, dataset, run)
    audit(config, base, dataset, run)
    training = train(config, base, dataset, run)
    curve = report(run, training)

    reports = [
        evaluate(config, base, dataset, checkpoint, "validation", run)
        for checkpoint in (CheckpointRef.base(), *training.checkpoints)
    ]
    chosen = best(reports).checkpoint
    version = register(config, base, dataset, chosen, run)

    incumbent = find_incumbent(config)
    challenger_report = evaluate(config, base, dataset, chosen, "test", run)
    incumbent_report = evaluate(incumbent.config, incumbent.base, dataset, incumbent.checkpoint, "test", run)
    decision = promote(config, version, challenger_report, incumbent_report)
    served = ask_served(config, dataset, decision)
    close_run(run)
    return Summary(
        run=run,
        base=reports[0],
        checkpoints=tuple(reports[1:]),
        incumbent=incumbent_report,
        challenger=challenger_report,
        version=version,
        decision=decision,
        served=served,
        curve=curve,
    )


@flow(name="medgrpo-train")
def train_from_file(config_path: str) -> Summary:
    """The pipeline as a deployment runs it: on a config file of the worker's machine."""
    summary: Summary = pipeline(read_config(Path(config_path)))
    return summary
