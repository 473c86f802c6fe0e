"""The embedded engine on a tiny policy: greedy as in evaluation, seeds, stop texts, cancelling, limits, revival."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from medgrpo.answer import messages, render_question
from medgrpo.config import Config, PolicyConfig
from medgrpo.data.clinical import generate
from medgrpo.errors import ServeError
from medgrpo.evaluation import generate as evaluate
from medgrpo.policy import attach, load_base
from medgrpo.serve.embedded import EmbeddedEngine, EmbeddedVersion
from medgrpo.serve.engine import Decoding, Piece, RequestRefused, Served, Source
from medgrpo.serve.text import HALF, GrowingText
from medgrpo.types import BaseRef

CHAT = [{"role": "user", "content": "Serum sodium is 128 mmol/L (reference range 133-146). Is it low, normal or high?"}]
MAX = 24


@pytest.fixture(scope="module")
def adapter(base: BaseRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    settings = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(load_base(base.folder).model, settings).save_pretrained(str(folder))
    return folder


def source(base: BaseRef, adapter: Path | None, config: Config, version: str = "medgrpo-tiny/1") -> Source:
    served = Served(version, "run", "data", "adapter", config.prompt.system, config.prompt.shown, base.name)
    return Source(served, base, adapter, PolicyConfig(base=config.policy.base))


async def say(loaded: EmbeddedVersion, decoding: Decoding, chat: list[dict[str, str]] = CHAT) -> list[Piece]:
    return [piece async for piece in loaded.stream(chat, decoding)]


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def with_engine(
    base: BaseRef,
    adapter: Path | None,
    config: Config,
    use: Callable[[EmbeddedEngine, EmbeddedVersion], Awaitable[None]],
) -> None:
    """Run a test in an event loop with one version loaded."""

    async def run() -> None:
        engine = EmbeddedEngine()
        try:
            await use(engine, await engine.load(source(base, adapter, config)))
        finally:
            await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize("adapted", [True, False], ids=["adapter", "base"])
def test_greedy_is_what_evaluation_says_whoever_asks_at_the_same_time(
    adapted: bool, base: BaseRef, adapter: Path, config: Config
) -> None:
    policy = load_base(base.folder)
    if adapted:
        policy = attach(policy, adapter)
    examples = generate(20, 3)
    limit = config.evaluation.max_completion_tokens
    expected = evaluate(policy, config, examples, "test")

    async def use(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        chats = [messages(config.prompt.system, config.prompt.shown, render_question(example)) for example in examples]
        found = await asyncio.gather(*(say(loaded, Decoding(limit), chat) for chat in chats))
        assert [text(pieces) for pieces in found] == expected
        assert len(set(expected)) > 1
        for pieces in found:
            assert pieces[-1].finish_reason in ("stop", "length")
            assert all(piece.finish_reason is None for piece in pieces[:-1])
            assert pieces[-1].completion_tokens <= limit

    with_engine(base, adapter if adapted else None, config, use)


def test_seeds_decide_what_is_sampled_whoever_asks_at_the_same_time(
    base: BaseRef, adapter: Path, config: Config
) -> None:
    async def use(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        greedy = text(await say(loaded, Decoding(MAX)))
        sampled = Decoding(MAX, temperature=1.5, seed=7)
        first = text(await say(loaded, sampled))
        others = [Decoding(MAX, temperature=1.5, seed=seed) for seed in (8, 9, -1)]
        together = await asyncio.gather(*(say(loaded, one) for one in [*others, sampled, Decoding(MAX)]))
        assert text(together[3]) == first and text(together[4]) == greedy
        assert len({text(pieces) for pieces in together}) == 5
        assert text(await say(loaded, Decoding(MAX, temperature=1.5, top_p=1e-6, seed=7))) == greedy
        unseeded = Decoding(MAX, temperature=1.5)
        assert text(await say(loaded, unseeded)) != text(await say(loaded, unseeded))

    with_engine(base, adapter, config, use)


def test_a_completion_ends_before_its_stop_text(base: BaseRef, config: Config) -> None:
    async def use(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        whole = text(await say(loaded, Decoding(MAX)))
        word = whole[len(whole) // 2 : len(whole) // 2 + 4]
        pieces = await say(loaded, Decoding(MAX, stop=(word, "never said")))
        assert text(pieces) == whole[: whole.index(word)]
        assert pieces[-1].finish_reason == "stop"
        assert pieces[-1].completion_tokens < MAX

    with_engine(base, None, config, use)


def test_closing_the_stream_cancels_the_generation(base: BaseRef, config: Config) -> None:
    async def use(_: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        stream = loaded.stream(CHAT, Decoding(900))
        await anext(stream)
        await stream.aclose()
        scheduler = loaded._batching.batch_processor.scheduler
        async with asyncio.timeout(20):
            while scheduler.active_requests or scheduler.waiting_requests:
                await asyncio.sleep(0.01)
        assert text(await say(loaded, Decoding(4)))

    with_engine(base, None, config, use)


def test_what_does_not_fit_is_refused_and_harms_nobody(base: BaseRef, config: Config) -> None:
    async def use(engine: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        with pytest.raises(RequestRefused, match="more than the 1024"):
            await say(loaded, Decoding(1000), [{"role": "user", "content": "long " * 400}])
        assert engine.fault() == "" and text(await say(loaded, Decoding(4)))

    with_engine(base, None, config, use)


def test_a_dead_thread_is_told_and_starts_again(base: BaseRef, config: Config) -> None:
    async def use(engine: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        whole = text(await say(loaded, Decoding(MAX)))
        loaded._batching.add_request([10**6], "outside", max_new_tokens=1)
        async with asyncio.timeout(20):
            while not (told := engine.fault()):
                await asyncio.sleep(0.01)
        assert "stopped generating" in told
        assert text(await say(loaded, Decoding(MAX))) == whole
        assert engine.fault() == ""

    with_engine(base, None, config, use)


def test_versions_stand_on_one_base_and_do_not_change_each_other(base: BaseRef, adapter: Path, config: Config) -> None:
    async def use(engine: EmbeddedEngine, alone: EmbeddedVersion) -> None:
        said = text(await say(alone, Decoding(MAX)))
        adapted = await engine.load(source(base, adapter, config, "medgrpo-tiny/2"))
        assert text(await say(alone, Decoding(MAX))) == said != text(await say(adapted, Decoding(MAX)))
        assert len(engine._bases) == 1
        await engine.unload(adapted)
        with pytest.raises(ServeError, match="being closed"):
            await say(adapted, Decoding(MAX))
        assert text(await say(alone, Decoding(MAX))) == said

    with_engine(base, None, config, use)


def test_an_adapter_that_does_not_fit_is_told(base: BaseRef, config: Config, tmp_path: Path) -> None:
    async def use(engine: EmbeddedEngine, loaded: EmbeddedVersion) -> None:
        with pytest.raises(ServeError, match="can't be loaded"):
            await engine.load(source(base, tmp_path, config, "medgrpo-tiny/9"))
        assert engine.fault() == "" and text(await say(loaded, Decoding(4)))

    with_engine(base, None, config, use)


@pytest.mark.parametrize(
    ("said", "stop", "expected"),
    [
        (["He", "Hello", "Hello wor", "Hello world"], (), ["He", "llo", " wor", "ld"]),
        ([f"caf{HALF}", "café"], (), ["caf", "é"]),
        (["x<", "x</", "x</answer", "x</answer>y"], ("</answer>",), ["x", "", "", ""]),
        (["x<", "x<b", "x<bc"], ("</answer>",), ["x", "<b", "c"]),
        (["ab", "abc", "abcd"], ("bd", "cd"), ["a", "b", ""]),
    ],
)
def test_text_comes_when_it_is_sure(said: list[str], stop: tuple[str, ...], expected: list[str]) -> None:
    text = GrowingText(lambda tokens: said[len(tokens) - 1], stop)
    found = [text.take(range(number + 1), number == len(said) - 1) for number in range(len(said))]
    assert found == expected
