"""vLLM beside the served stage. The real one runs where MEDGRPO_VLLM_COMMAND, or PATH, names it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest
from pydantic import ValidationError

from medgrpo.answer import render_question
from medgrpo.config import Config, PolicyConfig
from medgrpo.data.clinical import generate
from medgrpo.data.prepare import prepare
from medgrpo.errors import ServeError, UserError
from medgrpo.evaluation import adopt_adapter, evaluate, evaluate_all, read_tables
from medgrpo.evaluation.vllm import VllmCompleter
from medgrpo.example import example_sources, read_card
from medgrpo.grpo.command import check_place
from medgrpo.keys import eval_key
from medgrpo.policy import Policy, adapter_digest
from medgrpo.processes import tied
from medgrpo.serve.embedded import EmbeddedEngine
from medgrpo.serve.engine import BASE, Decoding, Engine, Loaded, RequestRefused, Served, Source
from medgrpo.serve.versions import Versions
from medgrpo.serve.vllm import VllmEngine
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport
from medgrpo.vllm.child import Child, Hosted, lora_rank
from medgrpo.vllm.server import Server

COMMAND = Settings().vllm_command
ROWS = 8
SWAPS = 4
GREEDY = Decoding(max_tokens=40)


def real(function: Callable[..., None]) -> Callable[..., None]:
    """A test that starts vLLM."""
    there = pytest.mark.skipif(not shutil.which(COMMAND), reason="set MEDGRPO_VLLM_COMMAND: docs/serving.md")
    return pytest.mark.slow(there(function))


STUBBORN = """
import signal, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


def wait_gone(pid: int, seconds: float = 20) -> None:
    """Wait until a process has ended, or fail."""
    deadline = time.monotonic() + seconds
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def test_what_a_command_has_started_ends_with_its_starter_too() -> None:
    kept = subprocess.Popen(
        tied([sys.executable, "-c", STUBBORN]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert kept.stdin and kept.stdout
    grandchild = int(kept.stdout.readline())
    kept.stdin.close()
    wait_gone(grandchild)
    kept.wait(20)


def test_a_tied_command_ends_with_its_own_code() -> None:
    command = tied([sys.executable, "-c", "raise SystemExit(7)"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as kept:
        assert kept.wait(20) == 7


def test_without_the_command_says_what_to_set(tmp_path: Path, base: BaseRef) -> None:
    source = tiny_source(base)
    engine = VllmEngine(Settings(home=tmp_path, vllm_command="no-such-vllm"))
    with pytest.raises(UserError, match="MEDGRPO_VLLM_COMMAND"):
        asyncio.run(engine.load(source))


def test_a_4_bit_base_is_refused(tmp_path: Path, base: BaseRef) -> None:
    source = tiny_source(base)
    source = replace(source, policy=source.policy.model_copy(update={"load_in_4bit": True}))
    engine = VllmEngine(Settings(home=tmp_path, vllm_command=sys.executable))
    with pytest.raises(UserError, match="--engine embedded"):
        asyncio.run(engine.load(source))


@pytest.mark.parametrize(("ranks", "wanted"), [((), 16), ((16,), 16), ((17, 4), 32), ((8, 64), 64)])
def test_adapters_get_the_next_rank_that_vllm_has(tmp_path: Path, ranks: tuple[int, ...], wanted: int) -> None:
    for rank in ranks:
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "adapter_config.json").write_text(json.dumps({"r": rank}))
    assert lora_rank(tmp_path / str(rank) for rank in ranks) == wanted


def in_vllm(config: Config) -> Config:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"engine": "vllm"})})


def test_an_evaluation_without_the_command_says_what_to_set(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    nowhere = settings.model_copy(update={"vllm_command": "no-such-vllm"})
    with pytest.raises(UserError, match="engine=transformers"):
        evaluate(in_vllm(config), base, dataset, CheckpointRef.base(), "validation", nowhere)
    with pytest.raises(UserError, match="MEDGRPO_VLLM_COMMAND"):
        check_place(in_vllm(config), nowhere)  # before the training, too
    check_place(in_vllm(config), settings.model_copy(update={"vllm_engine_url": "http://127.0.0.1:8001"}))
    check_place(config, nowhere)


def test_an_engine_has_its_own_key(config: Config, base: BaseRef, dataset: DatasetRef) -> None:
    def key(config: Config) -> str:
        return eval_key(config, dataset, base, CheckpointRef.base(), "validation")

    assert key(in_vllm(config)) != key(config)


def test_a_4_bit_base_is_not_evaluated_in_vllm(config: Config) -> None:
    tree = in_vllm(config).model_dump()
    tree["policy"]["load_in_4bit"] = True
    with pytest.raises(ValidationError, match="another policy"):
        Config.model_validate(tree)


def test_a_prompt_that_vllm_has_no_room_for_is_refused(config: Config, base: BaseRef, settings: Settings) -> None:
    server = Server(Hosted(base, config.policy, 16), settings.root / "vllm.log", settings)
    server.context_tokens = 30
    with asyncio.Runner() as runner, pytest.raises(UserError, match="31 tokens"):
        VllmCompleter(server, runner, Policy("base", None), 10).complete([[1], [1] * 21])


def tiny_source(base: BaseRef) -> Source:
    """The base model of the other tests."""
    return Source(Served(BASE, "", "", "", "", (), base.name), base, None, PolicyConfig())


def turned(source: Source, folder: Path) -> Source:
    """The same adapter pushing the other way: it answers differently."""
    from safetensors.torch import load_file, save_file

    assert source.adapter
    shutil.copytree(source.adapter, folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: -w if "lora_B" in name else w for name, w in load_file(path).items()}, path)
    served = replace(source.served, version="medgrpo-turned", adapter_digest=adapter_digest(folder))
    return replace(source, served=served, adapter=folder)


def questions(rows: int = ROWS) -> list[str]:
    return [render_question(example) for example in generate(rows, seed=3, topics=("ion-disorder", "blood-count"))]


async def answer(loaded: Loaded, question: str) -> str:
    chat = loaded.served.chat([{"role": "user", "content": question}])
    return "".join([piece.text async for piece in loaded.stream(chat, GREEDY)])


async def answer_all(engine: Engine, loaded: Loaded) -> list[str]:
    return list(await asyncio.gather(*(answer(loaded, question) for question in questions())))


@real
def test_adapters_side_by_side_swapped_under_requests(tmp_path: Path) -> None:
    home = Path(os.environ["MEDGRPO_HOME"]) if "MEDGRPO_HOME" in os.environ else tmp_path
    settings = Settings(home=home)
    sources = example_sources(settings)
    one, two, base = sources["champion"], turned(sources["champion"], tmp_path / "turned"), sources["base"]

    async def play() -> None:
        engine = VllmEngine(settings)
        try:
            begun = time.monotonic()
            loaded = [await engine.load(source) for source in (one, two, base)]
            print(f"\nloaded a base and two adapters in {time.monotonic() - begun:.1f} s")
            said = [await answer_all(engine, version) for version in loaded]
            assert said[0] != said[1] != said[2]
            await check_swaps(engine, one, two, said[0], said[1])
            await check_cancelling(engine, loaded[0])
            with pytest.raises(RequestRefused):
                await answer_long(loaded[0])
            await compare(said[0], one)
            assert engine.server and engine.server.child
            child = engine.server.child
            await check_running(settings, child, one, said[0])
            assert await answer(loaded[0], questions(1)[0]) == said[0][0], "another's engine took nothing of ours"
        finally:
            await engine.close()
        assert child.ended

    asyncio.run(play())


async def check_swaps(engine: VllmEngine, one: Source, two: Source, said_one: list[str], said_two: list[str]) -> None:
    """Each answer is wholly from the version that it names, while the champion changes."""
    expected = {one.served.version: said_one, two.served.version: said_two}
    versions = Versions(engine)
    await versions.switch("champion", one)
    asked = questions()
    done, wrong = 0, []
    swapped = asyncio.Event()

    async def client(first: int) -> None:
        nonlocal done
        place = first
        while not swapped.is_set():
            with versions.choose(None) as loaded:
                text = await answer(loaded, asked[place % ROWS])
                if text != expected[loaded.served.version][place % ROWS]:
                    wrong.append((loaded.served.version, place % ROWS))
            done, place = done + 1, place + 1

    clients = [asyncio.create_task(client(first)) for first in range(4)]
    for number in range(SWAPS):
        before = done
        await versions.switch("champion", two if number % 2 == 0 else one)
        await until(lambda before=before: done >= before + 8)  # type: ignore[misc]
    swapped.set()
    await asyncio.gather(*clients)
    print(f"{done} requests of 4 clients during {SWAPS} swaps: none failed, {len(wrong)} differ from the first time")
    # Batches of other sizes round otherwise: a few greedy completions may turn at a near tie, none at a swap.
    assert len(wrong) <= 0.1 * done
    for version, place in wrong:
        other = said_two if version == one.served.version else said_one
        assert expected[version][place] != other[place]


async def check_running(settings: Settings, child: Child, source: Source, said: list[str]) -> None:
    """An engine on a running vLLM answers the same, and leaves it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", "another")
        with pytest.raises(ServeError, match="VLLM_API_KEY"):
            await VllmEngine(settings, child.url).load(source)
        patch.setenv("VLLM_API_KEY", child.key)
        engine = VllmEngine(settings, child.url)
        loaded = await engine.load(source)
    assert await answer_all(engine, loaded) == said
    assert engine.server
    before = await engine.server._ask("GET", "/v1/models")
    await engine.close()
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {child.key}"}) as client:
        after = await client.get(f"{child.url}/v1/models")
    assert len(after.json()["data"]) == len(before.json()["data"]) - 1
    assert not child.ended


async def check_cancelling(engine: VllmEngine, loaded: Loaded) -> None:
    """A stream that is closed stops generating."""
    chat = [{"role": "user", "content": "Count to a thousand."}]
    stream = loaded.stream(chat, Decoding(max_tokens=1500, temperature=1.0, seed=1))
    await anext(stream)
    assert await running(engine) == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await until_async(lambda: idle(engine))


async def idle(engine: VllmEngine) -> bool:
    return await running(engine) == 0


async def running(engine: VllmEngine) -> int:
    assert engine.server
    text = (await engine.server._client.get("/metrics")).text
    return int(
        sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running"))
    )


async def answer_long(loaded: Loaded) -> None:
    async for _ in loaded.stream([{"role": "user", "content": "word " * 9000}], GREEDY):
        pass


async def compare(said: list[str], source: Source) -> None:
    """How many greedy completions are those of the embedded engine."""
    engine = EmbeddedEngine()
    try:
        embedded = await answer_all(engine, await engine.load(source))
    finally:
        await engine.close()
    equal = sum(ours == theirs for ours, theirs in zip(embedded, said, strict=True))
    print(f"greedy completions equal to the embedded engine's: {equal} of {ROWS}")
    assert equal >= 0.75 * ROWS


async def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def until_async(holds: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.05)


@real
def test_vllm_that_died_is_started_again(tmp_path: Path) -> None:
    home = Path(os.environ["MEDGRPO_HOME"]) if "MEDGRPO_HOME" in os.environ else tmp_path
    source = example_sources(Settings(home=home))["champion"]

    async def play() -> None:
        engine = VllmEngine(Settings(home=home))
        try:
            loaded = await engine.load(source)
            said = await answer(loaded, questions(1)[0])
            assert engine.server and engine.server.child
            os.killpg(engine.server.child._process.pid, signal.SIGKILL)
            await until(lambda: bool(engine.fault()))
            assert "vLLM ended" in engine.fault()
            await until(lambda: not engine.fault(), seconds=200)
            assert await answer(loaded, questions(1)[0]) == said
        finally:
            await engine.close()

    asyncio.run(play())


@real
def test_checkpoints_are_evaluated_side_by_side_in_vllm(tmp_path: Path) -> None:
    home = Path(os.environ["MEDGRPO_HOME"]) if "MEDGRPO_HOME" in os.environ else tmp_path
    sources = example_sources(Settings(home=home))
    settings = Settings(home=tmp_path / "home")  # its own, so that nothing is found again
    source, base = sources["champion"], sources["champion"].base
    assert source.adapter
    card = read_card().config
    changes = {"data": {"source": {"kind": "clinical", "rows": 60}, "validation_rows": 4, "test_rows": ROWS}}
    asked = {"engine": "vllm", "samples": 2, "batch_size": 4, "max_completion_tokens": 40}
    config = Config.model_validate(card.model_dump(mode="json") | changes | {"evaluation": asked})
    dataset = prepare(config, base, settings)
    other = turned(source, tmp_path / "turned").adapter
    assert other
    checkpoints = [CheckpointRef.base(), adopt_adapter(source.adapter, settings), adopt_adapter(other, settings)]

    killer = Thread(target=kill_child_after_a_batch, args=(settings,))
    killer.start()
    with pytest.raises(ServeError, match=r"vllm\.log"):
        evaluate_all(config, base, dataset, checkpoints, "test", settings)
    killer.join()
    assert not children(), "what has failed leaves nothing behind"
    shard = next(settings.root.glob("evaluations/*/shards/greedy-00000.json"))
    kept = json.loads(shard.read_text(encoding="utf-8"))
    kept["completions"][0] = "kept"
    shard.write_text(json.dumps(kept), encoding="utf-8")

    found = evaluate_all(config, base, dataset, checkpoints, "test", settings)
    assert not children()
    texts = read_tables(found[0], settings).rows["completion"].tolist()
    assert texts.count("kept") == 1, "it went on behind the last finished batch"
    nowhere = settings.model_copy(update={"vllm_command": "no-such-vllm"})
    assert evaluate_all(config, base, dataset, checkpoints, "test", nowhere) == found, "found again without vLLM"
    check_evaluations(config, base, dataset, found, settings)


def children() -> list[psutil.Process]:
    """The vLLM that this process has started."""
    return [child for child in psutil.Process().children() if "medgrpo.processes" in child.cmdline()]


def kill_child_after_a_batch(settings: Settings) -> None:
    deadline = time.monotonic() + 300
    while not list(settings.root.glob("evaluations/*/shards/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for child in children():
        os.killpg(child.pid, signal.SIGKILL)


def check_evaluations(
    config: Config, base: BaseRef, dataset: DatasetRef, found: list[EvalReport], settings: Settings
) -> None:
    """Compare with the same evaluations by transformers, row by row."""
    plain = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"engine": "transformers"})})
    checkpoints = [report.checkpoint for report in found]
    expected = evaluate_all(plain, base, dataset, checkpoints, "test", settings)
    same = judged = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.key != theirs.key
        mine, other = read_tables(ours, settings), read_tables(theirs, settings)
        same += int((mine.rows["completion"] == other.rows["completion"]).sum())
        judged += int((mine.rows[["correct", "strict"]] == other.rows[["correct", "strict"]]).all(axis=1).sum())
        assert mine.sampled is not None
        texts = mine.sampled["completion"]
        assert (texts[::2].to_numpy() != texts[1::2].to_numpy()).any(), "each draw has random numbers of its own"
    total = ROWS * len(found) - 1  # without the one that was planted
    print(f"\nof {total} greedy completions {same} are equal to those by transformers, {judged} are judged alike")
    assert same >= 0.75 * total
    assert judged >= 0.9 * total
    said = [read_tables(report, settings).rows["completion"].tolist() for report in found]
    assert said[0] != said[1] != said[2] != said[0], "each checkpoint answers with its own adapter"
