"""TRL's GRPO trainer with shared prompt prefixes. Same losses, same gradients, fewer tokens."""

from typing import Any

import torch
from trl import GRPOTrainer

from medgrpo.grpo.shared_prefix import completion_logps, sample


class SharedPrefixTrainer(GRPOTrainer):
    """Scores and samples each group on one run of its prompt.

    Auxiliary losses, images and gradient checkpointing (which can't keep a cache) take TRL's own path.
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Any, Any, Any]:
        """TRL's own signature; see `GRPOTrainer`."""
        if compute_aux_loss or self.args.gradient_checkpointing or any(v is not None for v in multimodal.values()):
            stock: tuple[Any, Any, Any] = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **multimodal,
            )
            return stock
        size = batch_size or input_ids.size(0)
        parts = []
        with self.accelerator.autocast():
            for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
                parts.append(completion_logps(model, ids, mask, logits_to_keep))
        logps, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None


def rollout(prompts: list[list[dict[str, str]]], trainer: GRPOTrainer) -> dict[str, Any]:
    """TRL's `rollout_func`: sample one completion for each prompt (which TRL repeats G times).

    The tokenizer's template renders the prompts exactly as TRL itself would.
    """
    tokenizer = trainer.processing_class
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    model = trainer.accelerator.unwrap_model(trainer.model)
    completions = sample(model, ids, trainer.generation_config, tokenizer.pad_token_id)
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}
