"""The pipeline: from a question set to a served, evaluated adapter. Run it with `medgrpo run CONFIG`."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import ConfigFile, Override
from flows.recovery import give_up
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.evaluation import best
from medgrpo.report import Findings, Summary
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef
from medgrpo.upkeep.redo import StageName
from tasks.audit import audit
from tasks.evaluate import evaluate, evaluate_all
from tasks.prepare import prepare, resolve_base
from tasks.promote import decide, find_incumbent, promote
from tasks.register import register
from tasks.report import card, report, report_evaluation
from tasks.serve import ask_served
from tasks.stage import starting_from
from tasks.track import close_run, fail_run, find_finished, hold_run, open_run
from tasks.train import train
from tasks.validate import validate

HOOKS: Any = {
    "on_running": [hold_run],
    "on_failure": [fail_run],
    "on_crashed": [fail_run],
    "on_cancellation": [fail_run],
}


@flow(name="medgrpo", **HOOKS)
def pipeline(config: Config, start_from: StageName | None = None) -> Summary:
    """Validate, train, evaluate, register, decide, promote, and ask the served stage one question.

    Args:
        config: the whole config.
        start_from: do this stage and those after it again, also where they are finished.
    """
    with starting_from(start_from):
        base = resolve_base(config)
        return _chain(config, base, prepare(config, base))


@flow(name="medgrpo-train", **HOOKS)
def train_from_file(
    config_path: ConfigFile,
    overrides: list[Override] = [],  # noqa: B006  (Prefect shows it in the form, and nobody changes it)
    start_from: StageName | None = None,
) -> Summary | State[Any]:
    """The pipeline as a deployment runs it; ends as 'nothing new' where config, rows, code and champion are the same.

    Args:
        config_path: a file of the worker's machine.
        overrides: keys of the config with other values.
        start_from: do this stage and those after it again, also where they are finished.
    """
    if over := give_up():
        return over
    config = read_config(Path(config_path), overrides)
    with starting_from(start_from):
        base = resolve_base(config)
        dataset = prepare(config, base)
        if start_from is None and (outcome := find_finished(config, base, dataset)):
            return Completed(name="NothingNew", message=f"nothing new: same config, rows and code as when {outcome}")
        return _chain(config, base, dataset)


def _chain(config: Config, base: BaseRef, dataset: DatasetRef) -> Summary:
    """The stages after the questions.

    Checkpoints are chosen on validation rows; the gate decides on test rows, which nothing was chosen on.
    """
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
    close_run(config, base, dataset, run, f"{version.name} version {version.version}: {outcome}")
    return Summary(**dict(findings), outcome=outcome, served=served, curve=curve, page=page)
