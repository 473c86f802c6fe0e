"""Intervals and paired comparisons, from scipy."""

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

    Raises:
        ValueError: the two don't have the same number of rows.
    """
    differences = [float(c) - float(i) for c, i in zip(challenger, incumbent, strict=True)]
    if len(set(differences)) == 1:
        return Interval(mean=differences[0], low=differences[0], high=differences[0])
    return bootstrap_interval(differences, confidence, resamples)


def sign_test(challenger: Sequence[bool], incumbent: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test: rows that only the challenger has right, rows that only the incumbent has, two-sided p."""
    from scipy.stats import binomtest

    wins = sum(c and not i for c, i in zip(challenger, incumbent, strict=True))
    losses = sum(i and not c for c, i in zip(challenger, incumbent, strict=True))
    return wins, losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _mean(sample: Any, axis: int) -> Any:
    """Mean of an array along an axis, as scipy calls it."""
    return sample.mean(axis=axis)
