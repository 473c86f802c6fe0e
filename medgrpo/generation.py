"""Greedy completions of many prompts: by our own decoding loop where the base model allows it, or transformers'."""

from collections.abc import Sequence
from typing import Any

from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.grpo.obstacles import obstacle_in_model
from medgrpo.grpo.sampling import Decoding, sample
from medgrpo.policy import Policy


class Completer:
    """Completes prompts with one policy. Both loops give the same tokens; ours drops rows that have ended."""

    def __init__(self, policy: Policy, max_tokens: int) -> None:
        """Merge the adapter into a copy, where that can be done.

        Args:
            max_tokens: completions are cut at so many tokens.
        """
        self._policy = policy
        self._max_tokens = max_tokens
        model = policy.model
        self._sampler = InferenceCopy(model).refresh() if can_be_copied(model) else model
        self._is_ours = obstacle_in_model(model) is None

    def complete(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The completions' texts, without special tokens.

        Args:
            prompts: token ids. Those of similar length are best completed together.
        """
        tokens = self._ours(prompts) if self._is_ours else self._generated(prompts)
        texts: list[str] = self._policy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _ours(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        tokenizer, generation = self._policy.tokenizer, self._policy.model.generation_config
        ends = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
        decoding = Decoding(
            max_tokens=self._max_tokens,
            end_tokens=tuple(ends) if isinstance(ends, list) else (ends,),
            pad_token=tokenizer.pad_token_id,
            greedy=True,
        )
        tokens: list[list[int]] = sample(self._sampler, prompts, decoding).tokens
        return tokens

    def _generated(self, prompts: Sequence[Sequence[int]]) -> Any:
        import torch

        tokenizer, model = self._policy.tokenizer, self._policy.model
        padded = tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
        with torch.inference_mode():
            rows = model.generate(
                **padded.to(model.device),
                do_sample=False,
                max_new_tokens=self._max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        return rows[:, padded["input_ids"].shape[1] :]
