"""Completions of many prompts: by our own decoding loop where the base model allows it, or transformers'."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch

from medgrpo.greedy import GreedyDecoder
from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.grpo.obstacles import obstacle_in_model
from medgrpo.grpo.sampling import Decoding, sample
from medgrpo.policy import Policy


class Completer:
    """Completes prompts with one policy. Both loops give the same greedy tokens; ours drops rows that have ended."""

    def __init__(self, policy: Policy, max_tokens: int) -> None:
        """Prepare nothing yet: what needs memory is made when it is first used.

        Args:
            max_tokens: completions are cut at so many tokens.
        """
        model, tokenizer = policy.model, policy.tokenizer
        self._policy = policy
        self._generation = deepcopy(model.generation_config)  # a base model's own may ask for penalties
        self._generation.update(do_sample=False, max_new_tokens=max_tokens, pad_token_id=tokenizer.pad_token_id)
        if self._generation.eos_token_id is None:
            self._generation.eos_token_id = tokenizer.eos_token_id

    def complete(self, prompts: Sequence[Sequence[int]], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """The completions' texts, without special tokens.

        Args:
            prompts: token ids. Those of similar length are best completed together; equal ones are read once.
            temperature: 0: greedy. Above it tokens are drawn from all of the vocabulary.
            seed: of the random numbers, which are these prompts' own: others that are drawn don't change them.
        """
        generation = self._at(temperature)
        with torch.random.fork_rng(enabled=temperature > 0):
            if temperature > 0:
                torch.manual_seed(seed)
            decoding = self._decoding(generation)
            if decoding is None:
                tokens = self._generated(prompts, generation)
            elif decoding.greedy and not decoding.min_tokens:
                tokens = self._greedy.complete(prompts)
            else:
                tokens = sample(self._sampler, prompts, decoding).tokens
        texts: list[str] = self._policy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _at(self, temperature: float) -> Any:
        generation = deepcopy(self._generation)
        if temperature > 0:
            generation.update(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, min_p=None)
        return generation

    def _decoding(self, generation: Any) -> Decoding | None:
        """How our loop does what is asked; None where it can't."""
        return Decoding.of(generation) if obstacle_in_model(self._policy.model) is None else None

    @cached_property
    def _greedy(self) -> GreedyDecoder:
        decoding = Decoding.of(self._at(0.0))
        assert decoding is not None
        return GreedyDecoder(self._sampler, decoding)

    @cached_property
    def _sampler(self) -> Any:
        """What our loop runs: a copy with the adapter merged, where that can be made."""
        model = self._policy.model
        return InferenceCopy(model).refresh() if can_be_copied(model) else model

    def _generated(self, prompts: Sequence[Sequence[int]], generation: Any) -> Any:
        model = self._policy.model
        padded = self._policy.tokenizer.pad({"input_ids": [list(prompt) for prompt in prompts]}, return_tensors="pt")
        with torch.inference_mode():
            rows = model.generate(**padded.to(model.device), generation_config=generation)
        return rows[:, padded["input_ids"].shape[1] :]
