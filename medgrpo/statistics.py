"""Intervals, paired comparisons and what a number of rows can show, from scipy."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from medgrpo.types import Interval

SEED = 0
"""Bootstrap draws are fixed, so that a report can be computed again from its rows."""


def bootstrap_interval(values: Sequence[float], confidence: float, resamples: int) -> Interval:
    """Mean with a percentile bootstrap interval.

    Resampling values that are all equal can't show any spread. For shares (0s or 1s only) the Wilson score interval
    stands in then: 0 right of 20 doesn't prove that none would be.

    Args:
        values: one per row; at least one.
        confidence: level of the interval, for example 0.95.
        resamples: bootstrap resamples.
    """
    from scipy.stats import bootstrap

    mean = sum(values) / len(values)
    if len(set(values)) > 1:
        found = bootstrap(
            (values,),
            _mean,
            confidence_level=confidence,
            n_resamples=resamples,
            method="percentile",
            rng=SEED,
            batch=256,
        ).confidence_interval
        return Interval(mean=mean, low=float(found.low), high=float(found.high))
    if mean in (0.0, 1.0):
        return wilson_interval(round(mean * len(values)), len(values), confidence)
    return Interval(mean=mean, low=mean, high=mean)


def wilson_interval(right: int, rows: int, confidence: float) -> Interval:
    """A share with Wilson's score interval.

    Args:
        rows: at least one.
        confidence: level of the interval.
    """
    from scipy.stats import binomtest

    found = binomtest(right, rows).proportion_ci(confidence, method="wilson")
    return Interval(mean=right / rows, low=float(found.low), high=float(found.high))


def paired_difference(
    challenger: Sequence[bool], incumbent: Sequence[bool], confidence: float, resamples: int
) -> Interval:
    """Accuracy of the challenger minus that of the incumbent on the same rows, resampling rows as pairs.

    Differences that are all equal show no spread: their score interval stands in then.

    Raises:
        ValueError: the two don't have the same number of rows.
    """
    differences = [float(c) - float(i) for c, i in zip(challenger, incumbent, strict=True)]
    if len(set(differences)) == 1:
        rows = len(differences)
        return paired_score_interval(differences.count(1.0), differences.count(-1.0), rows, confidence)
    return bootstrap_interval(differences, confidence, resamples)


def paired_score_interval(wins: int, losses: int, rows: int, confidence: float) -> Interval:
    """The share of rows won minus that of rows lost, with an interval that a handful of rows can't make look sure.

    Wilson's intervals of the two shares, put together as by Zou and Donner (2008, MOVER): the shares are correlated,
    as a row that is won can't be lost.

    Args:
        wins: rows that only the challenger has right.
        losses: rows that only the incumbent has right.
    """
    won, lost = (wilson_interval(count, rows, confidence) for count in (wins, losses))
    both = won.mean * lost.mean
    correlation = -math.sqrt(both / ((1 - won.mean) * (1 - lost.mean))) if both else 0.0

    def reach(first: float, second: float) -> float:
        return math.sqrt(first * first - 2 * correlation * first * second + second * second)

    mean = won.mean - lost.mean
    low = mean - reach(won.mean - won.low, lost.high - lost.mean)
    high = mean + reach(won.high - won.mean, lost.mean - lost.low)
    return Interval(mean=mean, low=max(-1.0, low), high=min(1.0, high))


def sign_test(challenger: Sequence[bool], incumbent: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test: rows that only the challenger has right, rows that only the incumbent has, two-sided p."""
    from scipy.stats import binomtest

    wins = sum(c and not i for c, i in zip(challenger, incumbent, strict=True))
    losses = sum(i and not c for c, i in zip(challenger, incumbent, strict=True))
    return wins, losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compared with a level, they keep the chance of any false alarm at that level."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def detectable_difference(
    rows: int, discordance: float, confidence: float, power: float = 0.8, margin: float = 0.0
) -> float | None:
    """Smallest true difference, in whole rows, that is shown to be above `margin` with this power.

    Shown means what the gate means by it: McNemar's exact test finds it, and its paired interval lies above `margin`.
    A normal curve with a continuity correction stands for the bootstrap.

    Args:
        rows: rows that both policies answer; at least one.
        discordance: share of the rows on which one is right and the other wrong; a larger difference raises it.

    Returns:
        A difference of shares in (0, 1]; None where the rows are too few for any.
    """
    needed = _wins_needed(rows, confidence, margin)

    def power_at(won: int) -> float:
        return _power(won / rows, max(discordance, won / rows), needed)

    found = bisect_left(range(1, rows + 1), power, key=power_at) + 1
    return found / rows if found <= rows else None


def _wins_needed(rows: int, confidence: float, margin: float) -> Any:
    """For each count of rows that differ, from 0 to `rows`: how many of them must be won."""
    import numpy as np
    from scipy.stats import binom, norm

    differing = np.arange(rows + 1)
    by_test = binom.isf((1 - confidence) / 2, differing, 0.5) + 1
    z2, bound = norm.ppf((1 + confidence) / 2) ** 2, margin + 0.5 / rows
    # The smallest difference d of which d - z * sqrt((differing / rows - d²) / rows) is above the bound.
    square = np.maximum((rows + z2) * z2 * differing / rows - rows * z2 * bound**2, 0.0)
    difference = np.maximum(bound, (rows * bound + np.sqrt(square)) / (rows + z2))
    return np.maximum(by_test, np.floor((differing + rows * difference) / 2) + 1)


def _power(difference: float, discordance: float, needed: Any) -> float:
    """Chance that enough rows are won, where wins and losses make up `discordance` and are `difference` apart."""
    import numpy as np
    from scipy.stats import binom

    differing = np.arange(len(needed))
    shown = binom.sf(needed - 1, differing, (1 + difference / discordance) / 2)
    return float(np.sum(binom.pmf(differing, len(needed) - 1, discordance) * shown))


def pass_at(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k completions is right, from n of which c are (Chen et al. 2021, arXiv 2107.03374).

    Raises:
        ValueError: not 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} completions with {c} right: k must be 1 to n, and c at most n")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidences: in [0, 1], one per row, at least one; the end of a bin belongs to it.
        right: whether that row is right.

    Returns:
        Mean over rows of |confidence - accuracy| of the row's bin, in [0, 1].
    """
    gaps = [0.0] * 10
    for confidence, is_right in zip(confidences, right, strict=True):
        place = max(0, math.ceil(round(confidence * 10, 9)) - 1)
        gaps[place] += confidence - float(is_right)
    return sum(map(abs, gaps)) / len(confidences)


def _mean(sample: Any, axis: int) -> Any:
    """Mean of an array along an axis, as scipy calls it."""
    return sample.mean(axis=axis)
