"""Stage: make the best checkpoint a model version."""

from medgrpo.config import Config
from medgrpo.registry import register as register_version
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, ModelVersionRef, RunRef
from tasks.stage import stage


@stage("register", of="register", retries=3)
def register(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoint: CheckpointRef,
    run: RunRef,
    files: dict[str, str] | None = None,
) -> ModelVersionRef:
    """Find or create the version with this adapter, and make it the challenger.

    Args:
        files: name → text of what is stored beside the adapter, such as the model card.
    """
    return register_version(config, base, dataset, run, checkpoint, Settings(), files)
