"""Intervals and paired differences against formulas and independent computations."""

import math
from itertools import combinations, pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from medgrpo.statistics import (
    bootstrap_interval,
    calibration_error,
    detectable_difference,
    holm,
    paired_difference,
    paired_score_interval,
    pass_at,
    sign_test,
    wilson_interval,
)
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


# z² = 3.8415: Wilson's upper end of 0 of 12 rows is z² / (12 + z²), his lower end of 9 of 9 is 9 / (9 + z²).
NONE_OF_12, ALL_OF_9 = 3.8415 / 15.8415, 9 / 12.8415


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((7, 0, 0, 5), (0.0, -NONE_OF_12, NONE_OF_12)),
        ((0, 9, 0, 0), (1.0, 1 - math.sqrt(2) * (1 - ALL_OF_9), 1.0)),
        ((0, 0, 9, 0), (-1.0, -1.0, math.sqrt(2) * (1 - ALL_OF_9) - 1)),
    ],
)
def test_differences_that_are_all_equal_are_no_proof(
    counts: tuple[int, int, int, int], expected: tuple[float, float, float]
) -> None:
    found = paired_difference(*pairs(*counts), 0.95, RESAMPLES)
    assert (found.mean, found.low, found.high) == pytest.approx(expected, abs=1e-4)


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


# --- score interval of a paired difference


def test_the_score_interval_by_hand() -> None:
    # 10 of 100: Wilson 0.05523 to 0.17437. 0 of 100: 0 to 0.03699.
    found = paired_score_interval(10, 0, 100, 0.95)
    assert found.low == pytest.approx(0.1 - math.hypot(0.1 - 0.05523, 0.03699), abs=1e-4)
    assert found.high == pytest.approx(0.17437, abs=1e-4)


def test_rows_won_can_not_be_lost_which_widens_the_score_interval() -> None:
    (won_low, _), (_, lost_high) = wilson(30, 100, 0.95), wilson(20, 100, 0.95)
    correlation = -math.sqrt(0.3 * 0.2 / (0.7 * 0.8))
    first, second = 0.3 - won_low, lost_high - 0.2
    low = 0.1 - math.sqrt(first**2 - 2 * correlation * first * second + second**2)
    found = paired_score_interval(30, 20, 100, 0.95)
    assert found.low == pytest.approx(low)
    assert found.low < 0.1 - math.hypot(first, second)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0.6, 0.95, 0.99]))
def test_the_score_interval_is_mirrored_and_holds_its_mean(won: int, lost: int, ties: int, confidence: float) -> None:
    rows = won + lost + ties + 1
    there, back = (paired_score_interval(*pair, rows, confidence) for pair in ((won, lost), (lost, won)))
    assert -1 <= there.low < there.mean < there.high <= 1
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


@pytest.mark.parametrize(("won", "lost"), [(0.02, 0.02), (0.1, 0.05), (0.3, 0.3)])
def test_the_score_interval_covers_the_truth_on_few_rows(won: float, lost: float) -> None:
    draws = np.random.default_rng(11).multinomial(40, [won, lost, 1 - won - lost], size=1000)
    covered = 0
    for (rows_won, rows_lost, _), count in zip(*np.unique(draws, axis=0, return_counts=True), strict=True):
        found = paired_score_interval(int(rows_won), int(rows_lost), 40, 0.95)
        covered += count * (found.low <= won - lost <= found.high)
    assert covered / len(draws) >= 0.93


# --- tests of significance


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(8, 2, 2 * (1 + 10 + 45) / 2**10), (5, 0, 2 / 2**5), (0, 6, 2 / 2**6), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_mcnemars_exact_test_by_hand(won: int, lost: int, p: float) -> None:
    assert sign_test(*pairs(7, won, lost, 4)) == (won, lost, pytest.approx(p))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([0.01, 0.02, 0.9], [0.03, 0.04, 0.9]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_raw_p_and_bonferronis(p_values: list[float]) -> None:
    found = holm(p_values)
    for raw, adjusted in zip(p_values, found, strict=True):
        assert raw <= adjusted <= min(1.0, len(p_values) * raw)
    order = sorted(range(len(found)), key=lambda place: p_values[place])
    assert [found[place] for place in order] == sorted(found)


# --- what a number of rows can show


def shown(won: int, lost: int, rows: int, confidence: float, margin: float) -> bool:
    """Whether McNemar's test and the lower end of a normal interval, half a row inside, both find an improvement."""
    difference = (won - lost) / rows
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread = math.sqrt(max(0.0, (won + lost) / rows - difference**2) / rows)
    p = 2 * sum(math.comb(won + lost, k) for k in range(won, won + lost + 1)) / 2 ** (won + lost)
    return p < 1 - confidence and difference - z * spread > margin + 0.5 / rows


def power(rows: int, difference: float, discordance: float, confidence: float, margin: float) -> float:
    """Chance of showing it: the sum over every possible count of rows won and lost."""
    discordance = max(discordance, difference)
    win, lose = (discordance + difference) / 2, (discordance - difference) / 2
    total = 0.0
    for won in range(rows + 1):
        for lost in range(rows + 1 - won):
            if won > lost and shown(won, lost, rows, confidence, margin):
                ways = math.comb(rows, won) * math.comb(rows - won, lost)
                total += ways * win**won * lose**lost * max(0.0, 1 - discordance) ** (rows - won - lost)
    return total


@pytest.mark.parametrize(("rows", "discordance"), [(12, 0.0), (30, 0.2), (30, 0.6), (45, 0.4)])
@pytest.mark.parametrize(("confidence", "margin"), [(0.95, 0.0), (0.8, 0.0), (0.95, 0.1), (0.9, 0.45)])
def test_the_detectable_difference_is_the_smallest_with_enough_power(
    rows: int, discordance: float, confidence: float, margin: float
) -> None:
    found = detectable_difference(rows, discordance, confidence, 0.8, margin)
    assert found is not None
    assert found * rows == pytest.approx(round(found * rows)), "whole rows"
    assert power(rows, found, discordance, confidence, margin) >= 0.8
    assert power(rows, found - 1 / rows, discordance, confidence, margin) < 0.8


def test_the_detectable_difference_by_hand() -> None:
    # Six rows won and none lost are the fewest that an exact test believes (p = 2 / 2^6).
    assert detectable_difference(5, 0.0, 0.95) is None
    assert detectable_difference(6, 0.0, 0.95) == 1.0
    # Of 8 rows 6 must be won: at 7/8 that happens in 93 % of cases (0.344 + 0.393 + 0.196), at 6/8 in 68 %.
    assert detectable_difference(8, 0.0, 0.95) == 7 / 8
    assert detectable_difference(8, 0.0, 0.95, power=0.6) == 6 / 8
    assert detectable_difference(200, 0.1, 0.95, margin=1.0) is None


def test_more_rows_and_less_discordance_show_smaller_differences() -> None:
    by_rows = [detectable_difference(rows, 0.2, 0.95) or 1.0 for rows in (50, 200, 800)]
    assert by_rows[0] > by_rows[1] > by_rows[2]
    assert by_rows[0] / by_rows[2] == pytest.approx(4.0, rel=0.25)  # the square root of 16
    by_discordance = [detectable_difference(200, share, 0.95) or 1.0 for share in (0.05, 0.2, 0.6)]
    assert by_discordance == sorted(by_discordance)


# --- sampled completions


def test_wilson_by_hand() -> None:
    found = wilson_interval(30, 100, 0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.2189, 0.3958), abs=1e-4)


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"), [(5, 2, 2, 0.7), (4, 1, 1, 0.25), (4, 1, 4, 1.0), (4, 0, 3, 0.0), (3, 3, 1, 1.0)]
)
def test_pass_at_by_hand(n: int, c: int, k: int, chance: float) -> None:
    assert pass_at(n, c, k) == pytest.approx(chance)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_counts_the_draws_with_a_right_one(case: tuple[int, int, int]) -> None:
    n, c, k = case
    draws = list(combinations(range(n), k))
    assert pass_at(n, c, k) == pytest.approx(sum(min(draw) < c for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_of_what_was_not_drawn(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {n}"):
        pass_at(n, c, k)


@pytest.mark.parametrize(
    ("confidences", "right", "error"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 0.0], [False, True], 1.0),
        ([0.75, 0.75, 0.75, 0.75], [True, True, True, False], 0.0),
        # Bin of 0.3 to 0.4: |0.7 - 1| over both; bin of 0.8 to 0.9: 0.9.
        ([0.35, 0.35, 0.9], [True, False, False], (0.3 + 0.9) / 3),
        # 0.3 ends its bin, 0.35 is in the next: their errors don't cancel.
        ([0.3, 0.35], [True, False], (0.7 + 0.35) / 2),
        ([0.25, 0.3], [True, False], (0.75 - 0.3) / 2),
        ([0.0, 0.05], [False, True], 0.95 / 2),
        ([3 * 0.1, 0.25], [True, False], (0.7 - 0.25) / 2),
    ],
)
def test_calibration_error_by_hand(confidences: list[float], right: list[bool], error: float) -> None:
    assert calibration_error(confidences, right) == pytest.approx(error)
