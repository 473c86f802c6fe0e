"""Greedy completions of many prompts: by our own decoding loop where the base model allows it, or transformers'."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.grpo.obstacles import obstacle_in_model
from medgrpo.grpo.sampling import Decoding, sample
from medgrpo.policy import Policy


class Completer:
    """Completes prompts with one policy. Both loops give the same tokens; ours drops rows that have ended."""

    def __init__(self, policy: Policy, max_tokens: int) -> None:
        """Choose the loop; for ours, merge the adapter into a copy, where that can be done.

        Args:
            max_tokens: completions are cut at so many tokens.
        """
        model, tokenizer = policy.model, policy.tokenizer
        self._policy = policy
        self._generation = deepcopy(model.generation_config)  # a base model's own may ask for penalties
        self._generation.update(do_sample=False, max_new_tokens=max_tokens, pad_token_id=tokenizer.pad_token_id)
        if self._generation.eos_token_id is None:
            self._generation.eos_token_id = tokenizer.eos_token_id
        self._decoding = Decoding.of(self._generation) if obstacle_in_model(model) is None else None
        if self._decoding is not None:
            self._sampler = InferenceCopy(model).refresh() if can_be_copied(model) else model

    def complete(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The completions' texts, without special tokens.

        Args:
            prompts: token ids. Those of similar length are best completed together.
        """
        if self._decoding is not None:
            tokens = sample(self._sampler, prompts, self._decoding).tokens
        else:
            tokens = self._generated(prompts)
        texts: list[str] = self._policy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _generated(self, prompts: Sequence[Sequence[int]]) -> Any:
        import torch

        model = self._policy.model
        padded = self._policy.tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
        with torch.inference_mode():
            rows = model.generate(**padded.to(model.device), generation_config=self._generation)
        return rows[:, padded["input_ids"].shape[1] :]
