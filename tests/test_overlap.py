import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.data.clinical import generate
from medgrpo.data.overlap import find_overlaps
from medgrpo.types import Example

CASE = (
    "A 10-year-old girl is evaluated for a suspected primary deficiency. She is the first child in a consanguineous marriage. "
    "The patient has had an episode of meningococcal meningitis, recurrent bronchiolitis, and multiple bouts of pneumonia."
)


def choice(row: str, question: str, *options: str, gold: str = "A") -> Example:
    return Example(
        id=row, kind="choice", question=question, gold=gold, options=dict(zip("ABCDEFGH", options, strict=False))
    )


def text(row: str, question: str, gold: str = "CD21", original: str = "") -> Example:
    return Example(id=row, kind="text", question=question, gold=gold, original=original)


def detail(example: Example, *benchmark: Example) -> str:
    drops = find_overlaps([example], {"bench": benchmark})
    assert all(drop.reason == "benchmark overlap" for drop in drops.values())
    return drops[0].detail if drops else ""


ANTIBIOTICS = ("Clindamycin", "Metronidazole", "Erythromycin", "Rovamycin")


@pytest.mark.parametrize(
    ("row", "question", "expected"),
    [
        (
            text("r", "WHAT is the cause, of gout"),
            text("q", "What is the cause of gout?", "urate"),
            "same question as question 'q' of bench",
        ),
        (
            text("r", "Other words", original="What is the cause of gout"),
            text("q", "What is the cause of gout?"),
            "same question",
        ),
        (text("r", "What is gout?", "a joint"), text("q", "What is gout?", "urate"), ""),  # too short to be evidence
        (text("r", "What is gout?"), text("q", "What is gout?"), "same question as question 'q' of bench"),
        (choice("r", "Gout is", "x", "y", "z", "v"), choice("q", "Gout is", "y", "x", "t", "u"), "same question"),
        (choice("r", "Gout is", "x", "y", "z", "v"), choice("q", "Gout is", "x", "s", "t", "u"), ""),
        (choice("r", "Which of these is true?", "a1", "b1"), choice("q", "Which of these is true?", "c1", "d1"), ""),
        (
            text("r", CASE + " Name the protein."),
            text("q", CASE + " Which antibody is low?", "IgA"),
            "91 % of its 8-grams are in question 'q' of bench",
        ),
        (
            text("r", CASE + " And now we ask this."),
            text("q", CASE),
            "100 % of the 8-grams of question 'q' of bench are in it",
        ),
        (text("r", "Some other words.", "IgG", original=CASE + " So?"), text("q", CASE, "IgA"), "100 %"),
        (
            text("r", "An infant with a rash is seen. She is the first child in a consanguineous marriage. What now?"),
            text("q", CASE, "x"),
            "",
        ),
        (
            choice("r", "Doc of bacterial vaginosis in pregnancy", *ANTIBIOTICS),
            choice("q", "In pregnancy, bacterial vaginosis is treated by", *reversed(ANTIBIOTICS)),
            "same options as question 'q' of bench, and 4 of 6 words of the topic",
        ),
        (
            choice("r", "Which one causes colitis?", *ANTIBIOTICS),
            choice("q", "Treatment of trachoma in babies:", *ANTIBIOTICS),
            "",
        ),
        (
            choice("r", "Potassium is 5 in serum of him", "low", "normal", "high"),
            choice("q", "Sodium: in the serum of him is 5", "low", "normal", "high"),
            "",
        ),
        (
            text(
                "r",
                "Girl, consanguineous marriage: meningococcal meningitis, bronchiolitis, pneumonia. Suspected protein?",
            ),
            text("q", CASE),
            "same gold as question 'q' of bench, and 8 of 9 rare words",
        ),
    ],
)
def test_pairs(row: Example, question: Example, expected: str) -> None:
    found = detail(row, question)
    assert found.startswith(expected) if expected else not found


def test_rewritten_question_needs_the_gold() -> None:
    rewritten = "Meningococcal meningitis, bronchiolitis, pneumonia, consanguineous marriage, girl evaluated"
    assert "same gold" in detail(text("r", rewritten), text("q", CASE))
    assert not detail(text("r", rewritten, "CD40"), text("q", CASE))
    assert not detail(text("r", rewritten, "yes"), text("q", CASE, "yes"))


def test_boilerplate_is_no_evidence() -> None:
    vitals = "His temperature is 37 C, pulse is 80/min, respirations are 16/min and blood pressure is 120/80 mm Hg. Which is it?"
    benchmark = [text(str(n), f"{word} has come. {vitals}", word) for n, word in enumerate(["Ann", "Bob", "Cy", "Di"])]
    assert not detail(text("r", f"Eve has come. {vitals}", "Eve"), *benchmark)
    assert detail(text("r", f"Eve has come. {vitals}", "Eve"), *benchmark[:1])


def test_options_of_two_questions_are_a_closed_set() -> None:
    row = choice("r", "Doc of bacterial vaginosis in pregnancy", *ANTIBIOTICS)
    question = choice("q", "In pregnancy, bacterial vaginosis is treated by", *ANTIBIOTICS)
    assert detail(row, question)
    assert detail(row, question, question)  # asked twice, still one question
    assert not detail(row, question, choice("p", "Which one stains teeth?", *ANTIBIOTICS))


def test_options_of_many_rows_are_a_closed_set() -> None:
    question = choice("q", "In pregnancy, bacterial vaginosis is treated by", *ANTIBIOTICS)
    rows = [choice(str(n), f"Bacterial vaginosis in pregnancy {n}", *ANTIBIOTICS) for n in range(4)]
    assert len(find_overlaps(rows[:3], {"bench": [question]})) == 3
    assert not find_overlaps(rows, {"bench": [question]})


def test_the_benchmark_is_named() -> None:
    row = text("r", "What is the cause of gout?")
    found = find_overlaps([text("s", "Else"), row], {"one": [], "two": [row.model_copy(update={"id": "q"})]})
    assert {place: drop.detail for place, drop in found.items()} == {1: "same question as question 'q' of two"}


def test_nothing_to_compare() -> None:
    assert find_overlaps([], {}) == {}
    assert find_overlaps([text("r", CASE)], {}) == {}
    assert (
        find_overlaps([text("r", "?!"), choice("s", "", "p", "q")], {"bench": [text("q", "--"), text("p", "")]}) == {}
    )


@given(st.permutations(["q1", "q2", "q3"]), st.booleans())
def test_rows_are_judged_alone(order: list[str], upper: bool) -> None:
    asked = {"q1": CASE, "q2": "Quite another question about gout", "q3": "What is the cause of it all?"}
    benchmark = [text("b", asked["q1"]), text("c", asked["q3"])]
    rows = [text(name, asked[name].upper() if upper else asked[name], name) for name in order]
    assert {order[row] for row in find_overlaps(rows, {"bench": benchmark})} == {"q1", "q3"}


@pytest.fixture
def medqa(shared_data: Path) -> list[Example]:
    with (shared_data / "medqa" / "dev_4options.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [choice(str(n), r["question"], *r["options"].values(), gold=r["answer_idx"]) for n, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (
            "question",
            {
                43: ("923", "medqa"),
                55: ("441", "medqa"),
                84: ("652", "medqa"),
                92: ("160", "medqa"),
                193: ("700", "medmcqa"),
            },
        ),
        (None, {43: ("923", "medqa"), 84: ("652", "medqa")}),
    ],
)
def test_real_leaks(
    shared_data: Path,
    medqa: list[Example],
    medmcqa: list[Example],
    original: str | None,
    expected: dict[int, tuple[str, str]],
) -> None:
    rows = json.loads((shared_data / "huatuo" / "demo_198.json").read_text(encoding="utf-8"))
    examples = [
        text(str(n), r["Question"], r["Ground-True Answer"], original=r[original] if original else "")
        for n, r in enumerate(rows)
    ]
    drops = find_overlaps(examples, {"medqa": medqa, "medmcqa": medmcqa})
    assert set(drops) == set(expected)
    for row, (question, benchmark) in expected.items():
        assert f"question '{question}' of {benchmark}" in drops[row].detail


def test_real_sets_do_not_overlap(medqa: list[Example], medmcqa: list[Example]) -> None:
    assert find_overlaps(medqa, {"medmcqa": medmcqa}) == {}
    assert find_overlaps(medmcqa, {"medqa": medqa}) == {}
    assert find_overlaps(generate(500, 1), {"medqa": medqa, "medmcqa": medmcqa}) == {}


def test_halves_of_real_sets(medqa: list[Example], medmcqa: list[Example]) -> None:
    """Each of these was read: one case with two questions, and reworded questions with the same options."""
    assert {636 + row for row in find_overlaps(medqa[636:], {"half": medqa[:636]})} == {1233}
    found = {1000 + row for row in find_overlaps(medmcqa[1000:], {"half": medmcqa[:1000]})}
    assert found == {1234, 1663, 1852, 1843, 1512, 1609, 1426}
