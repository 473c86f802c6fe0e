"""Seconds per GRPO step: TRL's own trainer against ours, at several shapes.

    python benchmarks/grpo_step.py [--shapes short long large] [--pairs 5] [--steps 1] [--plot cost.png]
    python benchmarks/grpo_step.py --shapes short --equal 5    # the same adapters?
    python benchmarks/grpo_step.py --device cuda --model qwen2.5-1.5b      # random weights of that shape

Both train in this process, in turn, from the same weights and seed, on prompts of exactly as many tokens; every
completion has the full length, so that both do the same work. The first step of each warms up (ours also checks itself
against TRL's own path in it) and isn't counted. Run nothing else beside it.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.policy import load_base
from medgrpo.settings import Settings

CONFIG = Path(__file__).parent.parent / "configs" / "laptop.toml"
PARTS = ("rollout", "reward", "loss", "optimiser")
WORDS = " blood low high normal patient heart pressure level rate water iron test value range the of and is for with"


@dataclass(frozen=True)
class Shape:
    """What one step works on."""

    name: str
    prompts: int
    group: int
    prompt_tokens: int
    completion_tokens: int = 64

    def __str__(self) -> str:
        return f"{self.name} ({self.prompts} x {self.group}, P={self.prompt_tokens}, C={self.completion_tokens})"


SHAPES = {
    "short": Shape("short", 2, 8, 128),
    "long": Shape("long", 1, 16, 512),
    "large": Shape("large", 1, 32, 128),
}
GROUPS = [Shape("group", 1, size, 128) for size in (2, 4, 8, 16)]
LENGTHS = [Shape("length", 1, 4, tokens) for tokens in (64, 128, 256, 512)]

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
QWEN_1_5B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
MODELS = {"llama-3.1-8b": LLAMA_8B, "qwen2.5-1.5b": QWEN_1_5B}


@dataclass
class Step:
    """One measured step."""

    seconds: float
    parts: dict[str, float]
    peak_gb: float


class Stopwatch:
    """Seconds of a step's parts; on a GPU after everything that was asked for is done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a part."""
        start = now()
        yield
        self.seconds[name] += now() - start


def now() -> float:
    """Seconds, once the GPU has nothing left to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(kind: Any, watch: Stopwatch) -> Any:
    """The same trainer, with its parts timed."""

    class Timed(kind):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            with watch.part("rollout"):
                return super()._generate_single_turn(*args, **kwargs)

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with watch.part("reward"):
                return super()._calculate_rewards(*args, **kwargs)

        def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
            with watch.part("before"):
                return super()._prepare_inputs(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with watch.part("training"):
                return super().training_step(*args, **kwargs)

    return Timed


def callback(watch: Stopwatch, steps: list[Step]) -> Any:
    """Notes each step's seconds, parts and peak memory."""
    from transformers import TrainerCallback

    class Note(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.seconds.clear()
            forget_peak()
            self.start = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            total, parts = now() - self.start, watch.seconds
            split = {"rollout": parts["rollout"], "reward": parts["reward"]}
            split |= {"loss": parts["training"] - parts["before"], "optimiser": total - parts["training"]}
            steps.append(Step(total, split, peak_gb()))

    return Note()


def has_gpu() -> bool:
    """Whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def forget_peak() -> None:
    """Measure the peak of memory anew from here on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """The most memory since then: of the GPU, or of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6


def prompts(tokenizer: Any, shape: Shape, count: int) -> list[str]:
    """Texts of exactly so many tokens: words of one token each, in other orders."""
    words = [f" {word}" for word in WORDS.split() if len(tokenizer(f" {word}")["input_ids"]) == 1]
    texts = [
        "".join(words[(row + place * (row + 3)) % len(words)] for place in range(shape.prompt_tokens))
        for row in range(count)
    ]
    assert all(len(tokenizer(text)["input_ids"]) == shape.prompt_tokens for text in texts)
    return texts


def spread(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs within a group."""
    return [float(place % 3) for place, _ in enumerate(completions)]


def load_policy(folder: str, name: str | None) -> Any:
    """The base model, or random weights of another one's shape under the same tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    policy = load_base(folder)
    if name:
        shape = dict(MODELS[name])
        config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        torch.manual_seed(0)
        with torch.device("cuda"):
            policy.model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return policy


def build(ours: bool, shape: Shape, config: Config, policy: Any, output: Path, steps: int) -> tuple[Any, list[Step]]:
    """A trainer of one kind, and the list that its steps are noted in."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOTrainer

    from medgrpo.grpo.arguments import trl_arguments
    from medgrpo.grpo.trainer import PolicyTrainer

    arguments: Any = trl_arguments(config, output)
    arguments.max_steps, arguments.save_strategy, arguments.reward_weights = steps, "no", None
    arguments.generation_kwargs = {"min_new_tokens": shape.completion_tokens}
    arguments.gradient_checkpointing = False
    lora, watch = config.policy.lora, Stopwatch()
    done: list[Step] = []
    trainer = timed(PolicyTrainer if ours else GRPOTrainer, watch)(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        reward_funcs=[spread],
        train_dataset=Dataset.from_dict({"prompt": prompts(policy.tokenizer, shape, shape.prompts * steps)}),
        peft_config=LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM"
        ),
        callbacks=[callback(watch, done)],
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer, done


def shaped(config: Config, shape: Shape, modules: Sequence[str] | None) -> Config:
    """The config with a shape's sizes, and with adapters on other linear layers where they are named."""
    changes = {
        "prompts_per_step": shape.prompts,
        "num_generations": shape.group,
        "max_completion_tokens": shape.completion_tokens,
    }
    changed = config.model_copy(update={"grpo": config.grpo.model_copy(update=changes)})
    if not modules:
        return changed
    lora = config.policy.lora.model_copy(update={"target_modules": tuple(modules)})
    return changed.model_copy(update={"policy": config.policy.model_copy(update={"lora": lora})})


def measure(ours: bool, shape: Shape, config: Config, folder: str, steps: int, model: str | None) -> list[Step]:
    """Train for some steps after the first one."""
    policy = load_policy(folder, model)
    with tempfile.TemporaryDirectory() as output:
        trainer, done = build(ours, shape, config, policy, Path(output), steps + 1)
        trainer.train()
    del trainer, policy
    gc.collect()
    return done[1:]


def fixed(shape: Shape, tokenizer: Any) -> Any:
    """Rollouts that are the same for every trainer: words, some completions shorter than others."""
    ids = [tokenizer(f" {word}")["input_ids"][0] for word in WORDS.split()]

    def rollout(texts: list[str], trainer: Any) -> dict[str, Any]:
        lengths = [shape.completion_tokens - 3 * (row % 5) for row in range(len(texts))]
        tokens = [
            [ids[(row * 7 + place * (row + 3)) % len(ids)] for place in range(n)] for row, n in enumerate(lengths)
        ]
        return {"prompt_ids": tokenizer(texts)["input_ids"], "completion_ids": tokens, "logprobs": None}

    return rollout


def compare_adapters(shape: Shape, config: Config, folder: str, steps: int) -> None:
    """Train both on the same completions, and print how far their adapters are apart."""
    import torch

    found: list[Any] = []
    for ours in (False, True):
        policy = load_policy(folder, None)
        with tempfile.TemporaryDirectory() as output:
            trainer, _ = build(ours, shape, config, policy, Path(output), steps)
            trainer.rollout_func = fixed(shape, policy.tokenizer)
            trainer.train()
        found.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]))
        del trainer, policy
        gc.collect()
    stock, own = found
    gaps = (stock - own).abs()
    shares = ", ".join(f"{float((gaps < bound).float().mean()):.5%} below {bound:g}" for bound in (1e-6, 1e-5, 1e-4))
    print(
        f"{shape}: adapters after {steps} steps on the same completions differ by at most {float(gaps.max()):.2g}, "
        f"{float(gaps.mean()):.2g} on average ({shares}); the largest weight is {float(stock.abs().max()):.3f}",
        flush=True,
    )


def compare(shape: Shape, pairs: int, options: Any, config: Config, folder: str) -> tuple[float, float]:
    """Measure pairs of both and print their medians; seconds per step of TRL's and of ours."""
    found: dict[bool, list[Step]] = {False: [], True: []}
    config = shaped(config, shape, options.modules)
    for _ in range(pairs):
        for ours in (False, True):
            found[ours] += measure(ours, shape, config, folder, options.steps, options.model)
    print(f"\n{shape}, {pairs} pairs of {options.steps} steps", flush=True)
    tokens = shape.prompts * shape.group * shape.completion_tokens
    for ours, steps in found.items():
        seconds = statistics.median(step.seconds for step in steps)
        split = "  ".join(f"{part} {statistics.median(step.parts[part] for step in steps):.2f}" for part in PARTS)
        print(
            f"{'ours' if ours else 'stock TRL':10} {seconds:8.2f} s/step  {tokens / seconds:7.1f} tokens/s  {split}  "
            f"peak {max(step.peak_gb for step in steps):.2f} GB  all {[round(step.seconds, 1) for step in steps]}",
            flush=True,
        )
    stock, own = (statistics.median(step.seconds for step in found[ours]) for ours in (False, True))
    ratios = [a.seconds / b.seconds for a, b in zip(found[False], found[True], strict=True)]
    print(f"{'ratio':10} {statistics.median(ratios):8.2f}x  (median of pairs)", flush=True)
    return stock, own


def plot(path: Path, rows: Sequence[tuple[str, str, Sequence[Shape], Sequence[tuple[float, float]]]]) -> None:
    """Seconds per step against group size and against prompt length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(9, 3.5), constrained_layout=True)
    for axis, (label, field, shapes, seconds) in zip(axes, rows, strict=True):
        places = [getattr(shape, field) for shape in shapes]
        axis.plot(places, [stock for stock, _ in seconds], "o-", label="stock TRL")
        axis.plot(places, [own for _, own in seconds], "o-", label="medgrpo")
        axis.set(xlabel=label, ylabel="seconds per step", ylim=(0, None))
        axis.legend()
    figure.savefig(path)


def main() -> None:
    """Measure the shapes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="measured steps of each run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=MODELS, help="random weights of this model's shape (with --device cuda)")
    parser.add_argument("--equal", type=int, metavar="STEPS", help="compare adapters after so many steps instead")
    parser.add_argument("--modules", nargs="*", help="linear layers with an adapter; default: the laptop config's two")
    parser.add_argument("--plot", type=Path, help="also measure other sizes, one pair each, and draw them to this file")
    options = parser.parse_args()
    if (options.device == "cuda") != has_gpu() or (options.model and options.device == "cpu"):
        parser.error("--device must be what this machine has: cuda with a GPU, cpu without; --model needs cuda")
    config = read_config(CONFIG)
    folder = resolve(config.policy.base, Settings()).folder
    for name in options.shapes:
        if options.equal:
            compare_adapters(SHAPES[name], shaped(config, SHAPES[name], options.modules), folder, options.equal)
        else:
            compare(SHAPES[name], options.pairs, options, config, folder)
    if options.plot:
        series = (("completions per prompt", "group", GROUPS), ("prompt tokens", "prompt_tokens", LENGTHS))
        plot(options.plot, [(*s, [compare(shape, 1, options, config, folder) for shape in s[2]]) for s in series])


if __name__ == "__main__":
    main()
