"""What a report's figures are made of, by hand-computed cases: slices, refusals, orders, votes, the strict judge."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.answer import parse
from medgrpo.config import EvaluationConfig
from medgrpo.data.clinical import generate
from medgrpo.evaluation import Tables, best
from medgrpo.evaluation.figures import summarize
from medgrpo.evaluation.orders import judge_orders, reorderings, summarize_orders
from medgrpo.evaluation.refusals import is_refusal
from medgrpo.evaluation.rows import judge
from medgrpo.evaluation.sampled import judge_sampled, summarize_sampled
from medgrpo.evaluation.slices import SLICES, find_slices
from medgrpo.types import CheckpointRef, EvalReport, Example, Interval, Split


def mean(values: Iterable[float]) -> Interval:
    """Without an interval: those are tested with the statistics."""
    listed = [float(value) for value in values]
    middle = sum(listed) / len(listed)
    return Interval(mean=middle, low=middle, high=middle)


def said(answer: str) -> str:
    return f"<reasoning>three words here</reasoning>\n<answer>{answer}</answer>"


def choice(row: str = "r", gold: str = "B", **options: str) -> Example:
    return Example(
        id=row, kind="choice", question="Which drug?", gold=gold, options=options or {"A": "iron", "B": "zinc"}
    )


def words(text: str) -> dict[str, list[str]]:
    """Stands in for a tokenizer."""
    return {"input_ids": text.split()}


class Tokenizer:
    def __call__(self, text: str, **_: Any) -> dict[str, list[str]]:
        return words(text)


# --- slices and refusals


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which of these is NOT a sign of shock?", ["negation"]),
        ("All are causes of anaemia except", ["negation"]),
        ("He hasn’t had fever.", ["negation"]),
        ("She denies chest pain.", ["negation"]),
        ("Which drug is contraindicated in gout?", ["negation"]),
        ("At least 3 signs are present. Which?", []),
        ("Patient no. 7 has a knot and a note.", []),
        ("Which is the least likely cause?", ["negation"]),
        ("What dose is given?", ["dosing"]),
        ("Give 5mg/kg of gentamicin.", ["dosing"]),
        ("Give 2.5 mL per kg.", ["dosing"]),
        ("Clearance is 45 mL/min, BMI 31 kg/m2, sodium 140 mmol/L.", []),
        ("A 4-year-old has fever.", ["paediatric"]),
        ("A 44-year-old has fever.", []),
        ("A man, aged 18, faints.", []),
        ("A patient aged 17 faints.", ["paediatric"]),
        ("A 40-year-old and his 3 year old have rash.", ["paediatric"]),
        ("A 6-week-old vomits.", ["paediatric"]),
        ("Child-Pugh class of cirrhosis?", []),
        ("A woman of childbearing age.", []),
        ("Childbirth was long.", ["pregnancy"]),
        ("A newborn of a diabetic mother.", ["paediatric"]),
        ("A pregnant woman at 30 weeks of gestation.", ["pregnancy"]),
        ("Foetal heart rate, fetal heart rate.", ["pregnancy"]),
        ("Non-pregnant adults.", []),
        ("Impregnated gauze.", []),
        ("A 9-year-old who isn't pregnant: which dose?", ["dosing", "negation", "paediatric", "pregnancy"]),
    ],
)
def test_slices_are_found_by_words(question: str, expected: list[str]) -> None:
    assert find_slices(question) == expected


def test_the_built_in_questions_have_rows_of_every_slice() -> None:
    counts = Counter(name for example in generate(900, 0) for name in find_slices(example.question))
    assert counts.keys() == SLICES.keys()
    assert all(10 < count < 300 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("I cannot provide medical advice.", True),
        ("I can’t  really\nhelp with that.", True),
        ("I'm not able to diagnose you.", True),
        ("As an AI, I have no body.", True),
        (said("I'm sorry, but I won't."), True),
        (said("I do not know"), True),
        ("He said: I cannot sleep.", False),
        ("<reasoning>I cannot give one cause alone.</reasoning>\n<answer>iron</answer>", False),
        ("<reasoning>I cannot give a cause.</reasoning>", True),
        ("Asian airports", False),
        ("", False),
        (said("B"), False),
    ],
)
def test_refusals_are_found_by_phrases(completion: str, expected: bool) -> None:
    assert is_refusal(completion, parse(completion)) is expected


# --- greedy rows


def test_faults_make_a_right_answer_wrong_and_leniently_right() -> None:
    completions = [said("B"), f"Well. {said('B')}", said("A"), "B", "I can't answer."]
    rows = judge([choice()] * 5, completions, Tokenizer())
    assert rows["correct"].tolist() == [True, False, False, False, False]
    assert rows["lenient"].tolist() == [True, True, False, False, False]
    assert rows["strict"].tolist() == [True, False, True, False, False]
    assert rows["refused"].tolist() == [False] * 4 + [True]
    assert rows["completion_tokens"].tolist() == [4, 5, 4, 1, 3]


def test_options_are_no_part_of_what_a_slice_is_found_by() -> None:
    assert judge([choice(A="iron", B="not iron")], [""], Tokenizer())["slices"].tolist() == [""]


def test_a_report_holds_what_its_table_gives() -> None:
    asked = [
        Example(id="a", kind="text", question="Which dose in pregnancy?", gold="one", topic="x"),
        Example(id="b", kind="text", question="Which dose?", gold="one", topic="y"),
        Example(id="c", kind="text", question="Which colour?", gold="red", topic="y"),
    ]
    rows = judge(asked, [said("one"), said("two"), f"Well. {said('red')}"], Tokenizer())
    found = summarize(Tables(rows, None, None), EvaluationConfig(), "k", CheckpointRef.base(), "test", "mmlu", "digest")
    assert {name: figure.mean for name, figure in found.slices.items()} == {"dosing": 0.5, "pregnancy": 1.0}
    assert {name: figure.mean for name, figure in found.topics.items()} == {"x": 1.0, "y": 0.0}
    assert found.correct == (True, False, False)
    figures = (found.accuracy, found.lenient_accuracy, found.format_rate, found.refusal_rate)
    assert [figure.mean for figure in figures] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 0])
    assert (found.rows, found.rows_name, found.rows_digest) == (3, "mmlu", "digest")
    assert found.sampled is found.orders is None


# --- orders


OPTIONS = st.lists(st.sampled_from(["iron", "zinc", "copper", "lead", "gold"]), min_size=2, max_size=5, unique=True)


@given(texts=OPTIONS, place=st.integers(0, 4), row=st.text(min_size=1, max_size=8), orders=st.integers(1, 30))
def test_other_orders_keep_the_options_and_the_gold_s_text(texts: list[str], place: int, row: str, orders: int) -> None:
    options = dict(zip("ABCDE", texts, strict=False))
    example = choice(row, list(options)[place % len(texts)], **options)
    others = reorderings([example], orders).get(0, [])
    asked = [example, *others]
    assert len({tuple(one.options.values()) for one in asked}) == len(asked)
    assert len(asked) == min(orders, [1, 1, 2, 6, 24, 120][len(texts)])
    for one in asked:
        assert list(one.options) == list(options)
        assert sorted(one.options.values()) == sorted(texts)
        assert one.gold_text == example.gold_text
    assert reorderings([example], orders).get(0, []) == others


@pytest.mark.parametrize(
    ("option", "moves"),
    [
        ("All of the above", False),
        ("None of these", False),
        ("Both A and B", False),
        ("A & C", False),
        ("(b) and (d)", False),
        ("only a, b", False),
        ("Both", False),
        ("Vitamin A deficiency", True),
        ("A high fever and a rash", True),
        ("b-blocker", True),
        ("None needed", True),
    ],
)
def test_options_that_speak_of_others_stay_where_they_are(option: str, moves: bool) -> None:
    assert bool(reorderings([choice(A="iron", B=option, C="zinc")], 2)) is moves


def test_rows_of_other_kinds_and_one_order_give_nothing() -> None:
    text = Example(id="t", kind="text", question="?", gold="x")
    assert reorderings([text, choice()], 3).keys() == {1}
    assert reorderings([choice()], 1) == {}


def test_the_figures_over_orders_are_those_of_a_hand_count() -> None:
    first, second, third = (choice(row) for row in "123")
    moved = reorderings([first, second, third], 2)
    assert [one.gold for others in moved.values() for one in others] == ["A", "A", "A"]
    greedy = [said("B"), said("A"), f"Well. {said('B')}"]  # right, wrong, no answer
    completions = [said("A"), said("A"), said("A")]  # the same option; the same letter, so another option; right
    table = judge_orders([first, second, third], greedy, moved, completions)
    found = summarize_orders(table, 2, mean)
    assert (found.orders, found.rows) == (2, 3)
    assert found.accuracy.mean == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.stable.mean == pytest.approx(1 / 3)
    shares = {letter: share.mean for letter, share in found.places.items()}
    assert shares == pytest.approx({"A": (0.5 + 1 + 1) / 3, "B": 0.5 / 3})
    golds_at_a = (0.5 + 0.5 + 1) / 3
    assert found.position_bias == pytest.approx(2.5 / 3 - golds_at_a)


def test_a_letter_that_is_never_named_shows_bias_too() -> None:
    lines = [("1", "B", "A"), ("1", "B", "C"), ("2", "B", "C"), ("2", "B", "A")]
    table = pd.DataFrame(lines, columns=["row", "gold", "letter"]).assign(option="iron", correct=False)
    found = summarize_orders(table, 2, mean)
    assert {letter: share.mean for letter, share in found.places.items()} == {"A": 0.5, "B": 0.0, "C": 0.5}
    assert found.position_bias == 1.0


def test_no_readable_answer_shows_no_bias() -> None:
    moved = reorderings([choice()], 2)
    found = summarize_orders(judge_orders([choice()], ["?"], moved, ["?"]), 2, mean)
    assert (found.places, found.position_bias, found.stable.mean, found.accuracy.mean) == ({}, 0.0, 0.0, 0.0)


def test_the_same_text_under_two_letters_is_stable() -> None:
    moved = reorderings([choice()], 2)
    table = judge_orders([choice()], [said("zinc")], moved, [said("zinc")])
    assert table["letter"].tolist() == ["B", "A"]
    assert summarize_orders(table, 2, mean).stable.mean == 1.0


# --- sampled completions


def test_the_figures_over_sampled_completions_are_those_of_a_hand_count() -> None:
    completions = [
        *(
            said("B"),
            said("zinc"),
            said("A"),
            f"Well. {said('B')}",
        ),  # one vote of two against one; the last gives no answer
        *(said("A"), said("B"), said("B"), said("A")),  # a tie: the first that was given
        *("?", "?", "?", "?"),  # no answer at all
        *(said("A"), said("B"), said("B"), "?"),  # the majority isn't the first
    ]
    table = judge_sampled([choice(row) for row in "1234"], completions, 4)
    found = summarize_sampled(table, 4, 0.7, mean)
    assert (found.samples, found.temperature) == (4, 0.7)
    assert found.accuracy.mean == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    # of two drawn from four with two right: 1 - 1/6
    expected = {1: 3 * 0.5 / 4, 2: 3 * (5 / 6) / 4, 4: 3 / 4}
    assert {size: chance.mean for size, chance in found.pass_at.items()} == pytest.approx(expected)
    assert found.majority.mean == pytest.approx(2 / 4)
    assert found.agreement.mean == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    # confidence 0.5 three times, two of them right: a gap of 2 - 1.5 over four rows; confidence 0, wrong: none
    assert found.calibration_error == pytest.approx(0.5 / 4)


def test_one_sampled_completion_has_pass_at_one_alone() -> None:
    found = summarize_sampled(judge_sampled([choice()], [said("A")], 1), 1, 1.0, mean)
    assert found.pass_at.keys() == {1}
    assert (found.agreement.mean, found.majority.mean, found.calibration_error) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("kind", "unit", "answers"),
    [
        ("numeric", "mmol/L", ["5", "5.0", "5 mmol/L", "the answer is 5"]),
        ("text", "", ["Iron", "iron.", " iron "]),
        ("choice", "", ["b", "B.", "zinc", "B. zinc"]),
    ],
)
def test_two_ways_to_say_one_thing_are_one_vote(kind: Any, unit: str, answers: list[str]) -> None:
    gold = {"numeric": "5", "text": "iron", "choice": "B"}[kind]
    options = {"A": "iron", "B": "zinc"} if kind == "choice" else {}
    example = Example(id="r", kind=kind, question="Which?", gold=gold, unit=unit, options=options)
    table = judge_sampled([example], [said(answer) for answer in answers], len(answers))
    assert table["vote"].nunique() == 1
    assert table["correct"].all()


# --- selection


def report(step: int, right: float, strict: float = 1.0, split: Split = "validation") -> EvalReport:
    checkpoint = CheckpointRef(train_key="k", step=step, adapter_digest=f"a{step}") if step else CheckpointRef.base()
    figures = {name: mean([0.0]) for name in ("lenient_accuracy", "refusal_rate", "completion_tokens")}
    return EvalReport(
        key=f"k{step}",
        checkpoint=checkpoint,
        split=split,
        rows_digest="d",
        rows=1,
        accuracy=mean([right]),
        format_rate=mean([strict]),
        topics={},
        slices={},
        correct=(True,),
        **figures,
    )


def test_the_best_is_the_most_accurate_then_the_most_formal_then_the_earliest() -> None:
    reports = [report(0, 0.9), report(1, 0.5, 0.8), report(3, 0.5, 0.9), report(2, 0.5, 0.9), report(4, 0.4)]
    assert best(reports).checkpoint.step == 2


def test_nothing_is_chosen_on_test_rows() -> None:
    with pytest.raises(ValueError, match="reports are on test"):
        best([report(1, 0.4), report(2, 0.5, split="test")])
