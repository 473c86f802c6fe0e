"""Stage: train the adapter in a process of its own."""

from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.grpo.launch import is_finished, set_aside
from medgrpo.grpo.launch import train as train_policy
from medgrpo.grpo.publish import is_published
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, RunRef, TrainingRef
from tasks.stage import GPU, Parameters, stage


def _key(parameters: Parameters) -> str:
    return digest(["train", parameters["run"]])


def _there(parameters: Parameters) -> bool:
    output = Settings().training(parameters["run"].key)
    return is_finished(output, parameters["config"]) and is_published(output)


def _forget(parameters: Parameters) -> None:
    set_aside(Settings().training(parameters["run"].key))


@stage("train", of="train", key=_key, there=_there, forget=_forget, tags=[GPU], retries=2, timeout_s=7 * 24 * 3600)
def train(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef) -> TrainingRef:
    """Train to the last step; a retry goes on from the newest checkpoint that verifies."""
    return train_policy(config, base, dataset, run, Settings())
