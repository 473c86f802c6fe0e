"""Intervals and paired differences against formulas and independent computations."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from medgrpo.statistics import bootstrap_interval, paired_difference
from medgrpo.types import Interval

RESAMPLES = 2000


def wilson(right: int, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval, by its formula."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def numpy_bootstrap(values: np.ndarray, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the mean, written without scipy."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (20_000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


SKEWED = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 7.0, 12.0, 40.0] * 4
SHARES = [1.0] * 30 + [0.0] * 70


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("values", "tolerance"), [(SKEWED, 0.5), (SHARES, 0.02)])
def test_the_interval_agrees_with_a_bootstrap_of_other_draws(
    values: list[float], tolerance: float, confidence: float
) -> None:
    found = bootstrap_interval(values, confidence, RESAMPLES)
    low, high = numpy_bootstrap(np.array(values), confidence, seed=99)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.low == pytest.approx(low, abs=tolerance)
    assert found.high == pytest.approx(high, abs=tolerance)
    assert found.low < found.mean < found.high


def test_the_interval_of_a_share_is_close_to_wilsons() -> None:
    found = bootstrap_interval(SHARES, 0.95, RESAMPLES)
    assert (found.low, found.high) == pytest.approx(wilson(30, 100, 0.95), abs=0.02)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("rows", [1, 2, 20, 500])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_none_or_all_gets_wilsons_interval(value: float, rows: int, confidence: float) -> None:
    found = bootstrap_interval([value] * rows, confidence, RESAMPLES)
    assert found.mean == value
    assert (found.low, found.high) == pytest.approx(wilson(int(value) * rows, rows, confidence), abs=1e-9)
    assert found.high - found.low > 0.0, "no number of rows is proof"


def test_nothing_right_of_twenty_by_hand() -> None:
    # z² = 3.8415, so the upper end is z² / (20 + z²).
    assert bootstrap_interval([0.0] * 20, 0.95, RESAMPLES).high == pytest.approx(3.8415 / 23.8415, abs=1e-4)


@pytest.mark.parametrize("value", [0.5, -1.0, 7.0])
def test_equal_values_that_are_no_shares_have_no_spread(value: float) -> None:
    assert bootstrap_interval([value] * 5, 0.95, RESAMPLES) == Interval(mean=value, low=value, high=value)


def test_one_value() -> None:
    assert bootstrap_interval([37.0], 0.95, RESAMPLES) == Interval(mean=37.0, low=37.0, high=37.0)


def test_booleans_count_as_shares() -> None:
    assert bootstrap_interval([True, False] * 20, 0.95, 500) == bootstrap_interval([1.0, 0.0] * 20, 0.95, 500)


def test_the_same_rows_give_the_same_interval() -> None:
    assert bootstrap_interval(SKEWED, 0.95, 500) == bootstrap_interval(list(SKEWED), 0.95, 500)


VALUES = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=40)


@hypothesis_settings(max_examples=40, deadline=None)
@given(VALUES)
def test_more_confidence_is_never_a_narrower_interval(values: list[float]) -> None:
    found = [bootstrap_interval(values, confidence, 300) for confidence in (0.6, 0.8, 0.95, 0.99)]
    for narrow, wide in pairwise(found):
        assert wide.low - 1e-9 <= narrow.low <= narrow.high <= wide.high + 1e-9
    assert min(values) <= found[-1].low or set(values) == {1.0}
    assert found[-1].high <= max(values) or set(values) == {0.0}


@pytest.mark.parametrize("values", [SKEWED, SHARES, [0.0] * 20, [1.0] * 20])
def test_more_confidence_is_a_wider_interval(values: list[float]) -> None:
    widths = [(i.high - i.low) for i in (bootstrap_interval(values, c, RESAMPLES) for c in (0.6, 0.8, 0.95, 0.99))]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_more_rows_are_a_narrower_interval() -> None:
    widths = [i.high - i.low for i in (bootstrap_interval([1.0, 0.0, 0.0] * n, 0.95, RESAMPLES) for n in (5, 20, 80))]
    assert widths[0] > widths[1] > widths[2]
    assert widths[0] / widths[2] == pytest.approx(4.0, rel=0.3)  # the square root of 16


# --- paired differences


def pairs(both: int, challenger: int, incumbent: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Rows that both, one or neither of two policies get right."""
    first = [True] * both + [True] * challenger + [False] * incumbent + [False] * neither
    second = [True] * both + [False] * challenger + [True] * incumbent + [False] * neither
    return first, second


@pytest.mark.parametrize("counts", [(40, 20, 10, 50), (0, 30, 30, 60), (100, 3, 12, 5)])
def test_the_difference_agrees_with_a_bootstrap_of_pairs(counts: tuple[int, int, int, int]) -> None:
    challenger, incumbent = pairs(*counts)
    found = paired_difference(challenger, incumbent, 0.95, RESAMPLES)
    differences = np.array(challenger, dtype=float) - np.array(incumbent, dtype=float)
    low, high = numpy_bootstrap(differences, 0.95, seed=5)
    assert found.mean == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    # 90 rows are alike, 10 are won: unpaired, 70 % against 60 % of 100 rows can't be told apart.
    challenger, incumbent = pairs(60, 10, 0, 30)
    paired = paired_difference(challenger, incumbent, 0.95, RESAMPLES)
    shuffled = incumbent[::-1]
    assert paired.low > 0.0
    assert paired_difference(challenger, shuffled, 0.95, RESAMPLES).low < 0.0
    assert paired.mean == pytest.approx(0.1)


def test_the_order_of_rows_does_not_count_but_their_pairing_does() -> None:
    challenger, incumbent = pairs(40, 20, 10, 50)
    order = np.random.default_rng(1).permutation(120)
    mixed = paired_difference([challenger[i] for i in order], [incumbent[i] for i in order], 0.95, RESAMPLES)
    straight = paired_difference(challenger, incumbent, 0.95, RESAMPLES)
    assert mixed.mean == pytest.approx(straight.mean)
    assert (mixed.low, mixed.high) == pytest.approx((straight.low, straight.high), abs=0.02)


def test_swapping_the_two_mirrors_the_interval() -> None:
    challenger, incumbent = pairs(40, 20, 10, 50)
    there = paired_difference(challenger, incumbent, 0.95, RESAMPLES)
    back = paired_difference(incumbent, challenger, 0.95, RESAMPLES)
    assert back.mean == pytest.approx(-there.mean)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.02)


@pytest.mark.parametrize(
    ("counts", "value"), [((7, 0, 0, 5), 0.0), ((0, 9, 0, 0), 1.0), ((0, 0, 9, 0), -1.0), ((1, 0, 0, 0), 0.0)]
)
def test_differences_that_are_all_equal(counts: tuple[int, int, int, int], value: float) -> None:
    assert paired_difference(*pairs(*counts), 0.95, RESAMPLES) == Interval(mean=value, low=value, high=value)


@pytest.mark.parametrize("rows", [(3, 2), (2, 3), (1, 0)])
def test_different_numbers_of_rows_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([True] * rows[0], [False] * rows[1], 0.95, RESAMPLES)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(confidence: float) -> None:
    rng = np.random.default_rng(7)
    trials, rows = 200, 100
    covered = 0
    for _ in range(trials):
        found = bootstrap_interval(list(rng.binomial(1, 0.4, rows).astype(float)), confidence, 300)
        covered += found.low <= 0.4 <= found.high
    slack = 3 * math.sqrt(confidence * (1 - confidence) / trials)
    # The percentile bootstrap is known to cover a little less than it says on 100 rows.
    assert confidence - slack - 0.03 <= covered / trials <= confidence + slack
