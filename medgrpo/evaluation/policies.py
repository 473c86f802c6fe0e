"""Policies that share one base model in memory: the adapters are switched, the base is loaded once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medgrpo.config import Config, PolicyConfig
from medgrpo.errors import NotFoundError, UserError
from medgrpo.generation import Completer
from medgrpo.policy import ADAPTER_FILES, Policy, adapter_digest, attach, load_base, store_adapter
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef

if TYPE_CHECKING:
    from medgrpo.evaluation.vllm import VllmPolicies


class Policies:
    """One base model, loaded when it is first needed, with at most one adapter on it at a time."""

    def __init__(self, base: BaseRef, policy: PolicyConfig, settings: Settings) -> None:
        self._base = base
        self._policy = policy
        self._settings = settings

    @cached_property
    def _plain(self) -> Policy:
        return load_base(self._base.folder, self._policy.dtype, self._policy.load_in_4bit)

    completer = staticmethod(Completer)
    """What completes prompts with a policy of `wearing`, given the longest completion in tokens."""

    @contextmanager
    def wearing(self, checkpoint: CheckpointRef) -> Iterator[Policy]:
        """The base with a checkpoint's adapter; taken off again at the end.

        Raises:
            NotFoundError: the adapter isn't on this disk, or isn't what was stored.
            BaseModelError: the base can't be loaded, or the adapter doesn't fit it.
        """
        if checkpoint.is_base:
            yield self._plain
            return
        import torch

        folder = adapter_folder(checkpoint, self._settings)  # before the base is loaded: that takes longer
        policy = attach(self._plain, folder)
        try:
            yield policy
        finally:
            policy.model.unload()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # whether the next adapter is merged into a copy hangs on what is free


@contextmanager
def open_policies(
    config: Config, base: BaseRef, checkpoints: Sequence[CheckpointRef], settings: Settings
) -> "Iterator[Policies | VllmPolicies]":
    """The engine that the config asks for; what it has started ends with the context."""
    if config.evaluation.engine == "transformers":
        yield Policies(base, config.policy, settings)
        return
    from medgrpo.evaluation.vllm import VllmPolicies

    policies = VllmPolicies(base, config.policy, checkpoints, settings)
    try:
        yield policies
    finally:
        policies.close()


def adopt_adapter(folder: Path, settings: Settings) -> CheckpointRef:
    """Copy an adapter from any folder to where adapters are found by their content; the policy with it.

    Raises:
        UserError: the folder has no adapter as PEFT saves it, in safetensors.
    """
    if missing := [name for name in ADAPTER_FILES if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no adapter as PEFT saves it: {' and '.join(missing)} not found there")
    try:
        return CheckpointRef(adapter_digest=store_adapter(folder, settings))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / ADAPTER_FILES[0]} can't be read: {error}") from error


def adapter_folder(checkpoint: CheckpointRef, settings: Settings) -> Path:
    """Folder of a checkpoint's adapter, verified against its digest.

    Raises:
        NotFoundError: it isn't there, or isn't what was stored.
    """
    folder = settings.adapter(checkpoint.adapter_digest)
    if not folder.is_dir():
        raise NotFoundError(f"the adapter {checkpoint.adapter_digest} is not in {settings.root}: train again")
    if adapter_digest(folder) != checkpoint.adapter_digest:
        raise NotFoundError(f"the adapter in {folder} was changed: remove the folder and train again")
    return folder
