"""Rewards in the shape that TRL calls: chat completions and dataset columns in, a list of floats out."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from medgrpo.answer import parse
from medgrpo.rewards.reward import Reward
from medgrpo.rewards.scoring import Scored, Scorer
from medgrpo.types import Example, Rollout

LogMetric = Callable[[str, float], None]


class TrlReward:
    """A reward as TRL calls it once per step, with all completions of the step."""

    def __init__(self, reward: Reward) -> None:
        self._scorer = Scorer(reward)
        self.__name__ = reward.label  # TRL names the metrics by it

    def __call__(
        self,
        completions: Sequence[list[dict[str, str]]],
        completion_ids: Sequence[Sequence[int]],
        example: Sequence[str],
        log_metric: LogMetric,
        **_columns: Any,
    ) -> list[float]:
        """Score one step's completions.

        Args:
            completions: one chat turn per completion.
            completion_ids: their tokens.
            example: the dataset's column of `Example` JSON, one per completion.
            log_metric: takes a figure of this step.
        """
        scored = self._scorer.score(_rollouts(completions, completion_ids, example))
        return self._logged(scored, log_metric)

    def _logged(self, scored: Scored, log_metric: LogMetric) -> list[float]:
        """The scores; how long they took and how many were known goes to the trainer's metrics."""
        log_metric(f"rewards/{self.__name__}/seconds", scored.seconds)
        log_metric(f"rewards/{self.__name__}/cache_hits", scored.hits / max(1, len(scored.values)))
        return scored.values


class AsyncTrlReward(TrlReward):
    """A reward that waits for others: TRL lets all of these wait at the same time."""

    async def __call__(self, **columns: Any) -> list[float]:  # type: ignore[override]  # TRL tells the two apart by it
        """As `TrlReward`; in a thread, whose time limit also holds for code that blocks inside of an `async def`."""
        return await asyncio.to_thread(super().__call__, **columns)


def for_trl(reward: Reward) -> TrlReward:
    """A reward in the shape that TRL calls."""
    return AsyncTrlReward(reward) if reward.is_async else TrlReward(reward)


def _rollouts(
    completions: Sequence[list[dict[str, str]]], completion_ids: Sequence[Sequence[int]], examples: Sequence[str]
) -> list[Rollout]:
    return [
        read_rollout(row, turns[0]["content"], len(tokens))
        for turns, tokens, row in zip(completions, completion_ids, examples, strict=True)
    ]


@lru_cache(maxsize=4096)
def read_rollout(example_json: str, completion: str, tokens: int) -> Rollout:
    """Parse a completion of an example that comes as JSON; once for all rewards of a step."""
    example = Example.model_validate_json(example_json)
    return Rollout(example=example, completion=completion, parsed=parse(completion), tokens=tokens)
