"""Stage: train the adapter in a process of its own."""

from collections.abc import Mapping
from typing import Any

from prefect.context import TaskRunContext

from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.grpo.launch import is_finished
from medgrpo.grpo.launch import train as train_policy
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, RunRef, TrainingRef
from tasks.stage import stage


def _key(context: TaskRunContext, parameters: Mapping[str, Any]) -> str | None:
    run: RunRef = parameters["run"]
    if not is_finished(Settings().training(run.key), parameters["config"]):
        return None
    return digest(["train", run])


@stage("train", key=_key, retries=2, timeout_s=7 * 24 * 3600)
def train(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef) -> TrainingRef:
    """Train to the last step; a retry goes on from the newest checkpoint that verifies."""
    return train_policy(config, base, dataset, run, Settings())
