"""Following a promotion: the registry's aliases are watched, and what they point to answers as soon as it can."""

import asyncio
import logging
from contextlib import suppress
from typing import Literal

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.serve.load import base_source, version_source
from medgrpo.serve.versions import Versions
from medgrpo.settings import Settings
from medgrpo.types import ModelVersionRef

log = logging.getLogger(__name__)

POLL_S = 5.0
"""How long a promotion may go unseen, in seconds."""
Followed = Literal["champion", "challenger"]


class Follower:
    """Makes the versions that answer be those that the registry names. What fails changes nothing, and says why."""

    def __init__(self, config: Config, settings: Settings, versions: Versions, poll_s: float = POLL_S) -> None:
        """Begin with `start`, then `run`.

        Args:
            config: names the registered model, and the base model that answers until a version is promoted.
            settings: where the registry is.
            versions: what answers.
            poll_s: how often the aliases are read, in seconds.
        """
        self._config = config
        self._settings = settings
        self._versions = versions
        self._poll_s = poll_s
        self._nudged = asyncio.Event()
        self._refused: dict[Followed, tuple[int, str]] = {}
        self.polls = 0
        """How often the aliases were read."""

    async def start(self) -> None:
        """Load the champion, or the base model where nothing is promoted yet.

        Raises:
            MedgrpoError: it can't be loaded, or MLflow doesn't answer.
        """
        champion = await self._pointed_to("champion")
        if champion is None:
            log.warning("no champion of %s yet: the base model answers", self._config.model_name)
            source = await asyncio.to_thread(base_source, self._config, self._settings)
        else:
            source = await asyncio.to_thread(version_source, champion, self._settings)
        await self._versions.switch("champion", source)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self._poll_s)
            self._nudged.clear()

    def nudge(self) -> None:
        """Look at once, as after a promotion that this process was told of. Call it in the event loop."""
        self._nudged.set()

    async def look(self) -> None:
        """Read the aliases once, and follow what has moved."""
        self.polls += 1
        roles: list[Followed] = ["champion", "challenger"] if self._versions.wants_challenger else ["champion"]
        problems = [await self._follow(role) for role in roles]
        self._say("; ".join(filter(None, problems)))

    async def _follow(self, role: Followed) -> str:
        """Why a role isn't followed; empty: it is."""
        try:
            version = await self._pointed_to(role)
        except Exception as error:  # a registry's own failures, of many libraries: asked again at the next look
            return self._told(f"the registry doesn't answer, so promotions aren't seen: {error}")
        if version is None:
            if role == "challenger":
                await self._versions.switch(role, None)
            return ""
        refused, why = self._refused.get(role, (0, ""))
        if refused == version.version:
            return why
        self._refused.pop(role, None)
        if self._is_loaded(role, version):
            return ""
        return await self._take(role, version)

    async def _take(self, role: Followed, version: ModelVersionRef) -> str:
        """Load a version and let it answer; why it can't, and then it isn't tried again until the alias moves."""
        try:
            source = await asyncio.to_thread(version_source, version, self._settings)
            await self._versions.switch(role, source)
        except Exception as error:  # whatever a damaged version makes a library raise: the old one answers on
            why = self._told(f"{version.name}/{version.version} can't become {role} here: {error}")
            try:
                await self._pointed_to(role)
            except Exception:  # the registry went away meanwhile: that isn't the version's fault
                return why
            self._refused[role] = (version.version, why)
            return why
        return ""

    def _is_loaded(self, role: Followed, version: ModelVersionRef) -> bool:
        served = self._versions.served().get(role)
        if served is None:
            return False
        return (served.version, served.adapter_digest) == (f"{version.name}/{version.version}", version.adapter_digest)

    async def _pointed_to(self, role: Followed) -> ModelVersionRef | None:
        return await asyncio.to_thread(registry.find, self._config.model_name, role, self._settings)

    def _told(self, why: str) -> str:
        """One line, without the registry's password."""
        return " ".join(self._settings.without_secrets(why).split())

    def _say(self, problem: str) -> None:
        """Log a problem once, not at every look."""
        if problem and problem != self._versions.problem:
            log.error("%s; what answered before answers on", problem)
        if not problem and self._versions.problem:
            log.info("promotions are followed again")
        self._versions.problem = problem
