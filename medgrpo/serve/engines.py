"""A served stage from a config: which engine generates, what is loaded, and that it follows the registry."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.engine import Engine, Source
from medgrpo.serve.follow import Follower
from medgrpo.serve.load import version_source
from medgrpo.serve.stage import Stage
from medgrpo.serve.versions import Role, Versions
from medgrpo.settings import Settings

EngineName = Literal["embedded", "vllm"]


def _embedded(_settings: Settings, _url: str) -> Engine:
    from medgrpo.serve.embedded import EmbeddedEngine

    return EmbeddedEngine()


def _vllm(settings: Settings, url: str) -> Engine:
    from medgrpo.serve.vllm import VllmEngine

    return VllmEngine(settings, url)


BUILDERS: dict[EngineName, Callable[[Settings, str], Engine]] = {"embedded": _embedded, "vllm": _vllm}


def starting(
    config: Config, settings: Settings, engine: EngineName = "embedded", url: str = "", version: int | None = None
) -> Callable[[], Awaitable[Stage]]:
    """What starts the stage of a config in the server's event loop: base and champion loaded, promotions followed.

    Args:
        url: a running server to generate with, for engines that are another process.
        version: serve this one for good, and follow nothing.

    Raises:
        NotFoundError: no such version.
        BaseModelError: the base model isn't here.
    """
    pinned = version_source(registry.get(config.model_name, version, settings), settings) if version else None

    async def start() -> Stage:
        made = BUILDERS[engine](settings, url)
        versions = Versions(made, settings.challenger_share, settings.shadow, config.model_name)
        follower = Follower(config, versions, settings)
        await follower.load_base()
        if pinned:
            await versions.switch("champion", pinned)
        else:
            await follower.look()
            follower.start()

        async def close() -> None:
            await follower.stop()
            await versions.close()

        return Stage(made, versions, config.serve, settings, ApiKeys.of(settings), close)

    return start


def starting_with(
    sources: Mapping[Role, Source],
    config: Config,
    settings: Settings,
    engine: EngineName = "embedded",
    url: str = "",
) -> Callable[[], Awaitable[Stage]]:
    """What starts a stage that serves some sources for good, each in its role, without a registry."""

    async def start() -> Stage:
        made = BUILDERS[engine](settings, url)
        versions = Versions(made)
        try:
            for role, source in sources.items():
                await versions.switch(role, source)
        except BaseException:
            await made.close()
            raise
        return Stage(made, versions, config.serve, settings, ApiKeys.of(settings), versions.close)

    return start
