"""Stage: evaluate one policy on one split."""

from medgrpo.config import Config
from medgrpo.evaluate import evaluate as evaluate_checkpoint
from medgrpo.evaluate import publish, read_report
from medgrpo.fingerprint import digest
from medgrpo.keys import eval_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, RunRef, Split
from tasks.stage import Parameters, stage


def _eval_key(parameters: Parameters) -> str:
    return eval_key(*(parameters[name] for name in ("config", "dataset", "base", "checkpoint", "split")))


def _key(parameters: Parameters) -> str:
    return digest(["evaluate", _eval_key(parameters), parameters["checkpoint"], parameters["run"]])


def _there(parameters: Parameters) -> bool:
    return read_report(_eval_key(parameters), Settings()) is not None


@stage("evaluate", key=_key, there=_there)
def evaluate(
    config: Config, base: BaseRef, dataset: DatasetRef, checkpoint: CheckpointRef, split: Split, run: RunRef
) -> EvalReport:
    """Measure a checkpoint, or the base model, and tie the figures to it in MLflow."""
    report = evaluate_checkpoint(config, base, dataset, checkpoint, split, Settings())
    publish(run, dataset, report, Settings())
    return report
