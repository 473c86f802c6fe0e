"""Reward: a function of the user's own, named by an import string."""

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from medgrpo.errors import ConfigError
from medgrpo.fingerprint import file_digest
from medgrpo.rewards.reward import Context, Reward
from medgrpo.types import Rollout


class CustomReward(Reward):
    """What the user's own function gives: `def brevity(rollouts: Sequence[Rollout]) -> list[float]`, or `async def`.

    It gets all completions of a step at once and returns one number in [0, 1] for each, in order. It is never given
    a completion twice, so a score may depend on the rollout alone: not on its neighbours, the step or the time.
    """

    kind: Literal["custom"] = "custom"
    """Chooses this reward."""
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Where it is: `module:function`, of the working folder or installed."""
    promises_full_marks: bool = False
    """Whether every gold completion must get 1 in the audit, as a reward for right answers should give."""

    @property
    def label(self) -> str:
        """The function's name."""
        return self.function.rpartition(":")[2]

    @property
    def _module(self) -> str:
        return self.function.partition(":")[0]

    @property
    def is_async(self) -> bool:
        """Whether the function is an `async def`."""
        return inspect.iscoroutinefunction(self._load())

    def prepared(self, context: Context) -> Self:
        """The same, once the function is found and takes one argument.

        Raises:
            ConfigError: it isn't there, isn't a function, or takes other arguments.
        """
        try:
            inspect.signature(self._load()).bind([])
        except TypeError as error:
            raise ConfigError(
                f"rewards.custom.function {self.function!r} must take one argument, the rollouts: {error}"
            ) from error
        return self

    def score(self, rollouts: Sequence[Rollout]) -> Sequence[float] | Awaitable[Sequence[float]]:
        """Score a batch."""
        scores: Sequence[float] | Awaitable[Sequence[float]] = self._load()(rollouts)
        return scores

    def full_marks(self, rollout: Rollout) -> float:
        """1 where the config says that the function promises it."""
        return float(self.promises_full_marks)

    def source(self) -> str:
        """Digest of the module that the config names: when it changes, a training is another one.

        Raises:
            ConfigError: it has no source to tell a change by.
        """
        self._load()
        path = getattr(sys.modules[self._module], "__file__", None)
        if path is None:
            raise ConfigError(f"rewards.custom.function {self.function!r}: {self._module} has no file of its own")
        return file_digest(Path(path))

    def _load(self) -> Callable[[Sequence[Rollout]], Any]:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # last: a file named like a library must not hide it
        try:
            found = getattr(importlib.import_module(self._module), self.label)
        except Exception as error:  # importing runs the user's code
            raise ConfigError(
                f"rewards.custom.function {self.function!r} can't be imported from {here} or what is installed: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not callable(found):
            raise ConfigError(f"rewards.custom.function {self.function!r} is a {type(found).__name__}, not a function")
        return found  # type: ignore[no-any-return]
