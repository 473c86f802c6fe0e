"""What the served stage's engines give: tokens per second and time to first token, by how many ask at once.

python benchmarks/serving.py [--config configs/laptop.toml] [--clients 1 4 8 16] [--plot docs/images/serving.png]
python benchmarks/serving.py --engines embedded vllm    default: all that are here; vLLM is MEDGRPO_VLLM_COMMAND
python benchmarks/serving.py --equal 50    how many greedy completions are token for token those of evaluation
"""

import argparse
import asyncio
import platform
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import torch

from medgrpo.answer import render_question
from medgrpo.config_file import read_config
from medgrpo.data.clinical import generate
from medgrpo.generation import Completer
from medgrpo.policy import Policy, load_base
from medgrpo.serve.embedded import EmbeddedEngine
from medgrpo.serve.engine import Decoding, Engine, Loaded, Piece, Served, Source
from medgrpo.serve.load import base_source
from medgrpo.serve.vllm import VllmEngine
from medgrpo.settings import Settings


class OneAtATime:
    """The comparison: transformers' `generate`, one request after the other."""

    def __init__(self, policy: Policy, served: Served) -> None:
        self.policy, self.served, self._turn = policy, served, asyncio.Lock()

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """The whole completion, in two pieces: the first token comes when `generate` has it."""
        async with self._turn:
            loop, first = asyncio.get_running_loop(), asyncio.Event()
            prompt = self.policy.prompt_tokens(chat)

            def told(ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
                loop.call_soon_threadsafe(first.set)
                return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

            running = asyncio.create_task(asyncio.to_thread(self._generate, prompt, decoding.max_tokens, told))
            await first.wait()
            yield Piece("", len(prompt), 1)
            tokens = await running
            text = str(self.policy.tokenizer.decode(tokens, skip_special_tokens=True))
            yield Piece(text, len(prompt), len(tokens), "length" if len(tokens) == decoding.max_tokens else "stop")

    def _generate(self, prompt: list[int], max_tokens: int, told: Callable[..., torch.Tensor]) -> list[int]:
        ids = torch.tensor([prompt], device=self.policy.model.device)
        with torch.inference_mode():
            rows = self.policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_tokens,
                pad_token_id=self.policy.tokenizer.pad_token_id,
                stopping_criteria=[told],
            )
        return [int(token) for token in rows[0, len(prompt) :]]


class PlainEngine:
    """Loads what answers one at a time."""

    restarts = 0

    async def load(self, source: Source) -> Loaded:
        """The base model with nothing around it."""
        policy = load_base(source.base.folder, source.policy.dtype)
        version = OneAtATime(policy, source.served)
        async for _ in version.stream([{"role": "user", "content": "?"}], Decoding(2)):
            pass
        return version

    async def unload(self, loaded: Loaded) -> None:
        """Nothing is kept."""

    def fault(self) -> str:
        """Never any."""
        return ""

    async def close(self) -> None:
        """Nothing is kept."""


ENGINES: dict[str, tuple[str, Callable[[Settings], Engine]]] = {
    "generate": ("generate, one at a time", lambda _: PlainEngine()),
    "embedded": ("embedded", lambda _: EmbeddedEngine()),
    "vllm": ("vLLM", VllmEngine),
}
"""Word of `--engines` → name, and what makes it; another engine is compared by a line here."""


def engines_here(settings: Settings) -> list[str]:
    """Words of the engines that can be started."""
    has_vllm = settings.vllm_engine_url or shutil.which(settings.vllm_command)
    return [word for word in ENGINES if word != "vllm" or has_vllm]


async def measure(loaded: Loaded, clients: int, requests: int, max_tokens: int) -> tuple[float, float]:
    """Tokens per second, and the median time to first token in seconds."""
    questions = iter([render_question(example) for example in generate(requests, seed=1)])
    firsts: list[float] = []
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for question in questions:
            begun, first, last = time.monotonic(), 0.0, None
            chat = loaded.served.chat([{"role": "user", "content": question}])
            async for piece in loaded.stream(chat, Decoding(max_tokens)):
                first = first or time.monotonic() - begun
                last = piece
            firsts.append(first)
            tokens += last.completion_tokens if last else 0

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return tokens / (time.monotonic() - begun), statistics.median(firsts)


async def compare(source: Source, options: argparse.Namespace) -> dict[str, list[tuple[int, float, float]]]:
    """Engine → (clients, tokens per second, time to first token)."""
    figures: dict[str, list[tuple[int, float, float]]] = {}
    for word in options.engines:
        name, make = ENGINES[word]
        engine = make(Settings())
        try:
            loaded = await engine.load(source)
            rows = figures[name] = []
            for clients in options.clients:
                requests = max(options.requests, clients)
                rows.append((clients, *await measure(loaded, clients, requests, options.max_tokens)))
                print(f"| {name} | {clients} | {rows[-1][1]:.1f} | {rows[-1][2]:.2f} |", flush=True)
            await engine.unload(loaded)
        finally:
            await engine.close()
    return figures


async def equal(source: Source, rows: int, max_tokens: int) -> int:
    """How many of so many questions get evaluation's text from the embedded engine, asked eight at a time."""
    engine = EmbeddedEngine()
    loaded = await engine.load(source)
    policy = load_base(source.base.folder, source.policy.dtype)
    completer = Completer(policy, max_tokens)
    chats = [loaded.served.chat([{"role": "user", "content": render_question(e)}]) for e in generate(rows, seed=2)]
    expected = [completer.complete([policy.prompt_tokens(chat)])[0] for chat in chats]
    turns = asyncio.Semaphore(8)

    async def ask(chat: list[dict[str, str]]) -> str:
        async with turns:
            return "".join([piece.text async for piece in loaded.stream(chat, Decoding(max_tokens))])

    got = await asyncio.gather(*map(ask, chats))
    await engine.close()
    return sum(one == other for one, other in zip(got, expected, strict=True))


def plot(figures: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Both figures over the number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), (1, 2), ("tokens/s", "time to first token, s"), strict=True):
        for name, rows in figures.items():
            axes.plot([row[0] for row in rows], [row[column] for row in rows], marker="o", label=name)
        axes.set(xlabel="clients at once", ylabel=label, ylim=0)
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print a Markdown table; draw it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/laptop.toml"))
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=engines_here(Settings()))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--equal", type=int, metavar="ROWS")
    options = parser.parse_args()
    source = base_source(read_config(options.config, ()), Settings())
    if options.equal:
        same = asyncio.run(equal(source, options.equal, options.max_tokens))
        print(f"{same} of {options.equal} greedy completions are those of evaluation")
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {source.base.name}, greedy\n")
    print("| Engine | Clients | Tokens/s | Median time to first token, s |\n|---|---|---|---|")
    figures = asyncio.run(compare(source, options))
    if options.plot:
        plot(figures, options.plot)


if __name__ == "__main__":
    main()
