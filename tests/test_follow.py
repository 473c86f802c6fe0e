"""Following a promotion, with a real registry: the new champion answers, and nothing that is broken ever does."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import follow_driver as driver
import pytest
from serve_driver import asking, wait_until

from medgrpo import registry, tracking
from medgrpo.config import Config
from medgrpo.errors import ServeError
from medgrpo.policy import adapter_digest
from medgrpo.registry import Aliases
from medgrpo.serve.embedded import EmbeddedEngine
from medgrpo.serve.engine import Decoding, Loaded, Piece
from medgrpo.serve.engines import starting
from medgrpo.serve.follow import Follower
from medgrpo.serve.versions import UnknownVersion, Versions
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, ModelVersionRef

Test = Callable[[Follower, Versions], Awaitable[None]]


@pytest.fixture
def own(config: Config, request: pytest.FixtureRequest) -> Config:
    return driver.named(config, request.node.name)


@pytest.fixture
def made(own: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> list[ModelVersionRef]:
    """Two versions that load."""
    return [driver.register(own, base, dataset, seed, settings) for seed in (1, 2)]


def promote(config: Config, champion: int, settings: Settings) -> None:
    registry.set_aliases(config.model_name, Aliases(champion=champion), settings)


def follow(config: Config, settings: Settings, test: Test, **options: Any) -> None:
    """A test in an event loop, with what the registry says loaded."""

    async def whole() -> None:
        versions = Versions(EmbeddedEngine(), name=config.model_name, **options)
        follower = Follower(config, settings, versions)
        try:
            await follower.start()
            await asyncio.wait_for(test(follower, versions), 60)
        finally:
            await versions.close()

    asyncio.run(whole())


def champion(versions: Versions) -> str:
    with versions.choose(None) as loaded:
        return loaded.served.version


async def says(loaded: Loaded) -> str:
    chat = loaded.served.chat([{"role": "user", "content": "What now?"}])
    return "".join([piece.text async for piece in loaded.stream(chat, Decoding(12))])


def test_the_base_answers_until_there_is_a_champion(
    own: Config, made: list[ModelVersionRef], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(follower: Follower, versions: Versions) -> None:
        assert champion(versions) == "base" and "no champion" in caplog.text
        promote(own, 1, settings)
        await follower.look()
        assert champion(versions) == f"{own.model_name}/1" and versions.problem == ""
        assert {role: served.version for role, served in versions.served().items()} == {
            "champion": f"{own.model_name}/1",
            "previous": "base",
        }

    follow(own, settings, test)


def test_a_nudge_over_http_has_the_registry_looked_at_now(
    own: Config, made: list[ModelVersionRef], settings: Settings
) -> None:
    with asking(starting(own, settings, poll_s=3600)) as client:

        def answering() -> str:
            return str(client.get("/health").json()["version"])

        assert answering() == "base"
        promote(own, 1, settings)
        assert client.post("/v1/versions/refresh", json={"subject": "medgrpo.promoted"}).status_code == 202
        wait_until(lambda: answering() == f"{own.model_name}/1")


def test_a_request_keeps_the_version_that_it_began_with(
    own: Config, base: BaseRef, made: list[ModelVersionRef], settings: Settings
) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        with versions.choose(None) as old:
            chat = old.served.chat([{"role": "user", "content": "What now?"}])
            (expected,) = driver.greedy(base, settings.adapter(made[0].adapter_digest), [chat], 40)
            stream = old.stream(chat, Decoding(40))
            first: Piece = await anext(stream)
            promote(own, 2, settings)
            await follower.look()
            assert champion(versions) == f"{own.model_name}/2"
            await versions.switch("previous", None)
            rest = [piece.text async for piece in stream]
            assert first.text + "".join(rest) == expected
        await versions.close()
        with pytest.raises(ServeError, match="closed"):
            await says(old)

    follow(own, settings, test)


def test_going_back_loads_nothing(own: Config, made: list[ModelVersionRef], settings: Settings) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        with versions.choose("champion") as first:
            pass
        promote(own, 2, settings)
        await follower.look()
        promote(own, 1, settings)
        await follower.look()
        with versions.choose(own.model_name) as again:
            assert again is first
        with versions.choose("previous") as previous:
            assert previous.served.version == f"{own.model_name}/2"
        assert versions.swaps == 2

    follow(own, settings, test)


def _corrupt(version: ModelVersionRef, settings: Settings) -> None:
    _stored(version, settings, "adapter_model.safetensors").write_bytes(b"other weights")


def _missing(version: ModelVersionRef, settings: Settings) -> None:
    _stored(version, settings, "adapter_model.safetensors").unlink()


def _stored(version: ModelVersionRef, settings: Settings, name: str) -> Path:
    """Where MLflow keeps a file of a version."""
    shutil.rmtree(settings.adapter(version.adapter_digest))
    uri = tracking.connect(settings).get_model_version_download_uri(version.name, str(version.version))
    return Path(uri.removeprefix("file://")) / name


@pytest.mark.parametrize(("damage", "reason"), [(_corrupt, "digest"), (_missing, "adapter_model.safetensors")])
def test_a_damaged_version_never_answers(
    own: Config, made: list[ModelVersionRef], settings: Settings, damage: Any, reason: str
) -> None:
    promote(own, 1, settings)
    damage(made[1], settings)

    async def test(follower: Follower, versions: Versions) -> None:
        promote(own, 2, settings)
        await follower.look()
        assert f"{own.model_name}/2 can't become champion" in versions.problem and reason in versions.problem
        with versions.choose(None) as loaded:
            assert loaded.served.version == f"{own.model_name}/1" and await says(loaded)
        promote(own, 1, settings)
        await follower.look()
        assert versions.problem == ""

    follow(own, settings, test)


def test_an_adapter_that_does_not_fit_is_tried_once(
    own: Config,
    base: BaseRef,
    dataset: DatasetRef,
    made: list[ModelVersionRef],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(own, 1, settings)
    folder = settings.root / "made" / "no-weights"
    shutil.copytree(settings.adapter(made[0].adapter_digest), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"no weights at all")
    broken = folder.rename(settings.adapter(adapter_digest(folder)))
    run = tracking.open_run(own, dataset, "broken", settings, {})
    checkpoint = CheckpointRef(train_key=run.key, step=9, adapter_digest=broken.name)
    version = registry.register(own, base, dataset, run, checkpoint, settings)
    tries: list[str] = []
    load = EmbeddedEngine.load

    async def counted(self: EmbeddedEngine, source: Any) -> Loaded:
        tries.append(source.served.version)
        return await load(self, source)

    monkeypatch.setattr(EmbeddedEngine, "load", counted)

    async def test(follower: Follower, versions: Versions) -> None:
        promote(own, version.version, settings)
        for _ in range(3):
            await follower.look()
            assert "can't be loaded" in versions.problem
        assert tries == [f"{own.model_name}/1", f"{own.model_name}/{version.version}"]
        assert champion(versions) == f"{own.model_name}/1"

    follow(own, settings, test)


def test_another_base_than_it_was_trained_on_is_refused(
    own: Config, base: BaseRef, dataset: DatasetRef, made: list[ModelVersionRef], settings: Settings
) -> None:
    promote(own, 1, settings)
    other = base.model_copy(update={"digest": "0" * 64})
    version = driver.register(own, other, dataset, 3, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        promote(own, version.version, settings)
        await follower.look()
        assert "was trained on" in versions.problem and "00000000" in versions.problem
        assert champion(versions) == f"{own.model_name}/1"

    follow(own, settings, test)


def test_an_empty_completion_is_no_champion(
    own: Config, made: list[ModelVersionRef], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        monkeypatch.setattr("medgrpo.serve.embedded.EmbeddedVersion._decode", lambda *_: " ")
        promote(own, 2, settings)
        await follower.look()
        assert "empty completion" in versions.problem
        assert champion(versions) == f"{own.model_name}/1"

    follow(own, settings, test)


def test_a_silent_registry_is_asked_again(own: Config, made: list[ModelVersionRef], settings: Settings) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        reachable = follower._settings
        follower._settings = Settings(home=settings.home, tracking_uri="mysql://user:secret@nowhere/none")
        await follower.look()
        assert "doesn't answer" in versions.problem and "secret" not in versions.problem
        with versions.choose(None) as loaded:
            assert await says(loaded)
        promote(own, 2, settings)
        follower._settings = reachable
        await follower.look()
        assert versions.problem == "" and champion(versions) == f"{own.model_name}/2"

    follow(own, settings, test)


def test_a_nudge_is_followed_at_once(own: Config, made: list[ModelVersionRef], settings: Settings) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        follower._poll_s = 3600
        following = asyncio.create_task(follower.run())
        while not follower.polls:
            await asyncio.sleep(0.01)
        promote(own, 2, settings)
        follower.nudge()
        while champion(versions) != f"{own.model_name}/2":
            await asyncio.sleep(0.01)
        following.cancel()

    follow(own, settings, test)


def test_the_challenger_answers_its_share(own: Config, made: list[ModelVersionRef], settings: Settings) -> None:
    promote(own, 1, settings)

    async def test(follower: Follower, versions: Versions) -> None:
        await follower.look()
        got = [champion(versions) for _ in range(400)]
        assert 60 < got.count(f"{own.model_name}/2") < 140
        with versions.choose("challenger") as named, versions.choose(f"{own.model_name}/2") as numbered:
            assert named is numbered
        with pytest.raises(UnknownVersion), versions.choose(f"{own.model_name}/3"):
            pass

    follow(own, settings, test, challenger_share=0.25)
