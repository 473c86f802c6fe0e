"""What the HTTP interface is put before: an engine, the versions in its memory, and what it may be asked for."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from medgrpo.config import ServeConfig
from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.engine import Engine, Loaded, Served
from medgrpo.settings import Settings


class VersionsInMemory(Protocol):
    """The versions that answer now, each under its role."""

    @property
    def swaps(self) -> int:
        """How often another version took over."""

    @property
    def problem(self) -> str:
        """Why the newest promotion isn't followed; empty: it is."""

    def choose(self, asked: str | None) -> AbstractContextManager[Loaded]:
        """The version that answers a request, kept in memory while the context lasts.

        Args:
            asked: a version, a role or the registered model's name; None: whatever is to answer.

        Raises:
            LookupError: it isn't loaded.
        """

    def served(self) -> dict[str, Served]:
        """Role → what is loaded."""


async def nothing() -> None:
    """Nothing is to be ended."""


def fixed() -> None:
    """What is served for good follows nothing."""


@dataclass(frozen=True)
class Stage:
    """One served stage."""

    engine: Engine
    versions: VersionsInMemory
    limits: ServeConfig
    settings: Settings
    keys: ApiKeys
    close: Callable[[], Awaitable[None]] = nothing
    """Ends what was started with it, when the server ends."""
    nudge: Callable[[], None] = fixed
    """Has the registry looked at now, not at the next poll."""
