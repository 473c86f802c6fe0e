"""Reward: does the completion follow the answer grammar?"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout

_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


class FormatReward(Reward):
    """1 for the strict grammar; else `partial` × (share of the four tags that occur exactly once, in order)."""

    kind: Literal["format"] = "format"
    """Chooses this reward."""
    partial: float = Field(default=0.5, ge=0, lt=1)
    """What all four tags in order are worth when something else breaks the grammar; 0 pays strict completions only."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [1.0 if r.parsed.is_strict else self.partial * _tags_in_order(r.completion) for r in rollouts]


def _tags_in_order(completion: str) -> float:
    """Share of the tags found exactly once, each after the one before it."""
    position, found = 0, 0
    for tag in _TAGS:
        place = completion.find(tag, position)
        if place < 0 or completion.count(tag) != 1:
            break
        position, found = place + len(tag), found + 1
    return found / len(_TAGS)
