"""What a run would do, and roughly what it would cost. Loads rows and the model's shape; trains nothing."""

import time
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_measured
from medgrpo.errors import UserError
from medgrpo.policy import choose_dtype
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen

EFFICIENCY = 0.35
"""Share of a plain matrix product's speed that a step reaches; measured with SmolLM2-135M on two cores."""
ACTIVATIONS = (12, 8)
"""Numbers kept for the backward pass per token and layer, in (hidden sizes, feed-forward sizes); measured likewise."""
BYTES_PER_4BIT_WEIGHT = 0.56
"""NF4 with double quantization: 4 bits and the block constants."""
OPTIMISED_BYTES = 16
"""Per adapter weight: itself, its gradient and two Adam moments in float32."""


class Shape(Frozen):
    """A base model's size."""

    parameters: int
    adapter_parameters: int
    layers: int
    hidden: int
    feed_forward: int


def make_plan(config: Config, settings: Settings) -> str:
    """The plan as text: config, rows, steps, and estimates where the base model is at hand."""
    lines = ["config", *(f"  {line}" for line in config.model_dump_json(indent=1).splitlines()), ""]
    grpo = config.grpo
    lines += [
        f"steps        {grpo.steps}, a checkpoint every {grpo.save_every}",
        f"each step    {grpo.prompts_per_step} prompts x {grpo.num_generations} completions "
        f"of at most {grpo.max_completion_tokens} tokens",
    ]
    try:
        base = resolve(config.policy.base, settings, weights=False)
        dataset = prepare(config, base, settings)
    except UserError as error:
        return "\n".join([*lines, f"rows, memory, time: not known on this machine: {error}"])
    lines += [f"rows         {', '.join(f'{split} {count}' for split, count in dataset.rows.items())}"]
    lines += [f"base model   {base.name} ({base.digest[:8]})", *_estimates(config, base, dataset, settings)]
    return "\n".join(lines)


def _estimates(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> list[str]:
    shape = read_shape(config, base)
    prompt = _mean_prompt_tokens(dataset, settings)
    seconds = step_flops(config, shape, prompt) / (_matmul_flops(config) * EFFICIENCY)
    memory = step_memory(config, shape, prompt)
    return [
        f"parameters   {shape.parameters / 1e6:.1f} M, of which {shape.adapter_parameters / 1e6:.2f} M are trained",
        f"memory       about {memory / 2**30:.1f} GiB",
        f"time         about {seconds:.1f} s a step at first, {seconds * config.grpo.steps / 60:.0f} min in all "
        "(within a factor of two; steps get shorter as completions do)",
    ]


def read_shape(config: Config, base: BaseRef) -> Shape:
    """The base model's size, from its config alone: no weights are loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    lora, text = config.policy.lora, model_config.get_text_config()
    adapted = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in lora.target_modules
    ]
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter_parameters=sum(lora.r * (module.in_features + module.out_features) for module in adapted),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        feed_forward=text.intermediate_size,
    )


def step_flops(config: Config, shape: Shape, prompt_tokens: float) -> float:
    """Floating-point operations of one step: sampling, the loss, and its backward pass through frozen weights."""
    grpo = config.grpo
    completions = grpo.completions_per_step * grpo.max_completion_tokens
    prompts = prompt_tokens * (grpo.prompts_per_step if grpo.fast_path else grpo.completions_per_step)
    return 3 * 2 * shape.parameters * (completions + prompts)


def step_memory(config: Config, shape: Shape, prompt_tokens: float) -> float:
    """Bytes at the peak of one step: weights, the adapter with its optimiser, activations of one part of the step."""
    grpo = config.grpo
    width = BYTES_PER_4BIT_WEIGHT if config.policy.load_in_4bit else choose_dtype(config.policy.dtype).itemsize
    copies = grpo.prompts_per_step if grpo.fast_path else grpo.completions_per_step
    tokens = (grpo.completions_per_step * grpo.max_completion_tokens + copies * prompt_tokens) / (
        grpo.gradient_accumulation_steps
    )
    per_layer = ACTIVATIONS[0] * shape.hidden + ACTIVATIONS[1] * shape.feed_forward
    activations = tokens * shape.layers * per_layer * choose_dtype(config.policy.dtype).itemsize
    return float(shape.parameters * width + shape.adapter_parameters * OPTIMISED_BYTES + activations)


def _mean_prompt_tokens(dataset: DatasetRef, settings: Settings) -> float:
    lengths = [row.prompt_tokens for row in read_measured(dataset, "train", settings)]
    return sum(lengths) / len(lengths)


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
