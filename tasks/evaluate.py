"""Stage: evaluate policies on one set of rows."""

import shutil

from medgrpo.config import Config
from medgrpo.evaluation import evaluate_all as evaluate_checkpoints
from medgrpo.evaluation import publish, read_report
from medgrpo.fingerprint import digest
from medgrpo.keys import eval_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, RunRef, Split
from tasks.stage import GPU, Parameters, stage


def _eval_keys(parameters: Parameters) -> list[str]:
    config, dataset, base, split = (parameters[name] for name in ("config", "dataset", "base", "split"))
    benchmark = parameters.get("benchmark", "")
    return [
        eval_key(config, dataset, base, checkpoint, split, benchmark)
        for checkpoint in parameters.get("checkpoints") or (parameters["checkpoint"],)
    ]


def _key(parameters: Parameters) -> str:
    asked = parameters.get("checkpoints") or parameters["checkpoint"]
    return digest(["evaluate", _eval_keys(parameters), asked, parameters["run"]])


def _there(parameters: Parameters) -> bool:
    return all(read_report(key, Settings()) is not None for key in _eval_keys(parameters))


def _forget(parameters: Parameters) -> None:
    for key in _eval_keys(parameters):
        shutil.rmtree(Settings().evaluation(key), ignore_errors=True)


@stage("evaluate", of="evaluate", key=_key, there=_there, forget=_forget, tags=[GPU])
def evaluate(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoint: CheckpointRef,
    split: Split,
    run: RunRef,
    benchmark: str = "",
) -> EvalReport:
    """Measure one checkpoint, or the base model, and tie the figures to it in MLflow."""
    (report,) = evaluate_checkpoints(config, base, dataset, [checkpoint], split, Settings(), benchmark)
    publish(run, dataset, report, Settings())
    return report


@stage("evaluate all", of="evaluate", key=_key, there=_there, forget=_forget, tags=[GPU], timeout_s=6 * 3600)
def evaluate_all(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoints: tuple[CheckpointRef, ...],
    split: Split,
    run: RunRef,
) -> list[EvalReport]:
    """Measure checkpoints, and the base model, over one base in memory; a retry goes on behind the last batch."""
    reports = evaluate_checkpoints(config, base, dataset, checkpoints, split, Settings())
    for report in reports:
        publish(run, dataset, report, Settings())
    return reports
