"""The one way to ask a reward for scores: each distinct completion once, within its time, and checked."""

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Sequence
from numbers import Real
from typing import NamedTuple

from medgrpo.data.words import stable_hash
from medgrpo.errors import RewardError
from medgrpo.rewards.deadline import CallFailed, Overdue, within
from medgrpo.rewards.reward import Context, Reward
from medgrpo.types import Rollout

KNOWN = 100_000
"""Scores that are remembered for each reward; the oldest are forgotten first."""


class Scored(NamedTuple):
    """The scores of one batch."""

    values: list[float]
    seconds: float
    hits: int
    """Completions whose score was known already, from this batch or an earlier one."""


class Scorer:
    """Asks one reward. A score is remembered by the digest of the completion and its example, gold and all."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._known: dict[bytes, float] = {}

    def score(self, rollouts: Sequence[Rollout]) -> Scored:
        """Score a batch, in order.

        Raises:
            RewardError: the reward raised, took too long, returned another number of scores, or what is no score.
        """
        start = time.perf_counter()
        keys, missing = self._missing(rollouts)
        asked = list(missing.values())
        values = self._checked(asked, _call(self.reward, asked)) if asked else []
        return self._told(keys, dict(zip(missing, values, strict=True)), start)

    def _missing(self, rollouts: Sequence[Rollout]) -> tuple[list[bytes], dict[bytes, Rollout]]:
        """A key per rollout, and the rollouts that the reward must be asked about, each once."""
        if not self.reward.is_cached:
            keys = [place.to_bytes(8) for place in range(len(rollouts))]
            return keys, dict(zip(keys, rollouts, strict=True))
        keys = [_key(rollout) for rollout in rollouts]
        by_key = dict(zip(keys, rollouts, strict=True))
        return keys, {key: rollout for key, rollout in by_key.items() if key not in self._known}

    def _told(self, keys: list[bytes], fresh: dict[bytes, float], start: float) -> Scored:
        values = [fresh[key] if key in fresh else self._known[key] for key in keys]
        if self.reward.is_cached:
            self._known |= fresh
            for oldest in list(self._known)[: max(0, len(self._known) - KNOWN)]:
                del self._known[oldest]
        return Scored(values, time.perf_counter() - start, len(keys) - len(fresh))

    def _checked(self, rollouts: Sequence[Rollout], returned: Sequence[float]) -> list[float]:
        """The scores as floats, if they are scores."""
        reward = self.reward
        is_list = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
        if not is_list or len(returned) != len(rollouts):
            found = f"{len(returned)} scores" if is_list else f"a {type(returned).__name__}"
            raise RewardError(
                f"reward '{reward.label}' returned {found} for {len(rollouts)} completions: it must return a list of "
                "floats, one for each (of an array or tensor: .tolist())"
            )
        for value, rollout in zip(returned, rollouts, strict=True):
            if not _is_score(value, reward):
                raise RewardError(
                    f"reward '{reward.label}' gave {value!r} to example '{rollout.example.id}': "
                    f"not a number in [{reward.lowest:g}, {reward.highest:g}]"
                )
        return [float(value) for value in returned]


def _key(rollout: Rollout) -> bytes:
    """Digest of a completion and its example; by repr, as JSON can't hold half of a surrogate pair."""
    return stable_hash(f"{rollout.example!r} {rollout.completion!r} {rollout.tokens}")


def _is_score(value: object, reward: Reward) -> bool:
    """Whether a value is a finite real number in the reward's range; strings that look like one are none."""
    if not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    return math.isfinite(number) and reward.lowest <= number <= reward.highest


def _call(reward: Reward, rollouts: Sequence[Rollout]) -> Sequence[float]:
    """What the reward returns, in time; a reward may be anybody's code: name it, never guess a score for it."""

    def ask() -> Sequence[float]:
        returned = reward.score(rollouts)
        return asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned

    try:
        return within(reward.timeout_s, ask)
    except Overdue as error:
        raise RewardError(
            f"reward '{reward.label}' took longer than its {reward.timeout_s:g} s for {len(rollouts)} completions: "
            "make it faster, or raise its timeout_s in the config"
        ) from error
    except CallFailed as error:
        cause = error.__cause__
        raise RewardError(
            f"reward '{reward.label}' raised {type(cause).__name__}: {cause}. Mend it, or take it out of the config"
        ) from cause


async def _awaited(returned: Awaitable[Sequence[float]]) -> Sequence[float]:
    return await returned


class RewardSet:
    """The rewards of a config, asked together; what one of them was asked once it isn't asked again."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.rewards = tuple(rewards)
        self._scorers = [Scorer(reward) for reward in self.rewards]

    def terms(self, rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
        """What each reward adds to the total of each rollout: label → weight × score."""
        columns = {
            scorer.reward.label: [scorer.reward.weight * value for value in scorer.score(rollouts).values]
            for scorer in self._scorers
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def totals(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Total reward of each rollout, as the trainer sees it."""
        return [sum(terms.values()) for terms in self.terms(rollouts)]


def prepared(rewards: Sequence[Reward], context: Context) -> tuple[Reward, ...]:
    """The rewards, ready to score."""
    return tuple(reward.prepared(context) for reward in rewards)


def score(reward: Reward, rollouts: Sequence[Rollout]) -> list[float]:
    """Score a batch once; see `Scorer`."""
    return Scorer(reward).score(rollouts).values
