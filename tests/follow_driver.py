"""Versions in a real registry that answer differently: the tiny policy with random adapters, and what each must say."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from medgrpo import registry, tracking
from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.generation import Completer
from medgrpo.policy import Policy, adapter_digest, attach, load_base
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, ModelVersionRef


def adapter(base: BaseRef, seed: int, settings: Settings) -> Path:
    """A random adapter in its content-addressed folder, large enough to change every answer."""
    torch.manual_seed(seed)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = settings.root / "made" / f"{base.digest[:8]}-{seed}"
    get_peft_model(load_base(base.folder).model, lora).save_pretrained(str(folder))
    target = settings.adapter(adapter_digest(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        folder.rename(target)
    return target


def register(config: Config, base: BaseRef, dataset: DatasetRef, seed: int, settings: Settings) -> ModelVersionRef:
    """A version of its own."""
    run = tracking.open_run(config, dataset, f"key-{config.name}", settings, {})
    made = adapter(base, seed, settings).name
    checkpoint = CheckpointRef(train_key=run.key, step=seed, adapter_digest=made)
    return registry.register(config, base, dataset, run, checkpoint, settings)


def named(config: Config, test: str) -> Config:
    """The config under a name of the test's own."""
    return config.model_copy(update={"name": f"serve-{digest(test)[:8]}"})


def greedy(
    base: BaseRef, folder: Path | None, chats: Sequence[list[dict[str, str]]], max_tokens: int
) -> tuple[str, ...]:
    """What evaluation gets from a version for some chats."""
    policy = _policy(base.folder, folder)
    completer = Completer(policy, max_tokens)
    return tuple(completer.complete([policy.prompt_tokens(chat)])[0] for chat in chats)


@cache
def _policy(base: str, folder: Path | None) -> Policy:
    policy = load_base(base)
    return policy if folder is None else attach(policy, folder)
