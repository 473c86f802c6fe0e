"""What a run would do, and roughly what it would cost. Loads rows and the model's shape; trains nothing by itself."""

import time
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_prompt_tokens
from medgrpo.errors import ConfigError, UserError
from medgrpo.grpo.fit import base_shape, find_place
from medgrpo.grpo.refusals import refuse_early
from medgrpo.plan.calibration import Measurement, measure, read_measurement
from medgrpo.plan.memory import Memory, Shape, estimate, find_refusal
from medgrpo.policy import choose_dtype
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen

EFFICIENCY = 0.35
"""Share of a plain matrix product's speed that a step reaches; measured with SmolLM2-135M on two cores."""


class Estimate(Frozen):
    """What a step is expected to take, before any was measured."""

    seconds: float
    memory: Memory


def make_plan(config: Config, settings: Settings, with_step: bool = False) -> str:
    """The plan as text: config, rows, steps, and estimates where the base model is at hand.

    Args:
        with_step: make a real step, show its figures beside the estimate, and go by them from now on.

    Raises:
        ConfigError: the training can't make a step, or can't fit in the GPU's memory; the message names a setting to
            change.
    """
    lines = ["config", *(f"  {line}" for line in config.model_dump_json(indent=1).splitlines()), ""]
    grpo = config.grpo
    lines += [
        f"steps        {grpo.steps}, a checkpoint every {grpo.save_every}",
        f"each step    {grpo.prompts_per_step} prompts x {grpo.num_generations} completions "
        f"of at most {grpo.max_completion_tokens} tokens",
    ]
    try:
        base = resolve(config.policy.base, settings, weights=with_step)
        dataset = prepare(config, base, settings)
    except UserError as error:
        return "\n".join([*lines, f"rows, memory, time: not known on this machine: {error}"])
    lines += [f"rows         {', '.join(f'{split} {count}' for split, count in dataset.rows.items())}"]
    lines += [f"base model   {base.name} ({base.digest[:8]})"]
    return "\n".join([*lines, *_estimates(config, base, dataset, settings, with_step)])


def _estimates(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, with_step: bool) -> list[str]:
    shape = base_shape(config, base)
    lengths = read_prompt_tokens(dataset, "train", settings)
    refuse_early(config, base, len(lengths), max(lengths, default=0), settings.processes)
    place = find_place(config, settings)
    if refusal := find_refusal(config, shape, max(lengths), place):
        raise ConfigError(refusal)
    mean = sum(lengths) / len(lengths)
    flops = step_flops(config, shape, mean) / settings.processes
    expected = Estimate(
        seconds=flops / (_matmul_flops(config) * EFFICIENCY), memory=estimate(config, shape, max(lengths), place)
    )
    lines = [
        f"parameters   {shape.parameters / 1e6:.1f} M, of which {shape.adapter_parameters / 1e6:.2f} M are trained"
    ]
    if with_step:
        found = measure(config, base, dataset, settings, expected.seconds, expected.memory)
        lines += [
            f"measured     one step took {found.seconds:.1f} s ({expected.seconds:.1f} s were expected), its process "
            f"{found.peak / 2**30:.2f} GiB at the peak ({expected.memory.peak / 2**30:.2f} GiB were expected)"
        ]
    return [*lines, *_cost(config, expected, read_measurement(config, base, settings))]


def _cost(config: Config, expected: Estimate, measured: Measurement | None) -> list[str]:
    seconds, peak = expected.seconds, expected.memory.peak
    trust = "within a factor of two; --measure makes a step and tells better"
    if measured is not None:
        seconds, peak = seconds * measured.seconds_factor, measured.corrected(expected.memory)
        trust = "going by a step that was measured here"
    parts = expected.memory
    shown = {"weights": parts.weights, "merged copy": parts.merged_copy, "adapter": parts.adapter}
    shown |= {"sampling": parts.sampling, "loss": parts.loss}
    return [
        f"memory       about {peak / 2**30:.1f} GiB a process "
        f"({', '.join(f'{name} {size / 2**30:.2f}' for name, size in shown.items())})",
        f"time         about {seconds:.1f} s a step, {seconds * config.grpo.steps / 60:.0f} min in all ({trust}; "
        "steps get shorter as completions do)",
    ]


def step_flops(config: Config, shape: Shape, prompt_tokens: float) -> float:
    """Floating-point operations of one step: sampling, the loss, and its backward pass through frozen weights."""
    grpo = config.grpo
    completions = grpo.completions_per_step * grpo.max_completion_tokens
    prompts = prompt_tokens * (grpo.prompts_per_step if grpo.fast_path else grpo.completions_per_step)
    return 3 * 2 * shape.parameters * (completions + prompts)


def _matmul_flops(config: Config) -> float:
    """Operations per second of a plain matrix product in the policy's dtype, measured on the device it would use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 1024
    a: Any = torch.randn(size, size, device=device, dtype=choose_dtype(config.policy.dtype))
    a @ a
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - start)
