"""The embedded engine: token for token what evaluation gets, whatever is generated beside it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import follow_driver as driver
import pytest

from medgrpo.config import Config
from medgrpo.errors import ServeError
from medgrpo.serve.embedded import BATCH_TOKENS, EmbeddedEngine, EmbeddedVersion
from medgrpo.serve.engine import Decoding, Loaded, Piece, RequestRefused, Source
from medgrpo.serve.load import base_source
from medgrpo.serve.text import GrowingText
from medgrpo.settings import Settings
from medgrpo.types import BaseRef

QUESTIONS = [
    f"Serum sodium is {value} mmol/L. Is it low, normal or high? " * (value % 4 + 1) for value in range(120, 132)
]
LONGEST = 24


@pytest.fixture(scope="module")
def adapter(base: BaseRef, settings: Settings) -> Path:
    return driver.adapter(base, 7, settings)


@pytest.fixture(scope="module")
def source(config: Config, base: BaseRef, adapter: Path, settings: Settings) -> Source:
    alone = base_source(config, settings)
    served = replace(alone.served, version="tiny/1", adapter_digest=adapter.name)
    return replace(alone, served=served, adapter=adapter)


def run(source: Source, test: Callable[[EmbeddedEngine, EmbeddedVersion], Awaitable[None]]) -> None:
    """A test in an event loop, with the version loaded."""

    async def whole() -> None:
        engine = EmbeddedEngine()
        try:
            loaded = await engine.load(source)
            assert isinstance(loaded, EmbeddedVersion)
            await asyncio.wait_for(test(engine, loaded), 60)
        finally:
            await engine.close()

    asyncio.run(whole())


def chat(loaded: Loaded, question: str) -> list[dict[str, str]]:
    return loaded.served.chat([{"role": "user", "content": question}])


async def pieces(loaded: Loaded, question: str, decoding: Decoding) -> list[Piece]:
    return [piece async for piece in loaded.stream(chat(loaded, question), decoding)]


async def text(loaded: Loaded, question: str, decoding: Decoding) -> str:
    return "".join(piece.text for piece in await pieces(loaded, question, decoding))


@pytest.mark.parametrize("adapted", [True, False])
def test_greedy_is_what_evaluation_gets_however_many_ask_at_once(
    source: Source, base: BaseRef, adapter: Path, adapted: bool
) -> None:
    given = source if adapted else replace(source, adapter=None)

    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        chats = [chat(loaded, question) for question in QUESTIONS]
        expected = driver.greedy(base, adapter if adapted else None, chats, LONGEST)
        answers = await asyncio.gather(*(text(loaded, question, Decoding(LONGEST)) for question in QUESTIONS))
        assert tuple(answers) == expected
        assert await text(loaded, QUESTIONS[0], Decoding(LONGEST)) == expected[0]

    run(given, test)


def test_a_seed_decides_whatever_is_beside_it(source: Source) -> None:
    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        seeded = Decoding(LONGEST, temperature=1.2, top_p=0.95, seed=5)
        alone = await text(loaded, QUESTIONS[0], seeded)
        others = [replace(seeded, seed=number) for number in range(20, 26)]
        beside = await asyncio.gather(*(text(loaded, QUESTIONS[0], decoding) for decoding in [*others, seeded]))
        assert beside[-1] == alone
        assert len(set(beside)) > 4
        free = replace(seeded, seed=None)
        assert await text(loaded, QUESTIONS[0], free) != await text(loaded, QUESTIONS[0], free)
        nearly_greedy = replace(seeded, temperature=1e-9)
        assert await text(loaded, QUESTIONS[0], nearly_greedy) == await text(loaded, QUESTIONS[0], Decoding(LONGEST))

    run(source, test)


def test_the_smallest_top_p_is_greedy(source: Source) -> None:
    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        least = Decoding(LONGEST, temperature=2, top_p=0, seed=1)
        assert await text(loaded, QUESTIONS[0], least) == await text(loaded, QUESTIONS[0], Decoding(LONGEST))

    run(source, test)


def test_a_stop_text_ends_the_completion_before_it(source: Source) -> None:
    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        whole = await text(loaded, QUESTIONS[0], Decoding(LONGEST))
        word = whole[len(whole) // 2 :][:3]
        got = await pieces(loaded, QUESTIONS[0], Decoding(LONGEST, stop=("never said", word)))
        assert "".join(piece.text for piece in got) == whole[: whole.index(word)]
        assert [piece.finish_reason for piece in got] == [None] * (len(got) - 1) + ["stop"]
        cut = await pieces(loaded, QUESTIONS[0], Decoding(3))
        assert (cut[-1].finish_reason, cut[-1].completion_tokens) == ("length", 3)

    run(source, test)


def test_what_does_not_fit_is_refused_before_anything_is_generated(source: Source) -> None:
    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        for question, tokens in (("much " * 3000, 1), ("short", loaded.room)):
            with pytest.raises(RequestRefused, match="context") as refused:
                await text(loaded, question, Decoding(tokens))
            assert refused.value.param == "messages" and "much" not in str(refused.value)
        sizes = {n: len(loaded._policy.prompt_tokens(chat(loaded, "a " * n))) for n in range(50, 1000, 5)}
        words, size = next((n, size) for n, size in sizes.items() if size > loaded.room - 20)
        assert BATCH_TOKENS < size < loaded.room, "it is read in parts"
        last = (await pieces(loaded, "a " * words, Decoding(loaded.room - size)))[-1]
        assert last.prompt_tokens == size and last.completion_tokens <= loaded.room - size

    run(source, test)


def test_a_closed_stream_leaves_the_batch(source: Source) -> None:
    async def test(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        stream = loaded.stream(chat(loaded, QUESTIONS[0]), Decoding(400, temperature=2, seed=1))
        await anext(stream)
        scheduler = loaded._batching.batch_processor.scheduler
        assert len(scheduler.active_requests) == 1
        await stream.aclose()
        while scheduler.active_requests:
            await asyncio.sleep(0.01)
        assert not loaded._batching.output_router.result_handlers

    run(source, test)


def test_a_thread_that_dies_is_started_anew_and_counted(source: Source) -> None:
    async def test(engine: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        before = await text(loaded, QUESTIONS[0], Decoding(LONGEST))

        def explode(*_: object) -> None:
            raise ValueError("weights on fire")

        loaded._batching.batch_processor._generation_step = explode
        with pytest.raises(ServeError, match="failed while it generated"):
            await text(loaded, QUESTIONS[0], Decoding(LONGEST))
        while loaded._batching.is_running():
            await asyncio.sleep(0.01)
        assert (engine.fault(), engine.restarts) == ("", 1)
        assert await text(loaded, QUESTIONS[0], Decoding(LONGEST)) == before
        await engine.unload(loaded)
        assert engine.restarts == 1, "a counter never goes back"

    run(source, test)


def test_what_cannot_be_loaded_says_why(source: Source, tmp_path: Path) -> None:
    async def test() -> None:
        engine = EmbeddedEngine()
        with pytest.raises(ServeError, match="tiny/1 can't be loaded: the base model in"):
            await engine.load(replace(source, base=source.base.model_copy(update={"folder": str(tmp_path)})))
        await engine.close()

    asyncio.run(test())


def sent(texts: list[str], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What is sent as a text grows."""
    growing = GrowingText(lambda tokens: texts[len(tokens) - 1], stop)
    return [growing.take(range(n + 1), n == len(texts) - 1) for n in range(len(texts))], growing.stopped


def test_half_a_character_waits_for_its_other_half() -> None:
    assert sent(["a", "a\ufffd", "aé", "aé!"]) == (["a", "", "é", "!"], False)
    assert sent(["a", "a\ufffd"]) == (["a", "\ufffd"], False), "it never came: what evaluation reads is sent"


def test_what_may_become_a_stop_text_is_held_back() -> None:
    assert sent(["a", "ab", "abc", "abcd"], ("bcx",)) == (["a", "", "", "bcd"], False)
    assert sent(["a", "ab", "abc"], ("bc",)) == (["a", "", ""], True)
    assert sent(["a", "ab"], ("bc",)) == (["a", "b"], False)
    assert sent(["aab", "aabcaa"], ("aa", "b"))[0] == ["", ""], "the first in the text counts"
