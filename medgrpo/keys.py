"""The keys that find everything again: equal inputs, equal key, so running anything twice makes nothing twice."""

from functools import lru_cache
from importlib.metadata import version

from medgrpo.config import Config
from medgrpo.fingerprint import digest, source_digest
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Split


@lru_cache(maxsize=1)
def trainer_source() -> str:
    """Digest of the code that decides what a training yields: rewards, grammar, trainer, and TRL's version."""
    return digest([source_digest("rewards", "grpo", "answer.py", "policy.py"), version("trl")])


@lru_cache(maxsize=1)
def scorer_source() -> str:
    """Digest of the code that decides what an evaluation yields."""
    return source_digest("answer.py", "evaluate.py", "statistics.py", "policy.py")


def train_key(config: Config, dataset: DatasetRef, base: BaseRef) -> str:
    """Key of a training: the train rows, the base's weights, and everything in the config that training reads."""
    parts = [config.policy.lora, config.policy.dtype, config.policy.load_in_4bit, config.prompt, config.grpo]
    rewards = [reward.model_dump(mode="json") for reward in config.rewards]
    return digest([dataset.digests["train"], base.digest, parts, rewards, config.seed, trainer_source()])


def eval_key(config: Config, dataset: DatasetRef, base: BaseRef, checkpoint: CheckpointRef, split: Split) -> str:
    """Key of an evaluation: the policy's weights, the rows, and how completions are made and judged."""
    parts = [config.evaluation, config.prompt, config.policy.dtype, config.policy.load_in_4bit]
    return digest([checkpoint.adapter_digest, base.digest, dataset.digests[split], split, parts, scorer_source()])
