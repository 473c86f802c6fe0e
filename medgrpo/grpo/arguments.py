"""Our settings in TRL's words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.config import Config, WarmStartConfig
from medgrpo.grpo.ranks import is_sharded, world_size

if TYPE_CHECKING:
    from trl import GRPOConfig, SFTConfig


def trl_arguments(config: Config, output: Path, vllm_url: str = "") -> "GRPOConfig":
    """TRL's configuration for this config, in one of as many processes as train together.

    On a CPU bfloat16 and activation checkpointing are off: TRL turns both on by default, and a CPU without AVX-512
    multiplies bfloat16 matrices hundreds of times slower than float32 ones.

    Args:
        vllm_url: address of the server that samples, for `grpo.rollouts = "vllm-server"`.
    """
    import torch
    from trl import GRPOConfig

    from medgrpo.policy import choose_dtype

    grpo = config.grpo
    on_gpu = torch.cuda.is_available()
    dtype = choose_dtype(config.policy.dtype)
    return GRPOConfig(
        output_dir=str(output),
        max_steps=grpo.steps,
        save_strategy="steps",
        save_steps=grpo.save_every,
        logging_steps=1,
        logging_nan_inf_filter=False,  # NaN is what a guard looks for
        report_to="none",
        disable_tqdm=True,
        log_completions=False,  # ours are recorded with the step that sampled them, see blocks.py
        seed=config.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu and dtype is torch.bfloat16,
        fp16=on_gpu and dtype is torch.float16,
        gradient_checkpointing=on_gpu and (is_sharded() or not grpo.fast_path),
        dataloader_pin_memory=on_gpu,
        per_device_train_batch_size=grpo.completions_per_step // (grpo.gradient_accumulation_steps * world_size()),
        ddp_find_unused_parameters=False,  # every loss runs through the whole adapter
        gradient_accumulation_steps=grpo.gradient_accumulation_steps,
        num_generations=grpo.num_generations,
        num_iterations=grpo.num_iterations,
        max_completion_length=grpo.max_completion_tokens,
        temperature=grpo.temperature,
        top_p=grpo.top_p,
        learning_rate=grpo.learning_rate,
        lr_scheduler_type=grpo.lr_schedule,
        warmup_steps=round(grpo.warmup_ratio * grpo.steps),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
        beta=grpo.beta,
        loss_type=grpo.loss_type,
        scale_rewards=grpo.scale_rewards,
        mask_truncated_completions=grpo.mask_truncated_completions,
        reward_weights=[reward.weight for reward in config.rewards],
        disable_dropout=True,
        **_vllm(config, vllm_url),
    )


def _vllm(config: Config, url: str) -> dict[str, Any]:
    """Who samples. vLLM is told the longest text there is: its cache would hold the model's whole context else."""
    rollouts = config.grpo.rollouts
    if rollouts == "transformers":
        return {}
    if rollouts == "vllm-server":
        return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
    longest = config.data.max_prompt_tokens + config.grpo.max_completion_tokens
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": longest}


def warm_start_arguments(config: Config, warm: WarmStartConfig, output: Path) -> "SFTConfig":
    """TRL's configuration for a warm start."""
    import torch
    from trl import SFTConfig

    from medgrpo.policy import choose_dtype

    on_gpu = torch.cuda.is_available()
    dtype = choose_dtype(config.policy.dtype)
    return SFTConfig(
        output_dir=str(output),
        num_train_epochs=warm.epochs,
        per_device_train_batch_size=warm.batch_size // world_size(),
        learning_rate=warm.learning_rate,
        lr_scheduler_type="linear",
        max_length=None,  # prompts were measured when the data was prepared
        completion_only_loss=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu and dtype is torch.bfloat16,
        fp16=on_gpu and dtype is torch.float16,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
    )
