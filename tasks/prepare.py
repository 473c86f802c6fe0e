"""Stage: find the base model, and prepare the questions."""

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare as prepare_dataset
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef
from tasks.stage import stage


@stage("resolve-base")
def resolve_base(config: Config) -> BaseRef:
    """Find the base model on this disk; it is converted or downloaded once."""
    return resolve(config.policy.base, Settings())


@stage("prepare")
def prepare(config: Config, base: BaseRef) -> DatasetRef:
    """Load, clean and split the questions. Their key is their content: they are read each time, and stored once."""
    return prepare_dataset(config, base, Settings())
