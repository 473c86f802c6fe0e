"""Following the registry: what is champion there answers here, as soon as it is loaded and has answered once."""

import asyncio
import logging
from contextlib import suppress

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.errors import MedgrpoError
from medgrpo.serve.load import base_source, version_source
from medgrpo.serve.versions import Versions
from medgrpo.settings import Settings
from medgrpo.types import ModelVersionRef

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Seconds between two looks at the aliases. Polling is the truth; a nudge only makes the next look come at once."""


class Follower:
    """Keeps versions in memory as the registry's aliases say. A version that failed waits until its alias has moved."""

    def __init__(
        self,
        config: Config,
        versions: Versions,
        settings: Settings,
        poll_s: float = POLL_S,
    ) -> None:
        """Look at nothing yet."""
        self._config, self._versions, self._settings = config, versions, settings
        self._roles: tuple[registry.Alias, ...] = (
            ("champion", "challenger") if versions.wants_challenger else ("champion",)
        )
        self._poll_s = poll_s
        self._followed: dict[registry.Alias, ModelVersionRef | None] = {}
        self._failed: dict[registry.Alias, tuple[ModelVersionRef | None, str]] = {}
        self._nudged = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._is_away = False

    def start(self) -> None:
        """Follow from now on, in the background."""
        self._following = asyncio.create_task(self._follow())

    def nudge(self) -> None:
        """Look at once."""
        self._nudged.set()

    async def stop(self) -> None:
        """Follow no more."""
        if self._following:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def look(self) -> None:
        """Look at the aliases once, and follow those that have moved."""
        try:
            found = {role: await asyncio.to_thread(self._find, role) for role in self._roles}
        except Exception as error:  # whatever stands between us and the registry: it is asked again at the next look
            if not self._is_away:
                log.warning("can't ask the registry, going on with what is loaded: %s", _first_line(error))
            self._is_away = True
            self._tell(f"the registry can't be asked: {_first_line(error)}")
            return
        self._is_away = False
        for role, version in found.items():
            is_followed = role in self._followed and self._followed[role] == version
            if is_followed:
                self._failed.pop(role, None)
            elif role not in self._failed or self._failed[role][0] != version:
                await self._switch(role, version)
        self._tell("; ".join(reason for _, reason in self._failed.values()))

    async def load_base(self) -> None:
        """Load the base model: people compare with it, and it answers for as long as nothing is promoted.

        Raises:
            MedgrpoError: it can't be loaded.
        """
        source = await asyncio.to_thread(base_source, self._config, self._settings)
        await self._versions.switch("base", source)
        await self._versions.switch("champion", source)

    async def _follow(self) -> None:
        while True:
            self._nudged.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self._poll_s)
            await self.look()

    async def _switch(self, role: registry.Alias, version: ModelVersionRef | None) -> None:
        """Let a role follow its alias; where that fails the old version goes on, and the reason is kept."""
        try:
            if version is not None:
                source = await asyncio.to_thread(version_source, version, self._settings)
            elif role == "champion":
                log.warning("no champion of %s: the base model answers", self._config.model_name)
                source = await asyncio.to_thread(base_source, self._config, self._settings)
            else:
                source = None
            await self._versions.switch(role, source)
        except Exception as error:  # the promotion's fault, whatever it is, never ends what answers now
            name = f"{version.name}/{version.version}" if version else "no version"
            reason = f"{name} can't be {role} here: {_first_line(error)}"
            log.warning("%s", reason, exc_info=None if isinstance(error, MedgrpoError) else error)
            self._failed[role] = (version, reason)
            return
        self._followed[role] = version
        self._failed.pop(role, None)

    def _find(self, role: registry.Alias) -> ModelVersionRef | None:
        return registry.find(self._config.model_name, role, self._settings)

    def _tell(self, problem: str) -> None:
        self._versions.problem = problem


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
