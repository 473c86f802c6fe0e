"""The gate: who is promoted, who isn't, and with which reasons."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medgrpo.config import EvaluationConfig, GateConfig
from medgrpo.evaluation.slices import SLICES
from medgrpo.gate import AnyRule, Evidence, decide
from medgrpo.gate.rules import Slice
from medgrpo.statistics import detectable_difference, wilson_interval
from medgrpo.types import CheckpointRef, Decision, EvalReport, Interval, Verdict

EVALUATION = EvaluationConfig(resamples=500)
QUICK = EvaluationConfig(resamples=100)
GATE = GateConfig()
ALL = ("better", "format", "slice", "majority", "contamination", "audit", "data", "benchmarks")


def point(value: float, half: float = 0.0) -> Interval:
    return Interval(mean=value, low=value - half, high=value + half)


TOKENS = point(20, 1)


def report(
    correct: list[bool],
    key: str = "k",
    *,
    format_rate: float = 1.0,
    tokens: Interval = TOKENS,
    slices: dict[str, tuple[int, ...]] | None = None,
    benchmark: str = "",
    rows_digest: str = "rows",
) -> EvalReport:
    """A report with these rows right, this share of them in the grammar, and these places of slices."""
    placed = slices or {}
    return EvalReport(
        key=key,
        checkpoint=CheckpointRef(train_key="t", step=1, adapter_digest=f"adapter-{key}"),
        split="test",
        benchmark=benchmark,
        rows_digest=rows_digest,
        rows=len(correct),
        accuracy=wilson_interval(sum(correct), len(correct), 0.95),
        lenient_accuracy=point(1.0),
        format_rate=point(format_rate, 0.05),
        refusal_rate=point(0.0),
        completion_tokens=tokens,
        topics={},
        slices={name: point(sum(correct[p] for p in places) / len(places)) for name, places in placed.items()},
        slice_rows=placed,
        correct=tuple(correct),
    )


def evidence(challenger: EvalReport | list[bool], incumbent: EvalReport | list[bool], **other: Any) -> Evidence:
    """Evidence in which every rule but the comparison holds."""
    pair = [given if isinstance(given, EvalReport) else report(given) for given in (challenger, incumbent)]
    clean: dict[str, Any] = {"incumbent_is_base": False, "majority_accuracy": 0.0, "contaminated_rows": 0}
    clean |= {"audit_passed": True, "train_digest": "rows-7", "dataset_digest": "rows-7"}
    return Evidence(challenger=pair[0], incumbent=pair[1], **clean | other)


def right(count: int, rows: int = 100) -> list[bool]:
    return [place < count for place in range(rows)]


def pair(won: int, lost: int, both: int = 0, neither: int = 0) -> tuple[list[bool], list[bool]]:
    """Rows that only the challenger, only the incumbent, both or none of them get right."""
    challenger = [True] * won + [False] * lost + [True] * both + [False] * neither
    return challenger, [False] * won + [True] * lost + [True] * both + [False] * neither


def gate(*rules: dict[str, Any]) -> GateConfig:
    return GateConfig.model_validate({"rules": rules})


def check(rule: dict[str, Any], found: Evidence) -> Verdict:
    """One rule's verdict."""
    parsed: AnyRule = TypeAdapter(AnyRule).validate_python(rule)
    return parsed.check(found, EVALUATION)


def verdict(challenger: list[bool], incumbent: list[bool], margin: float = 0.0) -> bool:
    return decide(evidence(challenger, incumbent), gate({"kind": "better", "margin": margin}), EVALUATION).promote


# --- the decision


def test_a_better_challenger_is_promoted_with_every_reason() -> None:
    decision = decide(evidence(report(right(70), "new"), report(right(40), "old")), GATE, EVALUATION)
    assert decision.promote
    assert (decision.challenger, decision.incumbent) == ("new", "old")
    assert decision.difference.mean == pytest.approx(0.3)
    assert decision.difference.low > 0
    assert tuple(verdict.rule for verdict in decision.verdicts) == ALL
    assert all(verdict.holds for verdict in decision.verdicts)
    better = decision.reasons[0]
    assert better.startswith("the challenger is better than the champion by more than 0: accuracy 0.700")
    assert "against 0.400" in better and "30 won and 0 lost of 100 rows" in better and "below 0.05" in better
    assert str(decision.difference) in better


def test_every_figure_of_a_reason_is_there_for_machines() -> None:
    found = check({"kind": "better", "margin": 0.02}, evidence(*pair(20, 5, 40, 35)))
    expected = {"accuracy": 0.6, "incumbent_accuracy": 0.45, "difference": 0.15, "won": 20, "lost": 5, "rows": 100}
    assert {key: found.figures[key] for key in expected} == pytest.approx(expected)
    assert found.figures["p"] == pytest.approx(0.00408, abs=1e-4)
    detectable = detectable_difference(100, 0.25, 0.95, margin=0.02)
    assert found.figures["detectable_difference"] == detectable
    assert f"so many rows show a difference of {detectable:.3f} with power 0.8" in found.reason
    few = check({"kind": "better"}, evidence([True] * 5, [False] * 5))
    assert "so many rows show no difference" in few.reason
    assert "detectable_difference" not in few.figures


BAD = {
    "better": evidence(right(50), right(50)),
    "format": evidence(report(right(70), format_rate=0.4), right(40)),
    "slice": evidence(
        report([False] * 10 + [True] * 60, slices={"dosing": tuple(range(10))}), [True] * 10 + [False] * 60
    ),
    "majority": evidence(right(70), right(40), majority_accuracy=0.69),
    "contamination": evidence(right(70), right(40), contaminated_rows=1),
    "audit": evidence(right(70), right(40), audit_passed=False),
    "data": evidence(right(70), right(40), train_digest="rows-6"),
    "benchmarks": evidence(
        right(70), right(40), benchmarks=((report(right(40), benchmark="exam"), report(right(60), benchmark="exam")),)
    ),
}


@pytest.mark.parametrize("kind", ALL)
def test_one_broken_rule_is_enough_and_the_rest_is_still_told(kind: str) -> None:
    decision = decide(BAD[kind], GATE, EVALUATION)
    assert not decision.promote
    assert [verdict.rule for verdict in decision.verdicts if not verdict.holds] == [kind]
    assert len(decision.reasons) == len(ALL)


@pytest.mark.parametrize("kind", ALL[1:])
def test_a_rule_that_is_not_asked_for_is_not_asked(kind: str) -> None:
    rules = [{"kind": other} for other in ALL if other != kind]
    decision = decide(BAD[kind], gate(*rules), EVALUATION)
    assert decision.promote
    assert kind not in [verdict.rule for verdict in decision.verdicts]


def test_the_first_champion_is_compared_with_the_base() -> None:
    first = decide(evidence(right(70), right(40), incumbent_is_base=True), GATE, EVALUATION)
    assert "better than the base model by" in first.reasons[0]


def test_other_rows_are_refused() -> None:
    for other in (report(right(40, 90)), report(right(40), rows_digest="others")):
        for two in ((report(right(70)), other), (other, report(right(70)))):
            with pytest.raises(ValueError, match="not about the same rows"):
                evidence(*two)
            with pytest.raises(ValueError, match="not about the same rows"):
                evidence(right(70), right(40), benchmarks=(two,))


def test_a_slice_whose_rows_are_not_told_is_refused() -> None:
    unplaced = report(right(70), slices={"dosing": (1,)}).model_copy(update={"slice_rows": {}})
    with pytest.raises(ValueError, match=r"which rows are \['dosing'\]"):
        evidence(unplaced, right(40))


def test_the_same_evidence_gives_the_same_decision() -> None:
    found = evidence(right(60), right(50))
    assert decide(found, GATE, EVALUATION) == decide(found, GATE, EVALUATION)


def test_a_decision_is_frozen_and_survives_json() -> None:
    for found in BAD.values():
        decision = decide(found, GATE, EVALUATION)
        assert Decision.model_validate_json(decision.model_dump_json()) == decision
    with pytest.raises(ValidationError):
        decision.promote = True


# --- better


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
        (55, 50, False),  # nor are five: p = 2 / 2^5
        (56, 50, True),
        (49, 50, False),
        (40, 70, False),
        (0, 100, False),
    ],
)
def test_who_is_better(challenger: int, incumbent: int, promote: bool) -> None:
    assert verdict(right(challenger), right(incumbent)) is promote


def test_a_refusal_says_what_was_not_shown() -> None:
    decision = decide(evidence(right(50), right(50)), GATE, EVALUATION)
    assert not decision.promote
    assert decision.difference.mean == 0
    assert decision.difference.low < 0 < decision.difference.high, "equal on 100 rows isn't equal"
    assert "is not shown to be better" in decision.reasons[0]
    assert "is at least the floor" in decision.reasons[1], "the rules that hold are given as well"


def test_won_and_lost_rows_are_weighed_against_each_other() -> None:
    # 20 rows won and 16 lost: four points more, within chance. Ten points without a loss are not.
    assert not verdict(*pair(20, 16, both=64))
    assert verdict(*pair(10, 0, both=40, neither=50))


def test_the_difference_must_be_above_the_margin() -> None:
    assert verdict(right(70), right(40), margin=0.1)
    assert not verdict(right(70), right(40), margin=0.25)
    assert not verdict(right(70), right(40), margin=0.3)
    assert not verdict([True] * 9, [False] * 9, margin=1.0)


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_an_exact_test_and_an_interval_must_agree(margin: float) -> None:
    # 30 rows won: the interval's lower end is near 0.21. The exact test doesn't know of margins.
    found = check({"kind": "better", "margin": margin + 0.15}, evidence(right(70), right(40)))
    assert found.figures["p"] < 0.05
    assert found.holds is (found.figures["low"] > margin + 0.15)
    assert found.holds is (margin == 0.0)


def test_the_confidence_is_the_configs() -> None:
    found = evidence(*pair(5, 1, both=94))
    easy = decide(found, GATE, EvaluationConfig(confidence=0.6, resamples=500))
    strict = decide(found, GATE, EvaluationConfig(confidence=0.99, resamples=500))
    assert easy.promote and not strict.promote


def test_better_format_alone_is_refused() -> None:
    challenger, incumbent = report(right(50), format_rate=1.0), report(right(50), format_rate=0.1)
    assert not decide(evidence(challenger, incumbent), GATE, EVALUATION).promote


# --- better or cheaper

CHEAP, DEAR = point(15, 1), point(20, 1)


@pytest.mark.parametrize(
    ("rows", "tokens", "holds"),
    [
        (pair(30, 0, 40, 30), DEAR, True),  # better, and no cheaper
        (pair(0, 0, 150, 150), CHEAP, True),  # equal on many rows: at most 3.8415 / 303.8415 = 1.3 points are lost
        (pair(0, 0, 150, 150), DEAR, False),
        (pair(0, 0, 150, 150), point(18.5, 0.1), False),  # cheaper, but by less than a tenth
        (pair(0, 0, 150, 150), point(17, 3), False),  # may be chance
        (pair(0, 0, 90, 90), CHEAP, False),  # 3.8415 / 183.8415 = 2.1 points may be lost
        (pair(0, 8, 150, 150), CHEAP, False),
        (pair(30, 60, 100, 100), CHEAP, False),
    ],
)
def test_not_worse_but_cheaper(rows: tuple[list[bool], list[bool]], tokens: Interval, holds: bool) -> None:
    found = evidence(report(rows[0], tokens=tokens), report(rows[1], tokens=DEAR))
    judged = check({"kind": "better-or-cheaper"}, found)
    assert judged.holds is holds
    assert f"{tokens} tokens against {DEAR}" in judged.reason
    assert check({"kind": "better"}, found).holds is (rows == pair(30, 0, 40, 30))


def test_few_rows_never_show_that_nothing_was_lost() -> None:
    # One row won and none lost of 20: resampling them never gives a difference below 0, yet 16 points may be lost.
    challenger, incumbent = pair(1, 0, 10, 9)
    found = evidence(report(challenger, tokens=CHEAP), report(incumbent, tokens=DEAR))
    judged = check({"kind": "better-or-cheaper", "tolerance": 0.1}, found)
    assert judged.figures["low"] == 0.0
    assert judged.figures["score_low"] == pytest.approx(-0.116, abs=0.002)
    assert not judged.holds


def test_what_may_be_lost_and_must_be_saved_is_the_configs() -> None:
    challenger, incumbent = pair(4, 8, 144, 144)
    found = evidence(report(challenger, tokens=CHEAP), report(incumbent, tokens=DEAR))
    assert not check({"kind": "better-or-cheaper", "tolerance": 0.02}, found).holds
    assert check({"kind": "better-or-cheaper", "tolerance": 0.06}, found).holds
    assert not check({"kind": "better-or-cheaper", "tolerance": 0.06, "saving": 0.3}, found).holds
    better = evidence(right(70), right(40))
    assert check({"kind": "better-or-cheaper", "margin": 0.1}, better).holds
    assert not check({"kind": "better-or-cheaper", "margin": 0.25}, better).holds


# --- floors


@pytest.mark.parametrize(
    ("format_rate", "floor", "holds"),
    [(0.0, 0.5, False), (0.49, 0.5, False), (0.5, 0.5, True), (0.9, 0.5, True), (0.94, 0.95, False), (0.0, 0.0, True)],
)
def test_the_format_floor(format_rate: float, floor: float, holds: bool) -> None:
    found = evidence(report(right(80), format_rate=format_rate), report(right(20), format_rate=0.0))
    judged = check({"kind": "format", "floor": floor}, found)
    assert judged.holds is holds
    assert judged.reason.startswith(f"format rate {format_rate:.3f} ")
    assert judged.reason.endswith(f"is {'at least' if holds else 'below'} the floor {floor:g}")


def sliced(won: int, lost: int, both: int, neither: int, **other: tuple[int, ...]) -> Evidence:
    """Evidence whose first rows are of slice dosing, with this outcome; 100 more rows are won."""
    challenger, incumbent = pair(won, lost, both, neither)
    slices = {"dosing": tuple(range(len(challenger))), **other} if challenger else other
    reports = [
        report(rows + more, slices=slices) for rows, more in ((challenger, [True] * 100), (incumbent, [False] * 100))
    ]
    return evidence(*reports)


@pytest.mark.parametrize(
    ("counts", "rule", "holds"),
    [
        ((0, 0, 5, 5), {}, True),
        ((0, 5, 5, 0), {}, True),  # five rows lost: p = 0.0625
        ((0, 6, 5, 0), {}, False),
        ((6, 0, 5, 0), {}, True),
        ((0, 0, 5, 5), {"floor": 0.5}, True),
        ((0, 0, 5, 5), {"floor": 0.51}, False),
        ((0, 0, 5, 5), {"floor": 0.9, "floors": {"dosing": 0.5}}, True),
        ((0, 0, 5, 5), {"floors": {"dosing": 0.6}}, False),
        ((0, 0, 5, 5), {"floors": {"pregnancy": 0.1}}, False),  # no row of it: can't be shown
        ((0, 0, 0, 0), {}, True),
        ((0, 0, 0, 0), {"floor": 0.9}, True),
        ((0, 0, 0, 0), {"floors": {"dosing": 0.1}}, False),
    ],
)
def test_slices(counts: tuple[int, int, int, int], rule: dict[str, Any], holds: bool) -> None:
    assert check({"kind": "slice", **rule}, sliced(*counts)).holds is holds


def test_a_slices_reason_has_its_figures() -> None:
    judged = check({"kind": "slice", "floors": {"dosing": 0.6, "pregnancy": 0.3}}, sliced(0, 6, 5, 0))
    assert "no row is of slice pregnancy, whose floor is 0.3" in judged.reason
    assert (
        "dosing 0.455 [0.455, 0.455] is below the floor 0.6 and significantly below the champion's: " in judged.reason
    )
    assert "0 won and 6 lost of 11 rows" in judged.reason
    expected = {"dosing.lost": 6, "dosing.holm_p": 2 / 2**6, "dosing.floor": 0.6, "pregnancy.floor": 0.3, "level": 0.05}
    assert {key: judged.figures[key] for key in expected} == pytest.approx(expected)


def test_several_slices_are_adjusted_for_their_number() -> None:
    # 6 rows lost of 11: p = 0.031 alone, 0.062 beside a second slice.
    assert not check({"kind": "slice"}, sliced(0, 6, 5, 0)).holds
    assert check({"kind": "slice"}, sliced(0, 6, 5, 0, negation=(20, 21))).holds


@pytest.mark.parametrize(("baseline", "holds"), [(0.0, True), (0.55, True), (0.65, False), (0.71, False)])
def test_the_majority_baseline(baseline: float, holds: bool) -> None:
    judged = check({"kind": "majority"}, evidence(right(70), right(40), majority_accuracy=baseline))
    assert judged.holds is holds
    assert f"above {baseline:.3f}" in judged.reason
    assert ("not shown" in judged.reason) is not holds


def test_the_baseline_must_be_passed_not_reached() -> None:
    found = evidence(right(70), right(40))
    low = found.challenger.accuracy.low
    assert not check({"kind": "majority"}, found.model_copy(update={"majority_accuracy": low})).holds


# --- facts


@pytest.mark.parametrize(("rows", "said"), [(0, "no test or"), (1, "1 test or benchmark row was"), (3, "rows were")])
def test_contamination(rows: int, said: str) -> None:
    judged = check({"kind": "contamination"}, evidence(right(70), right(40), contaminated_rows=rows))
    assert judged.holds is (rows == 0)
    assert said in judged.reason
    assert judged.figures == {"contaminated_rows": rows}


@pytest.mark.parametrize("passed", [True, False])
def test_audit(passed: bool) -> None:
    judged = check({"kind": "audit"}, evidence(right(70), right(40), audit_passed=passed))
    assert judged.holds is passed
    assert ("did not pass" in judged.reason) is not passed


@pytest.mark.parametrize(
    ("trained", "here", "holds"), [("a", "a", True), ("a", "b", False), ("", "", False), ("", "b", False)]
)
def test_data(trained: str, here: str, holds: bool) -> None:
    judged = check({"kind": "data"}, evidence(right(70), right(40), train_digest=trained, dataset_digest=here))
    assert judged.holds is holds
    assert f"rows {trained or 'unknown'}, which is {'' if holds else 'not '}the" in judged.reason


# --- benchmarks


def benchmark(name: str, won: int, lost: int, both: int = 20) -> tuple[EvalReport, EvalReport]:
    challenger, incumbent = pair(won, lost, both)
    return tuple(report(rows, benchmark=name, rows_digest=name) for rows in (challenger, incumbent))


@pytest.mark.parametrize(
    ("benchmarks", "holds"),
    [
        ((), True),
        ((benchmark("a", 0, 0),), True),
        ((benchmark("a", 0, 5),), True),
        ((benchmark("a", 0, 6),), False),
        ((benchmark("a", 6, 0), benchmark("b", 30, 1)), True),
        ((benchmark("a", 0, 6), benchmark("b", 0, 0)), True),  # 2 × 0.031
        ((benchmark("a", 0, 7), benchmark("b", 0, 0)), False),  # 2 × 0.016
        ((benchmark("a", 0, 7), benchmark("b", 0, 0), benchmark("c", 0, 0), benchmark("d", 0, 0)), True),
        ((benchmark("a", 0, 7), benchmark("b", 9, 0)), False),  # a gain elsewhere doesn't make up for it
    ],
)
def test_no_benchmark_may_be_significantly_worse(
    benchmarks: tuple[tuple[EvalReport, EvalReport], ...], holds: bool
) -> None:
    judged = check({"kind": "benchmarks"}, evidence(right(70), right(40), benchmarks=benchmarks))
    assert judged.holds is holds
    for challenger, _ in benchmarks:
        assert f"on {challenger.benchmark} the challenger is " in judged.reason
        assert f"{challenger.benchmark}.holm_p" in judged.figures
    assert ("is significantly worse" in judged.reason) is not holds


# --- how they are written


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"margin": 0.1}, r'margin moved into rules: write \[\[gate.rules\]\] with kind = "better"'),
        ({"min_format_rate": 0.5}, 'min_format_rate moved into rules.*kind = "format"'),
        ({"margin": 0, "min_format_rate": 0}, "margin and min_format_rate moved"),
        ({"rules": []}, 'name one rule of kind "better"'),
        ({"rules": [{"kind": "format"}]}, 'name one rule of kind "better"'),
        ({"rules": [{"kind": "better"}, {"kind": "better-or-cheaper"}]}, "name one rule"),
        ({"rules": [{"kind": "better"}, {"kind": "better"}]}, "more than one rule is of kind better: keep one"),
        ({"rules": [{"kind": "bettr"}]}, "'better-or-cheaper'"),
        ({"rules": [{"kind": "slice", "floors": {"dozing": 0.1}}]}, "'dosing'"),
        ({"rules": [{"kind": "better", "margin": 1.5}]}, "less than or equal to 1"),
        ({"rules": [{"kind": "better-or-cheaper", "tolerance": 0}]}, "greater than 0"),
    ],
)
def test_what_is_wrong_is_named(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GateConfig.model_validate(section)


def test_floors_name_the_slices_that_evaluation_finds() -> None:
    assert set(get_args(Slice)) == set(SLICES)


def test_all_rules_are_on_by_default() -> None:
    assert tuple(rule.kind for rule in GateConfig().rules) == ALL


# --- what always holds

ROWS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@hypothesis_settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.1]), st.floats(0.51, 0.99))
def test_a_dominated_challenger_is_never_promoted(
    rows: list[tuple[bool, bool]], margin: float, confidence: float
) -> None:
    incumbent = [first or second for first, second in rows]
    challenger = [first for first, _ in rows]  # right only where the incumbent is
    evaluation = EvaluationConfig(resamples=100, confidence=confidence)
    assert not decide(evidence(challenger, incumbent), gate({"kind": "better", "margin": margin}), evaluation).promote


@hypothesis_settings(max_examples=60, deadline=None)
@given(ROWS)
def test_of_two_policies_at_most_one_beats_the_other(rows: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    there, back = decide(evidence(first, second), GATE, QUICK), decide(evidence(second, first), GATE, QUICK)
    assert not (there.promote and back.promote)
    if there.promote:
        assert sum(first) > sum(second)


# --- how often it errs: the statistician's question, put to the whole gate


def policies(
    rng: np.random.Generator, rows: int, discordance: float, difference: float, accuracy: float
) -> tuple[list[bool], list[bool]]:
    """Two policies that differ on this share of rows, one of which is truly better by `difference`."""
    draws = rng.random(rows)
    won = draws < (discordance + difference) / 2
    lost = ~won & (draws < max(discordance, difference))
    both = rng.random(rows) < accuracy
    return (won | (both & ~lost)).tolist(), (lost | (both & ~won)).tolist()


def promotions(
    trials: int, rows: int, discordance: float, difference: float, accuracy: float = 0.4, config: GateConfig = GATE
) -> int:
    rng = np.random.default_rng(2024)
    drawn = (policies(rng, rows, discordance, difference, accuracy) for _ in range(trials))
    return sum(decide(evidence(*two), config, EVALUATION).promote for two in drawn)


@pytest.mark.parametrize(
    ("rows", "discordance", "accuracy"),
    [
        (128, 0.4, 0.4),
        pytest.param(128, 0.1, 0.4, marks=pytest.mark.slow),
        pytest.param(60, 0.9, 0.1, marks=pytest.mark.slow),
    ],
)
def test_of_1000_challengers_that_are_no_better_at_most_one_in_20_is_promoted(
    rows: int, discordance: float, accuracy: float
) -> None:
    assert promotions(1000, rows, discordance, 0.0, accuracy) <= 50


@pytest.mark.parametrize(("rows", "discordance"), [(128, 0.3), pytest.param(128, 0.1, marks=pytest.mark.slow)])
def test_of_1000_that_are_better_by_the_detectable_difference_four_in_five_are_promoted(
    rows: int, discordance: float
) -> None:
    difference = detectable_difference(rows, discordance, 0.95)
    assert difference is not None
    promoted = promotions(1000, rows, discordance, difference)
    assert promoted >= 800
    assert promoted <= 930, "a much smaller difference would have been detected, too"


@pytest.mark.slow
def test_a_margin_is_part_of_what_is_detectable() -> None:
    config = gate({"kind": "better", "margin": 0.05})
    difference = detectable_difference(128, 0.2, 0.95, margin=0.05)
    assert difference is not None
    assert promotions(500, 128, 0.2, 0.05, config=config) <= 25
    assert promotions(500, 128, 0.2, difference, config=config) >= 400
