"""Versions that are loaded once and never change: what is served where no registry is followed."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from medgrpo.config import ServeConfig
from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.engine import Engine, Loaded, Served, Source
from medgrpo.serve.stage import Stage
from medgrpo.settings import Settings


class FixedVersions:
    """Loaded versions by their role; the first answers whoever names none."""

    swaps = 0
    problem = ""

    def __init__(self, loaded: Mapping[str, Loaded]) -> None:
        self._loaded = dict(loaded)

    @contextmanager
    def choose(self, asked: str | None) -> Iterator[Loaded]:
        """The version that answers a request.

        Raises:
            LookupError: it isn't loaded.
        """
        yield self._find(asked)

    def served(self) -> dict[str, Served]:
        """Role → what is loaded."""
        return {role: loaded.served for role, loaded in self._loaded.items()}

    def _find(self, asked: str | None) -> Loaded:
        if asked is None:
            return next(iter(self._loaded.values()))
        for role, loaded in self._loaded.items():
            if asked in (role, loaded.served.version, loaded.served.name):
                return loaded
        raise LookupError(asked)


def starting_fixed(
    sources: Mapping[str, Source], engine: Callable[[], Engine], limits: ServeConfig, settings: Settings
) -> Callable[[], Awaitable[Stage]]:
    """What makes a stage of some sources in the server's event loop.

    Args:
        engine: makes the engine there.
    """

    async def start() -> Stage:
        made = engine()
        try:
            loaded = {role: await made.load(source) for role, source in sources.items()}
        except BaseException:
            await made.close()
            raise
        return Stage(made, FixedVersions(loaded), limits, settings, ApiKeys.of(settings), made.close)

    return start
