"""How much memory a training takes, and which setting would make it fit."""

import json
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

from medgrpo.config import Config, LoraConfig
from medgrpo.rewards import FluencyReward, SemanticReward
from medgrpo.types import Frozen

ACTIVATIONS = (12, 8)
"""Numbers kept for the backward pass per token and layer, in (hidden sizes, feed-forward sizes): measured on a CPU."""
BYTES_PER_4BIT_WEIGHT = 4.127 / 8
"""NF4 with double quantization: 4 bits and the block constants (QLoRA paper, section 3)."""
OPTIMISED_BYTES = 16
"""Per adapter weight: itself, its gradient and two Adam moments in float32."""
LOGITS = 3
"""Tensors of a row's logits that are alive while a token is drawn: float32 logits, probabilities, their order."""
TILE_TOKENS = 1024
"""Tokens whose logits are computed at a time in the loss, at most; forward and backward hold one tile each."""
RUNTIME = {"cpu": 0.8 * 2**30, "cuda": 1.0 * 2**30}
"""Bytes beside all of that: the interpreter and its libraries; on a GPU work space and what fragments."""
ENCODER = 0.1 * 2**30
"""The semantic reward's encoder where its size can't be read from its folder: MiniLM's, with its activations."""
VLLM_SHARE = 0.3
"""Share of a GPU that TRL lets vLLM take inside of the training process."""


class Shape(Frozen):
    """A base model's size, in numbers, with the adapter that is put on it."""

    parameters: int
    linear_parameters: int
    """Weights of linear layers other than the head: those that are quantized to 4 bits."""
    adapted_parameters: int
    """Weights of the layers that get an adapter."""
    adapter_parameters: int
    layers: int
    hidden: int
    feed_forward: int
    key_value: int
    """Width of a token's keys, and of its values, in one layer."""
    vocabulary: int


class Place(Frozen):
    """What is to be known of the machine."""

    on_gpu: bool
    width: int
    """Bytes of a number in the compute dtype."""
    processes: int = 1
    free: int | None = None
    """Free bytes of each process's GPU; None: there is no GPU, so nothing is refused."""
    total: int = 0
    """Bytes of each process's GPU."""


class Memory(Frozen):
    """Bytes that one training process takes at its peak, by what takes them."""

    weights: float
    merged_copy: float
    """Weights of the adapted layers with the adapter merged, for sampling."""
    adapter: float
    """With its gradient and optimiser."""
    rewards: float
    runtime: float
    sampling: float
    """Keys, values and logits of all completions."""
    loss: float
    """What the backward pass needs of one part of the step."""

    @property
    def fixed(self) -> float:
        """What is there all the time."""
        return self.weights + self.merged_copy + self.adapter + self.rewards + self.runtime

    @property
    def peak(self) -> float:
        """Sampling and the loss take turns."""
        return self.fixed + max(self.sampling, self.loss)


def read_shape(model_config: Any, lora: LoraConfig) -> Shape:
    """The size of a base model from its transformers config alone: no weights are made."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=False)
    text = model_config.get_text_config()
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    adapted = [module for name, module in linear.items() if name.rsplit(".", 1)[-1] in lora.target_modules]
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_parameters=sum(module.weight.numel() for module in linear.values()),
        adapted_parameters=sum(module.weight.numel() for module in adapted),
        adapter_parameters=sum(lora.r * (module.in_features + module.out_features) for module in adapted),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        feed_forward=text.intermediate_size,
        key_value=head_width * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        vocabulary=text.vocab_size,
    )


def estimate(config: Config, shape: Shape, prompt_tokens: float, place: Place) -> Memory:
    """The memory of one training process at its peak.

    Weights that FSDP or DeepSpeed spread over processes count in full: each has them all while it samples.

    Args:
        prompt_tokens: length of a prompt; the longest, where nothing may go wrong.
    """
    grpo, width = config.grpo, place.width
    quantized = shape.linear_parameters if config.policy.load_in_4bit else 0
    weights = (shape.parameters - quantized) * width + quantized * BYTES_PER_4BIT_WEIGHT
    adapter = float(shape.adapter_parameters * OPTIMISED_BYTES)
    rewards = _rewards(config)
    runtime = RUNTIME["cuda" if place.on_gpu else "cpu"]
    rows = grpo.completions_per_step / place.processes
    is_sampler = grpo.rollouts == "transformers"
    merged = 0.0
    if is_sampler and grpo.fast_path and not config.policy.load_in_4bit:
        merged = float(shape.adapted_parameters * width)
        if place.free is not None and merged > (place.free - weights - adapter) / 2:
            merged = 0.0  # the trainer goes without, then
    kept = 2 * shape.layers * shape.key_value * width * (prompt_tokens + grpo.max_completion_tokens)
    sampling = rows * (kept + LOGITS * 4 * shape.vocabulary) if is_sampler else 0.0
    if grpo.rollouts == "vllm-colocate":
        runtime += VLLM_SHARE * place.total
    return Memory(
        weights=weights,
        merged_copy=merged,
        adapter=adapter,
        rewards=rewards,
        runtime=runtime,
        sampling=sampling,
        loss=_loss(config, shape, prompt_tokens, place),
    )


def _loss(config: Config, shape: Shape, prompt_tokens: float, place: Place) -> float:
    """Bytes for the loss of one part of the step: what layers keep for the backward pass, and a tile of logits."""
    grpo = config.grpo
    rows = grpo.completions_per_step / (place.processes * grpo.gradient_accumulation_steps)
    prompts = -(-rows // grpo.num_generations) if grpo.fast_path else rows
    tokens = rows * grpo.max_completion_tokens + prompts * prompt_tokens
    one_layer = tokens * (ACTIVATIONS[0] * shape.hidden + ACTIVATIONS[1] * shape.feed_forward)
    recomputed = place.on_gpu and not grpo.fast_path  # activation checkpointing: each layer keeps its input alone
    kept = one_layer + tokens * shape.layers * shape.hidden if recomputed else one_layer * shape.layers
    tile = 2 * min(rows * grpo.max_completion_tokens, TILE_TOKENS) * shape.vocabulary * 4
    return float(kept * place.width + tile)


def _rewards(config: Config) -> float:
    """Bytes of the rewards' own models; a fluency scorer that is the base itself shares the policy's weights."""
    needed = 0.0
    for reward in config.rewards:
        if isinstance(reward, SemanticReward):
            needed += _weights_on_disk(reward.encoder) or ENCODER
        elif isinstance(reward, FluencyReward) and reward.scorer:
            needed += _weights_on_disk(reward.scorer)
    return needed


def _weights_on_disk(folder: str) -> float:
    return float(sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")))


def find_refusal(config: Config, shape: Shape, prompt_tokens: float, place: Place) -> str:
    """Why a training can't fit in its GPU, and the settings that would make it fit; empty where it fits."""
    needed = estimate(config, shape, prompt_tokens, place).peak
    if place.free is None or needed <= place.free:
        return ""
    told = f"needs about {needed / 2**30:.1f} GiB of GPU memory, and {place.free / 2**30:.1f} GiB are free"
    smallest = needed
    for changed, setting in _smaller(config, place):
        smaller = estimate(changed, shape, prompt_tokens, place).peak
        if smaller <= place.free:
            return f"{told}: {setting} would make it fit ({smaller / 2**30:.1f} GiB)"
        smallest = min(smallest, smaller)
    return f"{told}; the least that settings make of it is {smallest / 2**30:.1f} GiB: take a smaller base model"


def _smaller(config: Config, place: Place) -> Iterator[tuple[Config, str]]:
    """Configs that need less, and what to set for them: one setting, else two, else three."""
    moves = _moves(config, place)
    for count in (1, 2, 3):
        for chosen in combinations(moves, count):
            for values in product(*chosen):
                grpo = config.grpo.model_copy(update=dict(value for value in values if value[0] != "load_in_4bit"))
                if grpo.completions_per_step % (grpo.gradient_accumulation_steps * place.processes):
                    continue
                policy = config.policy.model_copy(update=dict(value for value in values if value[0] == "load_in_4bit"))
                told = (
                    f"--set {'policy' if name == 'load_in_4bit' else 'grpo'}.{name}={json.dumps(value)}"
                    for name, value in values
                )
                yield config.model_copy(update={"grpo": grpo, "policy": policy}), " ".join(told)


def _moves(config: Config, place: Place) -> list[list[tuple[str, int | bool]]]:
    """Settings that save memory, each with its values; first those that leave what is learned as it is.

    Completions are cut to a quarter at most: a shorter limit asks for another training.
    """
    grpo, limit = config.grpo, config.grpo.max_completion_tokens
    moves: list[list[tuple[str, int | bool]]] = [
        [("gradient_accumulation_steps", parts) for parts in range(2, grpo.completions_per_step + 1)],
        [("load_in_4bit", True)],
        [("fast_path", False)],
        [("prompts_per_step", prompts) for prompts in range(grpo.prompts_per_step - 1, 0, -1)],
        [("max_completion_tokens", limit * quarters // 4) for quarters in (3, 2, 1) if limit >= 4],
    ]
    moves[0] = [move for move in moves[0] if move[1] > grpo.gradient_accumulation_steps]
    moves[3] = [move for move in moves[3] if move[1] % place.processes == 0]
    if config.policy.load_in_4bit:
        moves[1] = []
    if not grpo.fast_path:
        moves[2] = []
    return [move for move in moves if move]
