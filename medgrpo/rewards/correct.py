"""Reward: is the parsed answer right?"""

from collections.abc import Sequence
from typing import Literal

from medgrpo.answer import is_correct
from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout


class CorrectReward(Reward):
    """1 when the answer block holds a right answer (`medgrpo.answer.is_correct`), else 0. No block, no marks."""

    kind: Literal["correct"] = "correct"
    """Chooses this reward."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [float(is_correct(rollout.parsed.answer, rollout.example)) for rollout in rollouts]
