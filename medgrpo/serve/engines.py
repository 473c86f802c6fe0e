"""Which engine generates, and how a served stage begins with it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.errors import UserError
from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.engine import Engine, Source
from medgrpo.serve.follow import POLL_S, Follower
from medgrpo.serve.load import base_source, version_source
from medgrpo.serve.stage import Stage
from medgrpo.serve.versions import Role, Versions
from medgrpo.settings import Settings

EngineName = Literal["embedded", "vllm"]


def _embedded(_: Settings, url: str) -> Engine:
    from medgrpo.serve.embedded import EmbeddedEngine

    if url:
        raise UserError("--engine-url names another process: the embedded engine runs in this one, leave it out")
    return EmbeddedEngine()


def _vllm(settings: Settings, url: str) -> Engine:
    from medgrpo.serve.vllm import VllmEngine

    return VllmEngine(settings, url)


ENGINES: dict[EngineName, Callable[[Settings, str], Engine]] = {"embedded": _embedded, "vllm": _vllm}
"""Name → what makes it, given the settings and the URL of a server that runs already (empty: none)."""


def starting(
    config: Config,
    settings: Settings,
    engine: EngineName = "embedded",
    engine_url: str = "",
    version: int | None = None,
    poll_s: float = POLL_S,
) -> Callable[[], Awaitable[Stage]]:
    """What makes a stage: with one version, or with the champion, which it follows; the base model beside it.

    Args:
        engine_url: a server that runs already, where the engine is another process.
        version: number of the version to serve for good; None: the champion, the base model until there is one.
        poll_s: how often the registry is asked for a promotion, in seconds.

    Raises (what is returned):
        NotFoundError: no such version.
        BaseModelError: the base model here is not the one that its adapter was trained on.
        ServeError: the engine can't load it.
    """

    async def start() -> Stage:
        versions = Versions(
            ENGINES[engine](settings, engine_url),
            0 if version else settings.challenger_share,
            settings.shadow and not version,
            config.model_name,
        )
        follower = Follower(config, settings, versions, poll_s)
        try:
            if version is None:
                await follower.start()
            else:
                found = await asyncio.to_thread(registry.get, config.model_name, version, settings)
                await versions.switch("champion", await asyncio.to_thread(version_source, found, settings))
            await versions.switch("base", await asyncio.to_thread(base_source, config, settings))
        except BaseException:
            await versions.close()
            raise
        following = None if version else asyncio.create_task(follower.run())

        async def close() -> None:
            if following:
                following.cancel()
                await asyncio.wait([following])
            await versions.close()

        return Stage(versions.engine, versions, config.serve, settings, ApiKeys.of(settings), close, follower.nudge)

    return start


def starting_with(
    sources: Mapping[Role, Source],
    config: Config,
    settings: Settings,
    engine: EngineName = "embedded",
    engine_url: str = "",
) -> Callable[[], Awaitable[Stage]]:
    """What makes a stage that serves some sources for good, each in its role, without a registry."""

    async def start() -> Stage:
        versions = Versions(ENGINES[engine](settings, engine_url))
        try:
            for role, source in sources.items():
                await versions.switch(role, source)
        except BaseException:
            await versions.close()
            raise
        return Stage(versions.engine, versions, config.serve, settings, ApiKeys.of(settings), versions.close)

    return start
