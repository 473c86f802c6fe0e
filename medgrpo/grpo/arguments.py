"""Our settings in TRL's words."""

from pathlib import Path
from typing import TYPE_CHECKING

from medgrpo.config import Config

if TYPE_CHECKING:
    from trl import GRPOConfig


def trl_arguments(config: Config, output: Path) -> "GRPOConfig":
    """TRL's configuration for this config.

    On a CPU bfloat16 and activation checkpointing are off: TRL turns both on by default, and a CPU without AVX-512
    multiplies bfloat16 matrices hundreds of times slower than float32 ones.
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
        report_to="none",
        disable_tqdm=True,
        log_completions=True,
        num_completions_to_print=0,
        seed=config.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu and dtype is torch.bfloat16,
        fp16=on_gpu and dtype is torch.float16,
        gradient_checkpointing=on_gpu and not grpo.fast_path,
        dataloader_pin_memory=on_gpu,
        per_device_train_batch_size=grpo.completions_per_step // grpo.gradient_accumulation_steps,
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
    )
