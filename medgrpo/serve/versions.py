"""Which versions answer now. A request keeps the one that it began with; a replaced one goes after its last request."""

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from medgrpo.answer import render_question
from medgrpo.data.clinical import generate
from medgrpo.errors import ServeError
from medgrpo.serve.engine import Decoding, Engine, Loaded, Served, Source

log = logging.getLogger(__name__)

Role = Literal["champion", "challenger", "previous", "base"]
ROLES: tuple[Role, ...] = get_args(Role)
CHECK_TOKENS = 16
"""Tokens that a version generates to show that it answers."""


class UnknownVersion(LookupError):
    """No version that is loaded has this name."""


@dataclass(eq=False)
class _Held:
    """A loaded version and how many requests it answers now."""

    loaded: Loaded
    requests: int = 0


class Versions:
    """The versions that are loaded, by their role. Used from one event loop."""

    def __init__(self, engine: Engine, challenger_share: float = 0.0, shadow: bool = False, name: str = "") -> None:
        """Begin with nothing loaded: `switch` to a champion before the first request.

        Args:
            engine: what loads and generates.
            challenger_share: of the requests that name no version, the challenger answers so many, 0 to 1.
            shadow: whether the challenger is to be loaded so that it can answer beside the champion.
            name: the registered model's name: requests may ask for it.
        """
        self.engine = engine
        self.challenger_share = challenger_share
        self.shadow = shadow
        self.name = name
        self.swaps = 0
        """How often another version became the champion."""
        self.problem = ""
        """Why the newest promotion isn't followed; empty: all is well."""
        self._roles: dict[Role, _Held] = {}
        self._switching = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._draw = random.Random().random  # which requests the challenger gets

    @property
    def wants_challenger(self) -> bool:
        """Whether a challenger is to be loaded at all: it costs memory."""
        return self.challenger_share > 0 or self.shadow

    @contextmanager
    def choose(self, asked: str | None = None) -> Iterator[Loaded]:
        """The version that answers a request, held for as long as the context lasts.

        Args:
            asked: a version's name, a role, or the registered model's name; None: whoever's turn it is.

        Raises:
            UnknownVersion: nothing of this name is loaded.
        """
        held = self._find(asked)
        held.requests += 1
        try:
            yield held.loaded
        finally:
            held.requests -= 1
            self._let_go(held)

    def served(self) -> dict[str, Served]:
        """What is loaded, by role."""
        return {role: self._roles[role].loaded.served for role in ROLES if role in self._roles}

    async def switch(self, role: Role, source: Source | None) -> None:
        """Load a version beside the others, see that it answers, then let it take a role in one step.

        The champion before it stays loaded as `previous`: going back to it loads nothing.

        Args:
            source: None: nobody has the role any more.

        Raises:
            ServeError: it can't be loaded or doesn't answer; nothing has changed.
        """
        async with self._switching:
            held = None if source is None else await self._held(source)
            before = self._roles.get(role)
            if held is before:
                return
            replaced = [before, self._roles.get("previous") if role == "champion" else None]
            self._assign(role, held)
            for old in filter(None, replaced):
                self._let_go(old)

    async def close(self) -> None:
        """Wait until replaced versions are unloaded, then close the engine."""
        while self._leaving:
            await asyncio.wait(self._leaving)
        await self.engine.close()

    def _find(self, asked: str | None) -> _Held:
        champion = self._roles.get("champion")
        if champion is None:
            raise UnknownVersion("no version is loaded yet")
        if asked is None or asked in (self.name, champion.loaded.served.name):
            challenger = self._roles.get("challenger")
            return challenger if challenger and self._draw() < self.challenger_share else champion
        for role, held in self._roles.items():
            if asked in (role, held.loaded.served.version):
                return held
        raise UnknownVersion("no version of this name is loaded")

    async def _held(self, source: Source) -> _Held:
        """The version, loaded if it isn't yet, and seen to answer."""
        for held in self._roles.values():
            if held.loaded.served == source.served:
                return held
        loaded = await self.engine.load(source)
        try:
            await _check(loaded)
        except BaseException:
            await self.engine.unload(loaded)
            raise
        return _Held(loaded)

    def _assign(self, role: Role, held: _Held | None) -> None:
        before = self._roles.pop(role, None)
        if held is None:
            return
        self._roles[role] = held
        if role == "champion" and before is not None:
            self._roles["previous"] = before
            self.swaps += 1
            log.info("%s answers now, %s before", held.loaded.served.version, before.loaded.served.version)

    def _let_go(self, held: _Held) -> None:
        """Unload a version that nobody needs any more."""
        if held.requests or held in self._roles.values():
            return
        leaving = asyncio.get_running_loop().create_task(self._unload(held))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _unload(self, held: _Held) -> None:
        try:
            await self.engine.unload(held.loaded)
        except Exception:  # an engine's own failures: the versions that answer go on
            log.exception("%s could not be unloaded", held.loaded.served.version)


async def _check(loaded: Loaded) -> None:
    """See that a version says something to a built-in question. Whether that is right was measured before.

    Raises:
        ServeError: it doesn't.
    """
    served = loaded.served
    question = {"role": "user", "content": render_question(generate(1, seed=0)[0])}
    text = ""
    async for piece in loaded.stream(served.chat([question]), Decoding(max_tokens=CHECK_TOKENS)):
        text += piece.text
    if not text.strip():
        raise ServeError(f"{served.version} answers a question with an empty completion")
