"""Reward: does the reasoning go round in circles?"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medgrpo.rewards.novelty import runs_of, words_of
from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout


class RepetitionReward(Reward):
    """1 - the share of word n-grams that stood in the reasoning before; 0 without an answer in form.

    A reasoning with fewer than `n` words repeats nothing. Case and punctuation don't count.
    """

    kind: Literal["repetition"] = "repetition"
    """Chooses this reward."""
    n: int = Field(default=3, ge=1)
    """Words in a row that are compared."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [self._score(rollout.reasoning or "") if self.is_answered(rollout) else 0.0 for rollout in rollouts]

    def full_marks(self, rollout: Rollout) -> float:
        """A gold reasoning may repeat itself: a score's worked sum lists every item in the same words."""
        return 0.0

    def _score(self, reasoning: str) -> float:
        runs = runs_of(words_of(reasoning), self.n)
        return len(set(runs)) / len(runs) if runs else 1.0
