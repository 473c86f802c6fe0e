"""Reward: is the answer right?"""

from collections.abc import Sequence
from typing import Literal

from medgrpo.judge import is_correct
from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout


class CorrectReward(Reward):
    """1 for a right answer (`medgrpo.judge.is_correct`) in a completion that follows the grammar, else 0.

    The same rule decides an evaluation's accuracy. A right answer without reasoning earns nothing: else the policy
    learns to leave it out.
    """

    kind: Literal["correct"] = "correct"
    """Chooses this reward."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [float(is_correct(rollout.answer, rollout.example)) for rollout in rollouts]
