"""A served stage for tests: an engine that says what it is told to, real versions of it, a real server in a thread."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from socket import socket
from threading import Event, Thread

import httpx
import uvicorn

from medgrpo.base_models import resolve
from medgrpo.config import Config, ServeConfig
from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.app import build_app
from medgrpo.serve.engine import Decoding, Engine, Loaded, Piece, Served, Source
from medgrpo.serve.guard import Doorman
from medgrpo.serve.server import Server, listen
from medgrpo.serve.stage import Stage, VersionsInMemory, nothing
from medgrpo.settings import Settings

LONGEST = 24
USER = [{"role": "user", "content": "A patient has a fever of 39.4 C. What now?"}]
STRICT = "<reasoning>it is so indeed</reasoning>\n<answer>B</answer>"


def served(version: str = "medgrpo-tiny/3") -> Served:
    return Served(version, "run-1", "digest-1", "adapter-1", "Be exact.", (("1 + 1?", "2"),), "tiny")


@dataclass
class Saying:
    """A version that says a fixed text word by word; with `hold`, it waits for `go_on` before the word of that number."""

    served: Served = field(default_factory=served)
    said: str = STRICT
    hold: int | None = None
    failure: Exception | None = None
    chats: list[list[dict[str, str]]] = field(default_factory=list)
    decodings: list[Decoding] = field(default_factory=list)
    holding: Event = field(default_factory=Event)
    go_on: Event = field(default_factory=Event)
    cancelled: Event = field(default_factory=Event)

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        self.chats.append(chat)
        self.decodings.append(decoding)
        words = self.said.split(" ")
        try:
            for number, word in enumerate(words):
                if number == self.hold:
                    self.holding.set()
                    while not self.go_on.is_set():
                        await asyncio.sleep(0.01)
                    if self.failure:
                        raise self.failure
                last = number == len(words) - 1
                yield Piece(word if last else f"{word} ", 7, number + 1, "stop" if last else None)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


class Speaking:
    """An engine whose versions are made elsewhere."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.restarts = 0

    async def load(self, source: Source) -> Loaded:
        raise NotImplementedError

    async def unload(self, loaded: Loaded) -> None: ...

    def fault(self) -> str:
        return self.broken

    async def close(self) -> None: ...


class Fixed:
    """Versions in memory that nothing swaps."""

    def __init__(self, **roles: Loaded) -> None:
        self.roles = roles
        self.swaps = 0
        self.problem = ""
        self.held = 0

    @contextmanager
    def choose(self, asked: str | None) -> Iterator[Loaded]:
        champion = next(iter(self.roles.values()), None)
        names = {loaded.served.version: loaded for loaded in self.roles.values()} | self.roles
        if champion is not None:
            names[champion.served.name] = champion
        loaded = champion if asked is None else names.get(asked)
        if loaded is None:
            raise LookupError(asked)
        self.held += 1
        try:
            yield loaded
        finally:
            self.held -= 1

    def served(self) -> dict[str, Served]:
        return {role: loaded.served for role, loaded in self.roles.items()}


def stage(
    home: Path,
    versions: VersionsInMemory,
    engine: Engine | None = None,
    limits: ServeConfig | None = None,
    key: str = "",
    close: Callable[[], Awaitable[None]] = nothing,
    **settings: object,
) -> Stage:
    place = Settings(home=home, **settings)  # type: ignore[arg-type]
    limits = limits or ServeConfig(max_completion_tokens=LONGEST)
    return Stage(engine or Speaking(), versions, limits, place, ApiKeys(place.key_file, key), close)


@contextmanager
def listening(start: Stage | Callable[[], Awaitable[Stage]]) -> Iterator[tuple[str, Server]]:
    """A real server in a thread: its URL, and itself. What `start` makes belongs to the server's event loop."""
    made: SimpleQueue[Server | BaseException] = SimpleQueue()

    async def run(listener: socket) -> None:
        doorman = Doorman()
        try:
            app = build_app(start if isinstance(start, Stage) else await start(), doorman)
        except BaseException as error:
            made.put(error)
            raise
        server = Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=5), doorman)
        made.put(server)
        await server.serve([listener])

    with listen("127.0.0.1", 0) as listener:
        thread = Thread(target=lambda: asyncio.run(run(listener)))
        thread.start()
        server = made.get()
        if isinstance(server, BaseException):
            thread.join()
            raise server
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def asking(stage: Stage | Callable[[], Awaitable[Stage]]) -> Iterator[httpx.Client]:
    """A client of a real server."""
    with listening(stage) as (url, _), httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def tiny_sources(config: Config, home: Path) -> tuple[Source, Source]:
    """What an engine loads: the tiny base with a random adapter that changes what it says, and the base alone."""
    import torch
    from peft import LoraConfig, get_peft_model

    from medgrpo.policy import load_base

    base = resolve(config.policy.base, Settings(home=home))
    torch.manual_seed(7)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(load_base(base.folder).model, lora).save_pretrained(str(home / "adapter"))
    prompt = {"system_prompt": config.prompt.system, "demonstrations": config.prompt.shown}
    champion, alone = replace(served(), **prompt), replace(served("base"), run_id="", dataset_digest="", **prompt)
    return Source(champion, base, home / "adapter", config.policy), Source(alone, base, None, config.policy)


def embedded(config: Config, home: Path) -> Callable[[], Awaitable[Stage]]:
    """Starts a stage of the embedded engine, with both tiny versions."""
    from medgrpo.serve.embedded import EmbeddedEngine

    async def start() -> Stage:
        engine = EmbeddedEngine()
        champion, alone = tiny_sources(config, home)
        roles = {"champion": await engine.load(champion), "base": await engine.load(alone)}
        return stage(home, Fixed(**roles), engine, close=engine.close)

    return start


def served_answer(config: Config, settings: Settings, question: str, version: int | None = None) -> tuple[Served, str]:
    """What `medgrpo serve` would answer greedily, and which version that is."""
    from medgrpo.serve.engines import starting

    async def ask() -> tuple[Served, str]:
        stage = await starting(config, settings, version=version)()
        try:
            with stage.versions.choose(None) as loaded:
                chat = loaded.served.chat([{"role": "user", "content": question}])
                decoding = Decoding(config.evaluation.max_completion_tokens)
                return loaded.served, "".join([piece.text async for piece in loaded.stream(chat, decoding)])
        finally:
            await stage.close()

    return asyncio.run(ask())
