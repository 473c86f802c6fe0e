"""Reward: does the reasoning read like language?"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from medgrpo.rewards.reward import Reward
from medgrpo.types import Parsed, Rollout

if TYPE_CHECKING:
    from medgrpo.policy import Policy

MAX_TOKENS = 512
"""Reasoning tokens that are scored; what comes after them doesn't change the score."""


class FluencyReward(Reward):
    """log(perplexity of the reasoning), mapped from the band [`fluent`, `gibberish`] to [1, 0] and clipped.

    Perplexity is exp(mean negative log-likelihood per token) of the reasoning block alone under a frozen scorer.
    It scores the completion, never the gold. Without a reasoning and an answer there are no marks: fluent text that
    answers nothing must not pay.
    """

    kind: Literal["fluency"] = "fluency"
    """Chooses this reward."""
    scorer: str = ""
    """Folder of a causal language model in the transformers layout; empty: the base model that is trained."""
    fluent: float = Field(default=20.0, gt=1)
    """Perplexity at or below which the reward is 1."""
    gibberish: float = Field(default=2000.0, gt=1)
    """Perplexity at or above which the reward is 0."""

    @model_validator(mode="after")
    def _band_is_ordered(self) -> "FluencyReward":
        if self.fluent >= self.gibberish:
            raise ValueError("fluent must be below gibberish")
        return self

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch; each row on its own, so that neighbours and padding can't change a score."""
        return [self._score(rollout.parsed) for rollout in rollouts]

    def full_marks(self, rollout: Rollout) -> float:
        """A gold reasoning may be terse: it needn't be fluent to be right."""
        return 0.0

    def _score(self, parsed: Parsed) -> float:
        if not parsed.reasoning or not parsed.answer:
            return 0.0
        nll = mean_nll(self.scorer, parsed.reasoning)
        low, high = math.log(self.fluent), math.log(self.gibberish)
        return min(1.0, max(0.0, (high - nll) / (high - low)))


@lru_cache(maxsize=65536)
def mean_nll(scorer: str, text: str) -> float:
    """Mean negative log-likelihood per token of `text`, in nats; infinite for an empty text."""
    import torch

    policy = load_scorer(scorer)
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TOKENS]
    if not ids:
        return math.inf
    start = policy.tokenizer.bos_token_id
    first = policy.tokenizer.eos_token_id if start is None else start
    context = torch.tensor([[first, *ids]], device=policy.model.device)
    with torch.inference_mode():
        loss = policy.model(input_ids=context, labels=context).loss
    return float(loss)


@lru_cache(maxsize=2)
def load_scorer(folder: str) -> "Policy":
    """Load the frozen scorer once per process."""
    from medgrpo.policy import load_base

    return load_base(folder)
