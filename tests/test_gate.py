"""The gate: who is promoted, who isn't, and with which reasons."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medgrpo.config import EvaluationConfig, GateConfig
from medgrpo.gate import decide
from medgrpo.statistics import bootstrap_interval
from medgrpo.types import CheckpointRef, Decision, EvalReport, Interval, Split

EVALUATION = EvaluationConfig(resamples=500)
GATE = GateConfig()


def report(
    correct: list[bool], key: str = "k", *, format_rate: float = 1.0, split: Split = "test", rows: int | None = None
) -> EvalReport:
    """A report with these rows right, and this share of them in the grammar."""
    values = [float(value) for value in correct]
    return EvalReport(
        key=key,
        checkpoint=CheckpointRef(train_key="t", step=1, adapter_digest=f"adapter-{key}"),
        split=split,
        rows_digest=f"{split}-{len(correct) if rows is None else rows}",
        rows=len(correct) if rows is None else rows,
        accuracy=bootstrap_interval(values, 0.95, 200),
        format_rate=Interval(mean=format_rate, low=format_rate, high=format_rate),
        completion_tokens=Interval(mean=20, low=19, high=21),
        topics={},
        correct=tuple(correct),
    )


def right(count: int, rows: int = 100) -> list[bool]:
    return [place < count for place in range(rows)]


def verdict(challenger: list[bool], incumbent: list[bool], gate: GateConfig = GATE, format_rate: float = 1.0) -> bool:
    pair = report(challenger, "new", format_rate=format_rate), report(incumbent, "old")
    return decide(*pair, gate, EVALUATION).promote


def test_a_better_challenger_is_promoted_with_every_reason() -> None:
    decision = decide(report(right(70), "new"), report(right(40), "old"), GATE, EVALUATION)
    assert decision.promote
    assert (decision.challenger, decision.incumbent) == ("new", "old")
    assert decision.difference.mean == pytest.approx(0.3)
    assert decision.difference.low > 0
    better, follows, chance = decision.reasons
    assert "the challenger is better by more than 0" in better
    assert "accuracy 0.700" in better and "against 0.400" in better and "100 rows" in better
    assert str(decision.difference) in better
    assert "is at least the floor 0.5" in follows
    assert "30 rows won and 0 lost" in chance and "below 0.05" in chance


@pytest.mark.parametrize(
    ("challenger", "incumbent", "promote"),
    [
        (70, 40, True),
        (100, 0, True),
        (100, 90, True),
        (10, 0, True),
        (50, 50, False),
        (0, 0, False),
        (100, 100, False),
        (51, 50, False),  # one row more is no evidence
        (52, 50, False),
        (49, 50, False),
        (40, 70, False),
        (0, 100, False),
    ],
)
def test_who_is_promoted(challenger: int, incumbent: int, promote: bool) -> None:
    assert verdict(right(challenger), right(incumbent)) is promote


def test_a_refusal_says_what_was_not_shown() -> None:
    decision = decide(report(right(50)), report(right(50)), GATE, EVALUATION)
    assert not decision.promote
    assert decision.difference == Interval(mean=0, low=0, high=0)
    assert "is not shown to be better" in decision.reasons[0]
    assert "is at least the floor" in decision.reasons[1], "the rules that hold are given as well"


def test_won_and_lost_rows_are_weighed_against_each_other() -> None:
    # 20 rows won and 16 lost: four points more, within chance. The same four points without a loss are not.
    challenger = [True] * 20 + [False] * 16 + [True] * 64
    incumbent = [False] * 20 + [True] * 16 + [True] * 64
    assert not verdict(challenger, incumbent)
    assert verdict([True] * 10 + right(40, 90), [False] * 10 + right(40, 90))


@pytest.mark.parametrize(("won", "promote"), [(1, False), (5, False), (6, True)])
def test_a_handful_of_rows_is_no_evidence(won: int, promote: bool) -> None:
    # Two-sided exact p of 5 rows won and none lost: 2 / 2^5 = 0.0625; of 6: 0.03125.
    assert verdict([True] * won, [False] * won) is promote


@pytest.mark.parametrize(("format_rate", "promote"), [(0.0, False), (0.49, False), (0.5, True), (0.9, True)])
def test_better_accuracy_with_poor_format_is_refused(format_rate: float, promote: bool) -> None:
    decision = decide(report(right(80), format_rate=format_rate), report(right(20)), GATE, EVALUATION)
    assert decision.promote is promote
    assert "is better" in decision.reasons[0]
    assert f"is {'at least' if promote else 'below'} the floor 0.5" in decision.reasons[1]
    assert f"{format_rate:.3f}" in decision.reasons[1]


def test_better_format_alone_is_refused() -> None:
    challenger = report(right(50), "new", format_rate=1.0)
    incumbent = report(right(50), "old", format_rate=0.1)
    assert not decide(challenger, incumbent, GATE, EVALUATION).promote


def test_the_incumbents_format_does_not_count() -> None:
    assert decide(report(right(70)), report(right(40), format_rate=0.0), GATE, EVALUATION).promote


def test_the_floor_and_the_margin_are_the_configs() -> None:
    assert not verdict(right(70), right(40), GateConfig(min_format_rate=0.95), format_rate=0.94)
    assert verdict(right(70), right(40), GateConfig(min_format_rate=0.95), format_rate=0.95)
    assert verdict(right(70), right(40), GateConfig(margin=0.1))
    assert not verdict(right(70), right(40), GateConfig(margin=0.25))
    assert not verdict(right(70), right(40), GateConfig(margin=0.3))


def test_the_difference_must_be_above_the_margin_not_at_it() -> None:
    # All rows won: the interval is the point 1.
    assert verdict([True] * 9, [False] * 9, GateConfig(margin=0.99))
    assert not verdict([True] * 9, [False] * 9, GateConfig(margin=1.0))


def test_the_confidence_is_the_configs() -> None:
    challenger = report([True] * 5 + [False] + [True] * 94, "new")
    incumbent = report([False] * 5 + [True] + [True] * 94, "old")
    easy = decide(challenger, incumbent, GATE, EvaluationConfig(confidence=0.6, resamples=500))
    strict = decide(challenger, incumbent, GATE, EvaluationConfig(confidence=0.99, resamples=500))
    assert easy.promote and not strict.promote


@pytest.mark.parametrize(
    "other",
    [
        report(right(40, 90)),
        report(right(40, 110)),
        report(right(40), split="validation"),
        report(right(40, 90), rows=100),  # a report that contradicts itself
    ],
)
def test_other_rows_are_refused(other: EvalReport) -> None:
    for pair in ((report(right(70)), other), (other, report(right(70)))):
        with pytest.raises(ValueError, match=r"same rows|zip"):
            decide(*pair, GATE, EVALUATION)


def test_the_same_reports_give_the_same_decision() -> None:
    pair = report(right(60), "new"), report(right(50), "old")
    assert decide(*pair, GATE, EVALUATION) == decide(*pair, GATE, EVALUATION)


def test_a_decision_is_frozen_and_survives_json() -> None:
    decision = decide(report(right(70)), report(right(40)), GATE, EVALUATION)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    with pytest.raises(ValidationError):
        decision.promote = False


ROWS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)
QUICK = EvaluationConfig(resamples=100)


@hypothesis_settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.1]), st.floats(0.51, 0.99))
def test_a_dominated_challenger_is_never_promoted(
    rows: list[tuple[bool, bool]], margin: float, confidence: float
) -> None:
    incumbent = [first or second for first, second in rows]
    challenger = [first for first, _ in rows]  # right only where the incumbent is
    evaluation = EvaluationConfig(resamples=100, confidence=confidence)
    assert not decide(report(challenger), report(incumbent), GateConfig(margin=margin), evaluation).promote


@hypothesis_settings(max_examples=60, deadline=None)
@given(ROWS)
def test_of_two_policies_at_most_one_beats_the_other(rows: list[tuple[bool, bool]]) -> None:
    first, second = report([a for a, _ in rows], "a"), report([b for _, b in rows], "b")
    there, back = decide(first, second, GATE, QUICK), decide(second, first, GATE, QUICK)
    assert not (there.promote and back.promote)
    if there.promote:
        assert sum(first.correct) > sum(second.correct)


@hypothesis_settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_below_the_format_floor_nobody_is_promoted(
    rows: list[tuple[bool, bool]], format_rate: float, floor: float
) -> None:
    challenger = report([a for a, _ in rows], format_rate=format_rate)
    decision = decide(challenger, report([b for _, b in rows]), GateConfig(min_format_rate=floor), QUICK)
    assert len(decision.reasons) == 3
    if format_rate < floor:
        assert not decision.promote


@pytest.mark.parametrize(("share", "agreement"), [(0.5, 0.0), (0.5, 0.6), (0.2, 0.5), (0.85, 0.8)])
def test_without_a_true_difference_few_are_promoted(share: float, agreement: float) -> None:
    """`agreement`: how many rows both policies answer alike, as two checkpoints of one base do."""
    rng = np.random.default_rng(2024)
    trials, rows = 300, 120
    promoted = 0
    for _ in range(trials):
        incumbent = rng.random(rows) < share
        challenger = np.where(rng.random(rows) < agreement, incumbent, rng.random(rows) < share)
        pair = report(challenger.tolist(), "new"), report(incumbent.tolist(), "old")
        promoted += decide(*pair, GATE, EVALUATION).promote
    slack = 2 * math.sqrt(0.05 * 0.95 / trials)
    assert promoted / trials <= 0.05 + slack


def test_with_a_true_difference_most_are_promoted() -> None:
    rng = np.random.default_rng(2024)
    promoted = 0
    for _ in range(50):
        incumbent = rng.random(120) < 0.4
        challenger = incumbent | (rng.random(120) < 0.3)
        pair = report(challenger.tolist(), "new"), report(incumbent.tolist(), "old")
        promoted += decide(*pair, GATE, EVALUATION).promote
    assert promoted == 50
