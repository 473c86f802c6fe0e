"""Reward: does the completion follow the answer grammar?"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from medgrpo.judge import is_readable
from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout

_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


class FormatReward(Reward):
    """1 for the strict grammar with an answer in the question's form; else `partial` × (share of tags in place).

    A tag is in place when it occurs exactly once, after the one before it. An answer is in the question's form when it
    is one answer of its kind (`medgrpo.judge.is_readable`), right or wrong: no list of options, no LaTeX box.
    """

    kind: Literal["format"] = "format"
    """Chooses this reward."""
    partial: float = Field(default=0.5, ge=0, lt=1)
    """What all four tags in place are worth when something else breaks the form; 0 pays strict completions only."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [
            1.0 if is_readable(rollout.answer, rollout.example) else self.partial * _tags_in_place(rollout.completion)
            for rollout in rollouts
        ]


def _tags_in_place(completion: str) -> float:
    """Share of the tags found exactly once, each after the one before it."""
    position, found = 0, 0
    for tag in _TAGS:
        place = completion.find(tag, position)
        if place < 0 or completion.count(tag) != 1:
            break
        position, found = place + len(tag), found + 1
    return found / len(_TAGS)
