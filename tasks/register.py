"""Stage: make the best checkpoint a model version."""

from medgrpo.config import Config
from medgrpo.registry import register as register_version
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, ModelVersionRef, RunRef
from tasks.stage import stage


@stage("register", retries=3)
def register(
    config: Config, base: BaseRef, dataset: DatasetRef, checkpoint: CheckpointRef, run: RunRef
) -> ModelVersionRef:
    """Find or create the version with this adapter, and make it the challenger."""
    return register_version(config, base, dataset, run, checkpoint, Settings())
