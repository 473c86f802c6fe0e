"""The one way to ask a reward for scores, and the adapter that gives it to TRL."""

import math
from collections.abc import Sequence
from typing import Any

from medgrpo.answer import parse
from medgrpo.errors import RewardError
from medgrpo.rewards.fluency import FluencyReward
from medgrpo.rewards.reward import Reward
from medgrpo.types import BaseRef, Example, Rollout


def score(reward: Reward, rollouts: Sequence[Rollout]) -> list[float]:
    """Score a batch and check what came back.

    Raises:
        RewardError: the reward raised, returned another number of scores, or a score outside [0, 1].
    """
    try:
        scores = [float(value) for value in reward.score(rollouts)]
    except Exception as error:  # a reward may be anybody's code: name it, never guess a score for it
        raise RewardError(f"reward '{reward.kind}' raised {type(error).__name__}: {error}") from error
    if len(scores) != len(rollouts):
        raise RewardError(f"reward '{reward.kind}' returned {len(scores)} scores for {len(rollouts)} completions")
    for value, rollout in zip(scores, rollouts, strict=True):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise RewardError(f"reward '{reward.kind}' gave {value} to example '{rollout.example.id}': not in [0, 1]")
    return scores


def bound(rewards: Sequence[Reward], base: BaseRef) -> tuple[Reward, ...]:
    """The rewards, ready for this base model: it is the fluency reward's scorer where the config names none."""
    return tuple(
        reward.model_copy(update={"scorer": base.folder})
        if isinstance(reward, FluencyReward) and not reward.scorer
        else reward
        for reward in rewards
    )


def total(rewards: Sequence[Reward], rollouts: Sequence[Rollout]) -> list[float]:
    """Total reward: the weighted sum over all rewards, as the trainer sees it."""
    columns = [[reward.weight * value for value in score(reward, rollouts)] for reward in rewards]
    return [sum(row) for row in zip(*columns, strict=True)]


class TrlReward:
    """A reward in the shape that TRL calls: chat completions and dataset columns in, a list of floats out."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.__name__ = reward.kind  # TRL names the metric by it

    def __call__(
        self, completions: Sequence[list[dict[str, str]]], example: Sequence[str], **_columns: Any
    ) -> list[float]:
        """Score one step's completions.

        Args:
            completions: one chat turn per completion.
            example: the dataset's column of `Example` JSON, one per completion.
        """
        texts = [turns[0]["content"] for turns in completions]
        return score(self.reward, [read_rollout(row, text) for row, text in zip(example, texts, strict=True)])


def read_rollout(example_json: str, completion: str) -> Rollout:
    """Parse a completion of an example that comes as JSON."""
    return Rollout(example=Example.model_validate_json(example_json), completion=completion, parsed=parse(completion))
