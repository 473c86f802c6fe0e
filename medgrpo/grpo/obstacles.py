"""Where the fast path can't be taken, and why."""

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def obstacle_to_scoring(trainer: Any) -> str | None:
    """Why completions can't be scored on shared prompts; None: they can.

    Args:
        trainer: TRL's, after its own preparations.
    """
    if trainer.args.gradient_checkpointing:
        return "gradient checkpointing computes activations twice, and a cache can't be part of that"
    return _obstacle(trainer)


def obstacle_to_sampling(trainer: Any) -> str | None:
    """Why completions can't be sampled by our own loop; None: they can."""
    if trainer.use_vllm:
        return "vLLM samples them"
    if trainer.use_transformers_continuous_batching:
        return "transformers' continuous batching samples them"
    return _obstacle(trainer)


def _obstacle(trainer: Any) -> str | None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return "FSDP and DeepSpeed split the policy's weights, and each of its calls must be theirs"
    return obstacle_in_model(trainer.accelerator.unwrap_model(trainer.model))


def obstacle_in_model(model: Any) -> str | None:
    """Why our own loops can't run a model; None: they can."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"it is written for attention by 'sdpa', and this base model's is {config._attn_implementation!r}"
    layers = DynamicCache(config=config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "not all of this base model's layers attend to all that is before them (a sliding window, for example)"
    return None
