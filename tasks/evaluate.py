"""Stage: evaluate one policy on one split."""

from collections.abc import Mapping
from typing import Any

from prefect.context import TaskRunContext

from medgrpo.config import Config
from medgrpo.evaluate import evaluate as evaluate_checkpoint
from medgrpo.evaluate import publish, read_report
from medgrpo.fingerprint import digest
from medgrpo.keys import eval_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, RunRef, Split
from tasks.stage import stage


def _key(context: TaskRunContext, parameters: Mapping[str, Any]) -> str | None:
    names = ("config", "dataset", "base", "checkpoint", "split")
    key = eval_key(*(parameters[name] for name in names))
    there = read_report(key, Settings()) is not None
    return digest(["evaluate", key, parameters["checkpoint"], parameters["run"]]) if there else None


@stage("evaluate", key=_key)
def evaluate(
    config: Config, base: BaseRef, dataset: DatasetRef, checkpoint: CheckpointRef, split: Split, run: RunRef
) -> EvalReport:
    """Measure a checkpoint, or the base model, and tie the figures to it in MLflow."""
    report = evaluate_checkpoint(config, base, dataset, checkpoint, split, Settings())
    publish(run, dataset, report, Settings())
    return report
