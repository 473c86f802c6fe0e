"""The versions that answer now, each under its role. A request keeps the version that it began with."""

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from medgrpo.errors import ServeError
from medgrpo.serve.engine import Decoding, Engine, Loaded, Served, Source

log = logging.getLogger(__name__)

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
GOLDEN = "Serum potassium is 2.9 mmol/L (reference range 3.5-5.3). Is it low, normal or high?"
"""What a version is asked before it takes over."""
GOLDEN_TOKENS = 8


class UnknownVersion(LookupError):
    """Nothing is loaded under this name."""


class Versions:
    """What is loaded in an engine. Used from one event loop.

    Attributes:
        swaps: how often another version took over a role.
        problem: why the newest promotion isn't followed; empty: it is.
    """

    def __init__(self, engine: Engine, challenger_share: float = 0.0) -> None:
        """Start with nothing loaded.

        Args:
            challenger_share: share of the requests that ask for no version which the challenger answers.
        """
        self.swaps = 0
        self.problem = ""
        self._engine = engine
        self._share = challenger_share
        self._roles: dict[str, Loaded] = {}
        self._running: dict[int, int] = {}
        self._retired: dict[int, Loaded] = {}
        self._unloading: set[asyncio.Task[None]] = set()

    @contextmanager
    def choose(self, asked: str | None) -> Iterator[Loaded]:
        """The version that answers a request, kept in memory while the context lasts.

        Args:
            asked: a version, a role or the registered model's name; None: whatever is to answer.

        Raises:
            UnknownVersion: it isn't loaded.
        """
        loaded = self._find(asked)
        self._running[id(loaded)] = self._running.get(id(loaded), 0) + 1
        try:
            yield loaded
        finally:
            self._running[id(loaded)] -= 1
            self._let_go(loaded)

    def served(self) -> dict[str, Served]:
        """Role → what is loaded; first what answers where nothing is asked for."""
        return {role: self._roles[role].served for role in sorted(self._roles, key=_order)}

    async def switch(self, role: str, source: Source | None) -> None:
        """Let another version take over a role: loaded and tried beside the old one, switched to by one assignment.

        The champion that was is kept as `previous`, so that a rollback finds it loaded.

        Args:
            source: None: nothing has the role any more.

        Raises:
            ServeError: it can't be loaded, or says nothing; the old one goes on.
        """
        if source is None:
            self._assign(role, None)
            return
        loaded = self._loaded(source)
        if loaded is None:
            loaded = await self._engine.load(source)
            try:
                await _try_out(loaded)
            except BaseException:
                await self._engine.unload(loaded)
                raise
        if self._roles.get(role) is loaded:
            return
        if role == CHAMPION and (old := self._roles.get(CHAMPION)) is not None:
            self._assign(PREVIOUS, old)
        self._assign(role, loaded)
        self.swaps += 1
        log.info("%s is %s now", loaded.served.version, role)

    async def close(self) -> None:
        """Wait for versions that are being unloaded; the engine forgets the rest."""
        await asyncio.gather(*self._unloading, return_exceptions=True)

    def _find(self, asked: str | None) -> Loaded:
        champion = self._roles.get(CHAMPION) or self._roles.get("base")
        names = {loaded.served.version: loaded for loaded in self._roles.values()} | self._roles
        if champion is not None and asked in (None, champion.served.name, CHAMPION):
            challenger = self._roles.get(CHALLENGER)
            is_drawn = asked != CHAMPION and challenger is not None and random.random() < self._share
            return challenger if is_drawn and challenger is not None else champion
        if asked is None or asked not in names:
            raise UnknownVersion(asked)
        return names[asked]

    def _loaded(self, source: Source) -> Loaded | None:
        """The version where it is loaded already, also if it waits for its last request."""
        all_loaded = [*self._roles.values(), *self._retired.values()]
        return next((one for one in all_loaded if one.served == source.served), None)

    def _assign(self, role: str, loaded: Loaded | None) -> None:
        old = self._roles.pop(role, None)
        if loaded is not None:
            self._roles[role] = loaded
            self._retired.pop(id(loaded), None)
        if old is not None and old not in self._roles.values():
            self._retired[id(old)] = old
            self._let_go(old)

    def _let_go(self, loaded: Loaded) -> None:
        """Unload a version that has no role any more, once its last request has ended."""
        if id(loaded) in self._retired and not self._running.get(id(loaded)):
            del self._retired[id(loaded)]
            self._running.pop(id(loaded), None)
            task = asyncio.get_running_loop().create_task(self._engine.unload(loaded))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)


def _order(role: str) -> int:
    return [CHAMPION, CHALLENGER, PREVIOUS, "base"].index(role)


async def _try_out(loaded: Loaded) -> None:
    """Ask a version one question.

    Raises:
        ServeError: it says nothing.
    """
    chat = loaded.served.chat([{"role": "user", "content": GOLDEN}])
    said = [piece.text async for piece in loaded.stream(chat, Decoding(max_tokens=GOLDEN_TOKENS))]
    if not "".join(said).strip():
        raise ServeError(f"{loaded.served.version} answers a question with nothing")
