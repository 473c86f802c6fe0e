"""The judge: tables of answers by kind (right, wrong, unreadable), quantities, and properties that hold for any text."""

import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from medgrpo.answer import parse, render_gold
from medgrpo.data.clinical import TOPICS, generate
from medgrpo.judge import is_correct, is_number, is_range, is_readable
from medgrpo.judge.quantities import Quantity, convert, find_quantities, same_quantity, same_unit
from medgrpo.judge.units import _ATOMS, read_unit
from medgrpo.types import Example

RIGHT, WRONG, UNREADABLE = "right", "wrong", "unreadable"


def example(kind: str, gold: str, **more: object) -> Example:
    return Example.model_validate({"id": "e", "kind": kind, "question": "What is it?", "gold": gold} | more)


def verdict(answer: str, question: Example) -> str:
    if is_correct(answer, question):
        assert is_readable(answer, question), "what is right is readable"
        return RIGHT
    return WRONG if is_readable(answer, question) else UNREADABLE


# --- choices

CHOICE = example("choice", "C", options={"A": "low", "B": "normal", "C": "high", "D": "very high"})
# The texts of these options are letters and a number themselves.
GROUPS = example("choice", "B", options={"A": "O", "B": "A", "C": "AB", "D": "4"})
GERMS = example("choice", "A", options={"A": "C. difficile", "B": "E. coli", "C": "S. aureus"})
MANY = example("choice", "G", options=dict(zip("ABCDEFG", ["1", "2", "3", "4", "5", "6", "7"], strict=True)))
DENIED = example(
    "choice",
    "B",
    options={"A": "indicated", "B": "not indicated", "C": "none of the above", "D": "A or B", "E": "warfarin/heparin"},
)

CHOICE_ANSWERS: dict[str, set[str]] = {
    RIGHT: {
        *("C", "c", "(C)", "(c)", "C)", "C.", "C:", " \nC\n ", "C. high", "C) high", "(C) high", "(C): high"),
        *("C: High.", "c - HIGH", "C.\nhigh", "high", "High.", "'high'", "  high \n", "C high", '"C"'),
        *("the answer is C", "The answer is: C", "The answer is C.", "option C", "Option C.", "Option (C)"),
        *("The correct answer is (C): high", "The correct answer is C. high", "Answer: C", "answer is c", "answer C"),
        *("The final answer is option C: high", "My answer is (C).", "So, the answer is C", "It is C", "It's high."),
        *("The best option is C", "The most likely diagnosis is high", "C is correct.", "C is the correct answer"),
        *("Option C is right", "The answer is high", "(C) is the best choice."),
    },
    WRONG: {
        *("A", "(A)", "B.", "A. low", "low", "very high", "the answer is D", "Option B", "The answer is low"),
        "A is correct",
    },
    UNREADABLE: {
        *("", " ", ".", "()", "3", "E", "С", "Ｃ", "𝐂", "C\u200b", "\u200bhigh", "hіgh"),  # look-alikes, unseen characters
        *("C. low", "C. very high", "A. high", "C. high or normal", "C low", "The answer is C: low"),
        *("C, D", "C. D", "C and D", "A or C", "A, B, C, D", "CD", "CC", "A B C D", "C or D", "C/D", "C; D", "A\nC"),
        *("high, low", "high or low", "highly", "C (high or low)", "either C or D", "both C and D", "C?"),
        *("not C", "not high", "The answer is not C", "C is wrong", "C is incorrect", "C is not correct"),
        *("anything but C", "all except C", "everything except C", "It isn't C", "neither C", "C is not the answer"),
        *("never C", "not (C)", "C is false", "I would exclude C", "C, not", "C - not"),
        *("maybe C", "C maybe", "probably C", "I think C", "C I guess", "C or so"),
        *("\\boxed{C}", "$C$", "**C**", "`C`", '{"answer": "C"}', '["C"]', "```\nC\n```", "<b>C</b>", "\\text{C}"),
        *("# C", "**C. high**", "\\(C\\)", "* C"),
        *("C. high because the level rises", "Chigh", "the answer is", "The answer is option", "option"),
    },
}  # fmt: skip


def rows(table: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    return ((answer, expected) for expected, answers in table.items() for answer in sorted(answers))


@pytest.mark.parametrize(("answer", "expected"), rows(CHOICE_ANSWERS))
def test_choice(answer: str, expected: str) -> None:
    assert verdict(answer, CHOICE) == expected


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("B", GROUPS, RIGHT),
        ("B. A", GROUPS, RIGHT),
        ("A", GROUPS, WRONG),  # option A, not the blood group A: else two of four letters would count
        ("A.", GROUPS, WRONG),
        ("The answer is A", GROUPS, WRONG),
        ("A. O", GROUPS, WRONG),
        ("4", GROUPS, WRONG),
        ("AB", GROUPS, WRONG),
        ("B. AB", GROUPS, UNREADABLE),
        ("C. difficile", GERMS, RIGHT),
        ("A. C. difficile", GERMS, RIGHT),
        ("E. coli", GERMS, WRONG),
        ("C", GERMS, WRONG),
        ("C. S. aureus", GERMS, WRONG),
        ("II", example("choice", "A", options={"A": "II", "B": "I"}), RIGHT),
        ("V", example("choice", "A", options={"A": "V", "B": "IV"}), RIGHT),  # no option has the letter V
        ("G", MANY, RIGHT),
        ("g) 7", MANY, RIGHT),
        ("7", MANY, RIGHT),
        ("G. 6", MANY, UNREADABLE),
        ("H", MANY, UNREADABLE),
        ("not indicated", DENIED, RIGHT),
        ("B. Not indicated.", DENIED, RIGHT),
        ("The answer is not indicated", DENIED, RIGHT),
        ("not not indicated", DENIED, UNREADABLE),
        ("not B", DENIED, UNREADABLE),
        ("None of the above", DENIED, WRONG),
        ("C. none of the above", DENIED, WRONG),
        ("A or B", DENIED, WRONG),  # option D's text
        ("A or C", DENIED, UNREADABLE),
        ("Warfarin/heparin", DENIED, WRONG),
        ("A", example("choice", "E", options={"A": "x", "B": "y"}), WRONG),
        ("E", example("choice", "E", options={"A": "x", "B": "y"}), UNREADABLE),
    ],
)
def test_choice_among_other_options(answer: str, question: Example, expected: str) -> None:
    assert verdict(answer, question) == expected


SPELT = example(
    "choice",
    "C",
    options={
        "A": "Anaemia",
        "B": "10 %",
        "C": "Hyperkalaemia",
        "D": "0.5mg",
        "E": "beta-blocker",
        "F": "5 mM",
        "G": "5 mm",
    },
)
SPELT_ANSWERS: dict[str, set[str]] = {
    RIGHT: {
        *("C – hyperkalaemia", "C — hyperkalaemia", "C, Hyperkalaemia", "C; hyperkalaemia", "C (Hyperkalaemia)"),
        *("Hyperkalaemia (C)", "[C]", "C!", "Answer - C", "Answer – C", "Letter C", "I choose C", "I'd go with C."),
        *("Hyperkalaemia is correct", "hyperkalemia", "C. hyperkalemia", "The answer is hyperkalemia", "(C) Hyperkalemia!"),
        *("[C] hyperkalemia", "hyperkalemia is the answer", "I choose hyperkalemia", "Hyperkalaemia [C]"),
    },
    WRONG: {
        *("10%", "10 percent", ".5 mg", "0.5 mg", "500 µg", "beta\u2011blocker", "beta blocker", "betablocker", "A!"),
        *("5 mM", "5 mm", "F. 5 mM", "Anemia (A)"),
    },
    UNREADABLE: {
        *("C, A", "C; A", "C (A)", "[C, A]", "[C", "C?", "Anaemia (C)", "Hyperkalaemia (A)", '["C"]', "C, Anaemia"),
        *("Hyperkalaemia is not correct", "Hyperkalaemia is wrong", "Answer - not C", "I choose C or D", "I reject C"),
        *("F. 5 mm", "5 MM", "Hyperkalaemia (Z)", "C (Hyperkalaemia) (A)", "Hyperkalaemia, Anaemia (C)"),
    },
}  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), rows(SPELT_ANSWERS))
def test_choice_in_other_spelling_and_punctuation(answer: str, expected: str) -> None:
    assert verdict(answer, SPELT) == expected


def test_a_spelling_that_two_options_share_names_neither() -> None:
    question = example("choice", "B", options={"A": "Anæmia", "B": "anaemia"})
    assert verdict("anemia", question) == UNREADABLE
    assert verdict("anaemia", question) == RIGHT
    letters = example("choice", "B", options={"A": "O", "B": "A"})
    assert [verdict(answer, letters) for answer in ("B. A", "B (A)", "B, A", "B; A")] == [RIGHT] * 2 + [UNREADABLE] * 2


# --- numbers

SODIUM = example("numeric", "140", tolerance=0.5, unit="mmol/L")
GLUCOSE = example("numeric", "5", unit="mmol/L")
DOSE = example("numeric", "0.005", tolerance=0.0005, unit="g")
WHITE = example("numeric", "5.2", unit="x10^3/uL", tolerance=0.01)
FEVER = example("numeric", "38.5", unit="°C", tolerance=0.05)
SHARE = example("numeric", "45", unit="%")
RATE = example("numeric", "14", unit="/min")
SCORE = example("numeric", "14", unit="points")
PLAIN = example("numeric", "14")
COUNT = example("numeric", "12500", tolerance=50)
EXCESS = example("numeric", "-3.5", tolerance=0.1, unit="mmol/L")
TENTH = example("numeric", "0.3", tolerance=0.1)
PLATELETS = example("numeric", "250", unit="10^9/L")
MEDCALC = example("numeric", "2.47001", limits=(2.34651, 2.59351))
WEEKS = example("numeric", "123", unit="days")
ACIDITY = example("numeric", "7.3", question="What is the arterial value, which is at least 7?")
HALF = example("numeric", "0.5", unit="mg")
MILLIONS = example("numeric", "1500000", unit="cells/µL")
DAILY = example("numeric", "5", unit="mg/kg/d")
FILTRATION = example("numeric", "60", unit="mL/min/1.73 m²", tolerance=1)

NUMERIC_ANSWERS: list[tuple[str, Example, str]] = [
    ("140", SODIUM, RIGHT),
    ("140.0", SODIUM, RIGHT),
    ("139.5", SODIUM, RIGHT),
    ("140.5", SODIUM, RIGHT),
    ("139.49", SODIUM, WRONG),
    ("140.51", SODIUM, WRONG),
    ("140.500001", SODIUM, WRONG),
    ("0.4", TENTH, RIGHT),  # 0.4 - 0.3 is more than 0.1 in binary
    ("0.2", TENTH, RIGHT),
    ("0.41", TENTH, WRONG),
    (".3", TENTH, RIGHT),
    ("140 mmol/L", SODIUM, RIGHT),
    ("140mmol/L", SODIUM, RIGHT),
    ("140  MMOL/l.", SODIUM, RIGHT),
    ("140\nmmol/L", SODIUM, RIGHT),
    ("140 mmol per liter", SODIUM, RIGHT),
    ("140 mg/dL", SODIUM, WRONG),
    ("140 mEq/L", SODIUM, WRONG),
    ("140 mmol", SODIUM, WRONG),
    ("140 mmol/L or so", SODIUM, UNREADABLE),
    ("mmol/L", SODIUM, UNREADABLE),
    ("5000 µmol/L", GLUCOSE, RIGHT),
    ("5000 μmol/L", GLUCOSE, RIGHT),  # the Greek letter, not the sign
    ("5000 umol/L", GLUCOSE, RIGHT),
    ("0.5 mmol/dL", GLUCOSE, RIGHT),
    ("5 µmol/L", GLUCOSE, WRONG),
    ("90 mg/dL", GLUCOSE, WRONG),  # depends on the substance
    ("5 mg", DOSE, RIGHT),
    ("5 mg", example("numeric", "5", unit="g"), WRONG),
    ("5000 mcg", DOSE, RIGHT),
    ("5 g", DOSE, WRONG),
    ("5 mL", DOSE, WRONG),
    ("5", DOSE, WRONG),
    ("5.2", WHITE, RIGHT),
    ("5.2 x10^3/uL", WHITE, RIGHT),
    ("5.2 × 10³/µL", WHITE, RIGHT),
    ("5.2 K/uL", WHITE, RIGHT),
    ("5.2 x 10^9/L", WHITE, RIGHT),
    ("5,200 cells/µL", WHITE, RIGHT),
    ("5200/mm3", WHITE, RIGHT),
    ("5.2 cells/µL", WHITE, WRONG),
    ("101.3 °F", FEVER, RIGHT),
    ("38.5 C", FEVER, RIGHT),
    ("38.5 degrees Celsius", FEVER, RIGHT),
    ("38.5 °F", FEVER, WRONG),
    ("45 %", SHARE, RIGHT),
    ("45%", SHARE, RIGHT),
    ("45 percent", SHARE, RIGHT),
    ("45", SHARE, RIGHT),
    ("0.45", SHARE, WRONG),
    ("14 /min", RATE, RIGHT),
    ("14/min", RATE, RIGHT),
    ("14 bpm", RATE, RIGHT),
    ("14 breaths per minute", RATE, RIGHT),
    ("14/", RATE, UNREADABLE),
    ("14 points", SCORE, RIGHT),
    ("14 points", SHARE, WRONG),
    ("14 mmol/L", PLAIN, WRONG),
    ("14 widgets", PLAIN, UNREADABLE),
    ("250 10^9/L", PLATELETS, RIGHT),
    ("250 × 10^9/L", PLATELETS, RIGHT),
    ("250 10^6/L", PLATELETS, WRONG),
    ("60 ml/min/1.73m2", FILTRATION, RIGHT),
    ("60 mL/min per 1.73 m^2", FILTRATION, RIGHT),
    ("60 mL/min", FILTRATION, WRONG),
    ("12,500", COUNT, RIGHT),
    ("12500", COUNT, RIGHT),
    ("12,549.9", COUNT, RIGHT),
    ("12,551", COUNT, WRONG),
    ("12,50", COUNT, UNREADABLE),
    ("12,5000", COUNT, UNREADABLE),
    ("1,2500", COUNT, UNREADABLE),
    ("12 500", COUNT, UNREADABLE),
    ("12.500", COUNT, WRONG),
    ("1.25e4", COUNT, RIGHT),
    ("1.25E+4", COUNT, RIGHT),
    ("125000e-1", COUNT, RIGHT),
    ("1.25 x 10^4", COUNT, RIGHT),
    ("1.25×10⁴", COUNT, RIGHT),
    ("1.25 * 10^4", COUNT, RIGHT),
    ("10^4", example("numeric", "10000"), RIGHT),
    ("1.25e3", COUNT, WRONG),
    ("1.25e", COUNT, UNREADABLE),
    ("-3.5", EXCESS, RIGHT),
    ("−3.5", EXCESS, RIGHT),
    ("-3.4 mmol/L", EXCESS, RIGHT),
    ("3.5", EXCESS, WRONG),
    ("+3.5", EXCESS, WRONG),
    ("--3.5", EXCESS, UNREADABLE),
    ("- 3.5", EXCESS, UNREADABLE),
    ("-14", PLAIN, WRONG),
    ("+14", PLAIN, RIGHT),
    ("14.", PLAIN, RIGHT),
    ("about 14", PLAIN, RIGHT),
    ("approximately 14", PLAIN, RIGHT),
    ("~14", PLAIN, RIGHT),
    ("≈ 14", PLAIN, RIGHT),
    ("= 14", PLAIN, RIGHT),
    ("The answer is 14.", PLAIN, RIGHT),
    ("Answer: approximately 14", PLAIN, RIGHT),
    ("The answer is about 140 mmol/L.", SODIUM, RIGHT),
    ("4", PLAIN, WRONG),
    ("14", example("numeric", "4"), WRONG),
    ("2.4", MEDCALC, RIGHT),
    ("2.59", MEDCALC, RIGHT),
    ("2.6", MEDCALC, WRONG),
    ("17 weeks, 4 days", WEEKS, RIGHT),
    ("17 weeks and 4 days", WEEKS, RIGHT),
    ("17 weeks 4 days", WEEKS, RIGHT),
    ("17w 4d", WEEKS, RIGHT),
    ("123 days", WEEKS, RIGHT),
    ("17 weeks, 5 days", WEEKS, WRONG),
    ("4 days, 17 weeks", WEEKS, UNREADABLE),
    ("17 weeks, 4 mg", WEEKS, UNREADABLE),
    ("17 weeks, 4", WEEKS, UNREADABLE),
    ("10-15", PLAIN, UNREADABLE),
    ("14-15", PLAIN, UNREADABLE),
    ("14–15", PLAIN, UNREADABLE),
    ("10 to 15", PLAIN, UNREADABLE),
    ("between 13 and 15", PLAIN, UNREADABLE),
    (">14", PLAIN, UNREADABLE),
    ("≥ 14", PLAIN, UNREADABLE),
    ("less than 14", PLAIN, UNREADABLE),
    ("at least 14", PLAIN, UNREADABLE),
    ("14 or 15", PLAIN, UNREADABLE),
    ("14 and 15", PLAIN, UNREADABLE),
    ("14, 15", PLAIN, UNREADABLE),
    ("14/15", PLAIN, UNREADABLE),
    ("14 ± 1", PLAIN, UNREADABLE),
    ("14 15", PLAIN, UNREADABLE),
    ("not 14", PLAIN, UNREADABLE),
    ("14 mmol/L or 15 mmol/L", SODIUM, UNREADABLE),
    ("140 mmol/L = 140 mEq/L", SODIUM, UNREADABLE),
    ("\\boxed{14}", PLAIN, UNREADABLE),
    ("$14$", PLAIN, UNREADABLE),
    ("**14**", PLAIN, UNREADABLE),
    ('{"value": 14}', PLAIN, UNREADABLE),
    ("14\u200b", PLAIN, UNREADABLE),
    ("１４", PLAIN, UNREADABLE),
    ("fourteen", PLAIN, UNREADABLE),
    ("0x0e", PLAIN, UNREADABLE),
    ("1_4", PLAIN, UNREADABLE),
    ("1.4.0", PLAIN, UNREADABLE),
    ("7*2", PLAIN, UNREADABLE),
    ("nan", PLAIN, UNREADABLE),
    ("inf", PLAIN, UNREADABLE),
    ("-inf", PLAIN, UNREADABLE),
    ("1e999", PLAIN, UNREADABLE),
    ("1e9999999", PLAIN, UNREADABLE),
    ("9" * 5000, PLAIN, UNREADABLE),
    ("e1", PLAIN, UNREADABLE),
    ("-e14", PLAIN, UNREADABLE),
    (".", PLAIN, UNREADABLE),
    ("-", PLAIN, UNREADABLE),
    ("", PLAIN, UNREADABLE),
    (" ", PLAIN, UNREADABLE),
    ("²", PLAIN, UNREADABLE),
    ("pH 7.30", ACIDITY, RIGHT),
    ("pH = 7.30", ACIDITY, RIGHT),
    ("The pH is about 7.3", ACIDITY, RIGHT),
    ("not pH 7.3", ACIDITY, UNREADABLE),
    ("pH 7.3 or 7.4", ACIDITY, UNREADABLE),
    ("pH 7.4", ACIDITY, WRONG),
    ("pH of at least 7.3", ACIDITY, UNREADABLE),
    ("arterial 7.3", ACIDITY, RIGHT),  # a word of the question
    ("venous 7.3", ACIDITY, UNREADABLE),
    ("GCS 14", PLAIN, RIGHT),
    ("Score: 14", PLAIN, RIGHT),
    ("The score is 14", PLAIN, RIGHT),
    ("score less than 14", PLAIN, UNREADABLE),
    ("vitamin B14", PLAIN, UNREADABLE),
    ("BMI is 14", PLAIN, RIGHT),
    ("(14)", PLAIN, RIGHT),
    ("(14", PLAIN, UNREADABLE),
    ("(14) (15)", PLAIN, UNREADABLE),
    ("14 points", PLAIN, RIGHT),
    ("14%", PLAIN, WRONG),
    ("15 points", PLAIN, WRONG),
    ("10%", example("numeric", "0.1"), WRONG),
    ("1/2", HALF, RIGHT),
    ("½", HALF, RIGHT),
    ("1/2 mg", HALF, RIGHT),
    ("3/4", HALF, WRONG),
    ("1 / 2", HALF, UNREADABLE),
    ("1/2/3", HALF, UNREADABLE),
    ("2½ mg", example("numeric", "2.5", unit="mg"), RIGHT),
    ("1.25 thousand", example("numeric", "1250"), RIGHT),
    ("1.5 million", MILLIONS, RIGHT),
    ("1.5 million cells/µL", MILLIONS, RIGHT),
    ("1.5 thousand", MILLIONS, WRONG),
    ("1.5", MILLIONS, WRONG),
    ("4.5 million/µL", example("numeric", "4.5", unit="million/µL"), RIGHT),
    ("38.5°", FEVER, RIGHT),
    ("38.5 degrees", FEVER, RIGHT),
    ("39 degrees", FEVER, WRONG),
    ("14 degrees", PLAIN, WRONG),
    ("5 mg/kg/24h", DAILY, RIGHT),
    ("5 mg/kg per 24 hours", DAILY, RIGHT),
    ("5 mg/kg/12h", DAILY, UNREADABLE),
    ("5 mg/kg/h", DAILY, WRONG),
    ("14—15", PLAIN, UNREADABLE),
    ("0", example("numeric", "0"), RIGHT),
    ("-0", example("numeric", "0"), RIGHT),
    ("", example("numeric", "0"), UNREADABLE),
]


@pytest.mark.parametrize(("answer", "question", "expected"), NUMERIC_ANSWERS)
def test_numeric(answer: str, question: Example, expected: str) -> None:
    assert verdict(answer, question) == expected


@given(st.decimals(-1e6, 1e6, places=3), st.decimals(-1e6, 1e6, places=3), st.sampled_from(["0", "0.5", "1000"]))
def test_numbers_are_judged_by_their_distance(answer: Decimal, gold: Decimal, tolerance: str) -> None:
    right = abs(answer - gold) <= Decimal(tolerance)
    assert is_correct(f"{answer:f}", example("numeric", f"{gold:f}", tolerance=tolerance)) is right
    assert is_correct(f"{gold:f}", example("numeric", f"{gold:f}", tolerance=tolerance))


@pytest.mark.parametrize(
    ("text", "number"),
    [("14", True), ("-1,200.5", True), ("1e3", True), ("14 mg", False), ("", False), ("1,20", False)],
)
def test_a_numeric_gold_is_a_number_alone(text: str, number: bool) -> None:
    assert is_number(text) is number


# --- ranges

POTASSIUM = example("range", "3.5-5.0", unit="mmol/L")
BASE = example("range", "-3 to +3", unit="mmol/L", tolerance=0.5)

RANGE_ANSWERS: list[tuple[str, Example, str]] = [
    ("3.5-5.0", POTASSIUM, RIGHT),
    ("3.5 - 5", POTASSIUM, RIGHT),
    ("3.5–5.0 mmol/L", POTASSIUM, RIGHT),
    ("3.5—5.0", POTASSIUM, RIGHT),
    ("3.5 — 5.1", POTASSIUM, WRONG),
    ("3.5 to 5.0 mmol/L", POTASSIUM, RIGHT),
    ("3.5 mmol/L to 5.0 mmol/L", POTASSIUM, RIGHT),
    ("from 3.5 to 5.0", POTASSIUM, RIGHT),
    ("between 3.5 and 5.0", POTASSIUM, RIGHT),
    ("The answer is 3.5-5.0 mmol/L.", POTASSIUM, RIGHT),
    ("3500-5000 µmol/L", POTASSIUM, RIGHT),
    ("3500 µmol/L to 5 mmol/L", POTASSIUM, RIGHT),
    ("3.5-5.1", POTASSIUM, WRONG),
    ("3.4-5.0", POTASSIUM, WRONG),
    ("5.0-3.5", POTASSIUM, WRONG),
    ("3.5-5.0 mg/dL", POTASSIUM, WRONG),
    ("3.5 mg/dL to 5.0 mmol/L", POTASSIUM, WRONG),
    ("3.5", POTASSIUM, UNREADABLE),
    ("5.0 mmol/L", POTASSIUM, UNREADABLE),
    ("3.5 and 5.0", POTASSIUM, UNREADABLE),
    ("3.5 or 5.0", POTASSIUM, UNREADABLE),
    ("3.5-5.0-6.0", POTASSIUM, UNREADABLE),
    ("not 3.5-5.0", POTASSIUM, UNREADABLE),
    ("3.5-5.0 or 4.0-6.0", POTASSIUM, UNREADABLE),
    ("> 3.5", POTASSIUM, UNREADABLE),
    ("$3.5-5.0$", POTASSIUM, UNREADABLE),
    ("", POTASSIUM, UNREADABLE),
    ("-3 to 3", BASE, RIGHT),
    ("-3.5-3.5", BASE, RIGHT),
    ("-3 - +2.5", BASE, RIGHT),
    ("3 to 3", BASE, WRONG),
    ("-3.6 to 3", BASE, WRONG),
]


@pytest.mark.parametrize(("answer", "question", "expected"), RANGE_ANSWERS)
def test_range(answer: str, question: Example, expected: str) -> None:
    assert verdict(answer, question) == expected


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *(("3.5-5.0", True), ("3.5 to 5.0", True), ("3.5 – 5.0", True), ("-3--1", True), ("1,000-2,000", True)),
        *(("3.5", False), ("5.0-3.5", False), ("3.5-5.0 mg", False), ("3.5 and 5.0", False), ("low-high", False)),
    ],
)
def test_a_range_gold_is_two_numbers_alone(text: str, is_one: bool) -> None:
    assert is_range(text) is is_one
    assert not is_one or is_correct(text, example("range", text))


# --- dates

DUE = example("date", "06/05/2024")

DATE_ANSWERS: dict[str, set[str]] = {
    RIGHT: {
        *("06/05/2024", "6/5/2024", "2024-06-05", "2024/06/05", "June 5, 2024", "June 5 2024", "5 June 2024"),
        *("Jun 5, 2024", "5 Jun 2024", "Jun. 5, 2024", "June 5th, 2024", "5th June 2024", "the 5th of June 2024"),
        *(
            "Wednesday, June 5, 2024",
            "on June 5, 2024",
            "06/05/2024.",
            "The answer is June 5, 2024.",
            "it is 06/05/2024",
        ),
        *("JUNE 5, 2024", "5-Jun-2024", "05-June-2024", "06-05-2024", "Jun-5-2024", "June 05 2024"),
    },
    WRONG: {"05/06/2024", "05-06-2024", "6-Jun-2024", "06/06/2024", "June 6, 2024", "2023-06-05"},
    UNREADABLE: {
        *(
            "",
            "June 2024",
            "June",
            "2024",
            "06/05",
            "06/05/24",
            "02/30/2024",
            "13/05/2024",
            "13-05-2024",
            "5/6",
            "Juneteenth 2024",
        ),
        *("06/05/2024 or 06/06/2024", "June 5 or 6, 2024", "June 5-6, 2024", "not 06/05/2024", "not June 5, 2024"),
        *("06/05/2024 06/06/2024", "before June 5, 2024", "06/05/2024?", "**06/05/2024**", "June 5, 2024\u200b"),
        *("06/05/2024" + " " * 100 + "x", "$06/05/2024$", '{"date": "06/05/2024"}'),
    },
}


@pytest.mark.parametrize(("answer", "expected"), rows(DATE_ANSWERS))
def test_date(answer: str, expected: str) -> None:
    assert verdict(answer, DUE) == expected


def test_september_has_four_letters_too() -> None:
    assert is_correct("Sept. 3, 2024", example("date", "09/03/2024"))


# --- texts

HYPERTENSION = example("text", "Stage 1 hypertension")
INFARCTION = example("text", "Myocardial infarction", aliases=["MI", "heart attack", "acute or subacute MI"])
ANAEMIA = example("text", "Iron-deficiency anaemia")
TUMOUR = example("text", "Localised tumour of the oesophagus")
HEPATITIS = example("text", "Hepatitis A")
GESTATION = example("text", "(34 weeks, 3 days)")
DENYING = example("text", "Not dangerous")
BETA = example("text", "TNFα-blocker")

TEXT_ANSWERS: list[tuple[str, Example, str]] = [
    *(
        (answer, HYPERTENSION, RIGHT)
        for answer in (
            *("Stage 1 hypertension", "stage 1 HYPERTENSION", "  Stage  1\n hypertension \t", "Stage 1 hypertension."),
            *(
                "'stage 1 hypertension!'",
                "stage-1 hypertension",
                "The stage 1 hypertension",
                "It is stage 1 hypertension",
            ),
            *("The answer is stage 1 hypertension", "The diagnosis is Stage 1 hypertension."),
            *("Answer: the diagnosis is stage 1 hypertension", "The most likely diagnosis is: stage 1 hypertension"),
        )
    ),
    *(
        (answer, HYPERTENSION, WRONG)
        for answer in ("Stage 2 hypertension", "Stage 11 hypertension", "Stage 1", "hypertension", "no hypertension")
    ),
    ("120/80 mmHg", HYPERTENSION, WRONG),
    ("70 beats/min", HYPERTENSION, WRONG),
    *(
        (answer, HYPERTENSION, UNREADABLE)
        for answer in (
            *(
                "",
                ".",
                "'",
                " \n",
                "not stage 1 hypertension",
                "It is not stage 1 hypertension",
                "It isn't hypertension",
            ),
            *(
                "anything but stage 1 hypertension",
                "neither",
                "The answer is not stage 1 hypertension",
                "The answer isn't stage 1 hypertension",
            ),
            *(
                "stage 1 hypertension or normal",
                "Stage 1 hypertension and/or normal",
                "either of the two",
                "normal; high",
            ),
            *("hypertension/hypotension", "hypertension / hypotension", "Stage 1 hypertension\nStage 2 hypertension"),
            *("stage 1 hypertension?", "maybe stage 1 hypertension", "Possibly hypertension", "I think hypertension"),
            *("Stage 1 hypеrtension", "Stage 1 hyper\u200btension", "\ufeffStage 1 hypertension", "Ηypertension"),
            *("**Stage 1 hypertension**", "\\boxed{Stage 1 hypertension}", "$Stage 1$", '{"answer": "hypertension"}'),
            *(
                "```\nStage 1 hypertension\n```",
                "`hypertension`",
                "<b>hypertension</b>",
                "The answer is",
                "𝐇ypertension",
            ),
        )
    ),
    ("myocardial infarction", INFARCTION, RIGHT),
    ("MI", INFARCTION, RIGHT),
    ("A heart attack", INFARCTION, RIGHT),
    ("Acute or subacute MI", INFARCTION, RIGHT),
    ("infarction", INFARCTION, WRONG),
    ("not MI", INFARCTION, UNREADABLE),
    ("Iron deficiency anemia", ANAEMIA, RIGHT),
    ("an iron-deficiency anæmia", ANAEMIA, RIGHT),
    ("ironless anemia", ANAEMIA, WRONG),
    ("localized tumor of esophagus", TUMOUR, RIGHT),
    ("Hepatitis A", HEPATITIS, RIGHT),
    ("hepatitis a", HEPATITIS, RIGHT),
    ("The hepatitis A.", HEPATITIS, RIGHT),
    ("hepatitis", HEPATITIS, WRONG),
    ("hepatitis B", HEPATITIS, WRONG),
    ("antigen", example("text", "A antigen"), WRONG),
    ("A antigen", example("text", "antigen"), WRONG),
    ("deficiency of A and D", example("text", "deficiency of and D"), WRONG),
    ("fracture of a rib", example("text", "fracture of the rib"), RIGHT),
    ("beta blocker", example("text", "beta-blocker"), RIGHT),
    ("betablocker", example("text", "beta-blocker"), RIGHT),
    ("1015", example("text", "10-15"), WRONG),
    ("10 15", example("text", "10-15"), WRONG),
    ("34 weeks, 3 days", GESTATION, RIGHT),
    ("34 weeks and 3 days", GESTATION, RIGHT),
    ("34 weeks 3 days.", GESTATION, RIGHT),
    ("34 weeks, 4 days", GESTATION, WRONG),
    ("34 weeks", GESTATION, WRONG),
    ("not dangerous", DENYING, RIGHT),
    ("dangerous", DENYING, WRONG),
    ("TNFα blocker", BETA, RIGHT),
    ("IL-6 blocker", BETA, WRONG),
    ("MORBUS GROSSESTRASSE", example("text", "Morbus Großestraße"), RIGHT),
    ("ГИПЕРТОНИЯ.", example("text", "гипертония"), RIGHT),
    ("低钠血症", example("text", "低钠血症"), RIGHT),
    ("维生素B12", example("text", "维生素B12"), RIGHT),
    ("warfarin/heparin", example("text", "Warfarin/heparin"), RIGHT),
    ("a; b", example("text", "A; B"), RIGHT),
    (".5 mg", example("text", "5 mg"), WRONG),
    ("... 5 mg.", example("text", "5 mg"), RIGHT),
]


@pytest.mark.parametrize(("answer", "question", "expected"), TEXT_ANSWERS)
def test_text(answer: str, question: Example, expected: str) -> None:
    assert verdict(answer, question) == expected


def test_aliases_are_for_texts_alone() -> None:
    assert not is_correct("heart attack", example("date", "06/05/2024", aliases=["heart attack"]))


EMBOLISM = example(
    "text", "Pulmonary embolism", question="What is the most likely cause of the sudden dyspnoea of this man?"
)
LISTED = example("text", "Fever, rash or cough", question="Which ones?")
LYING = example("text", "Transverse lie of unknown cause")

ONE_THING: list[tuple[str, Example, str]] = [
    *(
        (answer, EMBOLISM, UNREADABLE)
        for answer in (
            *("Is it pulmonary embolism? I cannot tell", "It is a lie that it is pulmonary embolism", "no idea"),
            *("pulmonary embolism (or asthma)", "pulmonary embolism plus asthma", "pulmonary embolism vs asthma"),
            *("asthma versus pulmonary embolism", "asthma vs. pulmonary embolism", "asthma plus pulmonary embolism"),
            *("asthma, pulmonary embolism, gout", "asthma; pulmonary embolism", "gout | pulmonary embolism | asthma"),
            *("gout and the pulmonary embolism", "gout. Pulmonary embolism. asthma", "gout/pulmonary embolism"),
            *(
                "asthma pulmonary embolism gout",
                "asthma (pulmonary embolism)",
                "asthma and pulmonary embolism and gout",
                "gout vs asthma",
            ),
            *("What is the most likely cause of the sudden dyspnoea of this man?", "pulmonary embolism? no"),
            *("what is the most likely cause of the sudden dyspnoea of this man", "unknown", "Unknown.", "nonsense"),
            *("Nonsense that it is pulmonary embolism", "I don't know whether pulmonary embolism", "I cannot tell"),
            *("the most likely cause of the sudden dyspnoea of this", "It is false that it is pulmonary embolism"),
            *("Hard to say, pulmonary embolism", "pulmonary embolism, asthma, most likely"),
        )
    ),
    *(
        (answer, EMBOLISM, WRONG)
        for answer in (
            *("embolism of the lung", "acute pulmonary embolism due to thrombosis", "a clot, which blocks the artery"),
            *("nonsense mutation", "transverse lie", "fever of unknown origin", "false aneurysm", "asthma, acute"),
            *("acute pulmonary embolism due to thrombosis and stasis", "vitamin B12 (cobalamin)", "Paget's disease"),
        )
    ),
    *(
        (answer, EMBOLISM, RIGHT)
        for answer in (
            *("most likely pulmonary embolism", "pulmonary embolism, most likely", "Pulmonary embolism."),
            *("The answer is pulmonary embolism", "The answer is\npulmonary embolism"),
        )
    ),
    ("fever, rash or cough", LISTED, RIGHT),
    ("Fever or rash", LISTED, WRONG),
    ("fever, rash or cough, or gout", LISTED, UNREADABLE),
    ("transverse lie of unknown cause", LYING, RIGHT),
    ("unknown cause of transverse lie", LYING, WRONG),
    ("Which one? this", example("text", "Which one? That"), WRONG),
    ("1,234", example("text", "234"), WRONG),
    ("1.5", example("text", "5"), WRONG),
    ("grade 1'", example("text", "grade 1"), WRONG),
    ("'grade 1'", example("text", "grade 1"), RIGHT),
]


@pytest.mark.parametrize(("answer", "question", "expected"), ONE_THING)
def test_a_text_says_one_thing(answer: str, question: Example, expected: str) -> None:
    assert verdict(answer, question) == expected


@pytest.mark.parametrize(
    ("unit", "answer", "expected"),
    [
        *(("mM", "5 mM", RIGHT), ("mM", "5 mm", WRONG), ("nM", "5 nm", WRONG), ("M", "5 m", WRONG)),
        *(("mm", "5 mM", WRONG), ("mU", "5 MU", UNREADABLE), ("ms", "5 mS", UNREADABLE), ("G", "5 g", WRONG)),
        *(("G", "5 G", RIGHT), ("cm", '5"', UNREADABLE), ("cm", "5'", UNREADABLE), ("cm", "5 CM", RIGHT)),
        *(("foo", "5 FOO", RIGHT), ("mmol/L", "5 MMOL/L", RIGHT), ("mV", "5 MV", UNREADABLE), ("mM", "5000 µM", RIGHT)),
    ],
)
def test_the_case_of_a_unit_counts_where_it_means_another(unit: str, answer: str, expected: str) -> None:
    assert verdict(answer, example("numeric", "5", unit=unit)) == expected
    for before in ("", "about a level of "):
        in_words = verdict(before + answer, example("text", f"{before}5 {unit}"))
        assert (in_words == RIGHT) is (expected == RIGHT) or "µM" in answer


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("CO₂", ["CO2"], ["CO3", "CO"]),
        ("Ca2+", ["Ca²⁺"], ["Ca+"]),
        ("vitamin B₁₂", ["vitamin B12"], ["vitamin B1"]),
        ("½ tablet", ["1/2 tablet"], ["12 tablet", "1/3 tablet"]),
        ("2½ tablets", ["2 1/2 tablets"], ["21/2 tablets"]),
        ("10^3 cells", ["10³ cells"], ["103 cells"]),
        ("Sjögren syndrome", ["Sjogren syndrome", "Sjo\u0308gren syndrome", "Sjögren's syndrome"], ["Sjgren syndrome"]),
        ("Meniere disease", ["Ménière disease", "Ménière’s disease", "Me\u0301nie\u0300re's disease"], []),
        ("= 14", [], ["≠ 14", "≥ 14"]),
        ("0.5 mg", ["0.5mg", ".5 mg", "0.50 mg", "500 µg", ".5mg."], ["5 mg", "0.5", "0.5 g", '0.5"']),
        ("10%", ["10 %", "10 percent", "10 per cent"], ["10", "0.1"]),
        ("10% of patients", ["10 % of patients", "10 percent of patients"], ["10 of patients"]),
        ("120/80 mmHg", ["120/80 mm Hg", "120 / 80 mmHg"], ["120 / 90 mmHg", "120 mmHg", "120/80"]),
        ("below 120/80 mmHg", ["below 120 / 80 mm Hg"], []),
        ("≥14", [">= 14", ">=14", "≥ 14"], ["> 14", "14", "<= 14"]),
        ("14 days", ["two weeks", "2 weeks", "Two weeks.", "14-day"], ["14", "12 days", "two months"]),
        (
            "Type II diabetes mellitus",
            ["type 2 diabetes mellitus", "type-2 diabetes mellitus"],
            ["type 1 diabetes mellitus"],
        ),
        ("Stage IIIb", ["stage 3B", "Stage IIIB", "stage 3 b"], ["Stage IIb", "stage III"]),
        ("factor VIII", ["Factor 8"], ["factor VII", "factor IX"]),
        ("Crohn's disease", ["Crohn disease", "Crohn’s disease"], ["Cron disease"]),
        ("Graves disease", ["Graves' disease"], ["Grave disease"]),
        ("E. coli", ["E coli", "E.coli", "e. coli"], ["coli", "K. coli"]),
        ("a wave", ["A wave", "the a wave"], ["wave"]),
        ("wave", ["the wave"], ["a wave"]),
        ("does", [], ["des"]),
        ("poem", [], ["pem"]),
        ("gastro-oesophageal reflux", ["gastroesophageal reflux", "gastrooesophageal reflux"], []),
        ("lymphoedema", ["lymphedema"], []),
        ("faecal calprotectin of the foetus", ["fecal calprotectin of the fetus"], []),
        ("dyspnoea and diarrhoea", ["dyspnea and diarrhea"], []),
        ("coeliac disease", ["celiac disease"], []),
        ("paediatric haematology", ["pediatric hematology"], []),
    ],
)
def test_other_ways_of_writing_the_same(gold: str, right: list[str], wrong: list[str]) -> None:
    assert [verdict(answer, example("text", gold)) for answer in right] == [RIGHT] * len(right)
    assert RIGHT not in [verdict(answer, example("text", gold)) for answer in wrong]
    assert [verdict(gold, example("text", other)) for other in right] == [RIGHT] * len(right)


@pytest.mark.parametrize("answer", ["120 / 90 mmHg", "3/4", "three weeks", "≥ 15"])
def test_a_quantity_is_no_list(answer: str) -> None:
    assert verdict(answer, example("text", "120/80 mmHg")) == WRONG


@pytest.mark.parametrize("answer", ["СО2", "Ѕjogren syndrome", "ＣＯ2", "𝐂O2", "Sjögrеn syndrome"])
def test_look_alike_letters_stay_unreadable(answer: str) -> None:
    assert verdict(answer, example("text", "CO2", aliases=["Sjogren syndrome"])) != RIGHT


# --- all kinds

KINDS = [CHOICE, SODIUM, POTASSIUM, DUE, HYPERTENSION]


@pytest.mark.parametrize("question", KINDS, ids=lambda question: question.kind)
def test_no_answer_block_is_neither_right_nor_readable(question: Example) -> None:
    assert not is_correct(None, question)
    assert not is_readable(None, question)


@pytest.mark.parametrize("question", [*KINDS, FEVER, WHITE, BASE], ids=lambda question: question.unit or question.kind)
def test_a_gold_is_right_as_it_is_rendered(question: Example) -> None:
    assert is_correct(parse(render_gold(question)).answer, question)
    assert is_correct(question.gold_text, question)


QUESTIONS = [*KINDS, GROUPS, GERMS, DENIED, PLAIN, EXCESS, COUNT, WHITE, FEVER, WEEKS, BASE, INFARCTION, GESTATION]
PIECES = st.sampled_from(
    [
        *(
            *"0123456789+-.,;:eE C()/$*{[\\~=?",
            "mmol/L",
            "high",
            "nan",
            "x10^",
            "٣",
            "²",
            "е",
            "\u200b",
            "\ud800",
            "\x00",
        ),
        *(
            "not ",
            " or ",
            "the answer is ",
            "June ",
            "2024",
            " weeks",
            "°C",
            "Option ",
            "10^9",
            " to ",
            "1.73 m²",
            "\n",
        ),
    ]
)
ANSWERS = st.text(max_size=30) | st.lists(PIECES, max_size=10).map("".join)


@given(ANSWERS, st.sampled_from(QUESTIONS))
def test_the_judge_never_raises_and_what_is_right_is_readable(answer: str, question: Example) -> None:
    assert is_readable(answer, question) or not is_correct(answer, question)
    assert all(isinstance(found.value, float) for found in find_quantities(answer))


@settings(max_examples=15)
@given(st.lists(PIECES, min_size=1, max_size=4).map("".join), st.text(max_size=3))
def test_a_hostile_answer_of_100_kb_takes_linear_time(piece: str, end: str) -> None:
    answer = (piece * (100_000 // len(piece))) + end
    start = time.process_time()
    for question in KINDS:
        is_correct(answer, question)
    find_quantities(answer)
    assert time.process_time() - start < 10, "quadratic time would be minutes"


HOSTILE = ["1,111", "1,", "9", "1 mg/", "10^", "5 mg/mg", "1 x 10^", "the answer is ", " ", "\u0301\u0327", "a/", "1-"]


@pytest.mark.parametrize(
    "piece", [*HOSTILE, "17 weeks, ", "-", "$", "{", "<a", "not ", " or", "A. ", "è", "1 to ", "1.7"]
)
def test_repeated_pieces_take_linear_time(piece: str) -> None:
    start = time.process_time()
    for question in KINDS:
        is_readable(piece * (100_000 // len(piece)) + "x", question)
    assert time.process_time() - start < 3


@given(st.sampled_from(["C", "high", "(C)", "The answer is C"]), st.sampled_from(["not ", "never ", "anything but "]))
def test_a_denied_choice_is_unreadable(answer: str, denial: str) -> None:
    assert verdict(denial + answer, CHOICE) == UNREADABLE


@given(st.permutations("ABCDO"), st.integers(0, 3))
def test_one_letter_is_right_whatever_the_options_say(texts: list[str], place: int) -> None:
    question = example("choice", "ABCD"[place], options=dict(zip("ABCD", texts, strict=False)))
    assert [letter for letter in "ABCD" if is_correct(letter, question)] == ["ABCD"[place]]


CLINICAL = generate(6 * len(TOPICS), seed=11)


def a_wrong_answer(question: Example) -> str:
    if question.kind == "choice":
        return next(letter for letter in question.options if letter != question.gold)
    if question.kind == "numeric":
        return f"{float(question.gold) + 2 * question.tolerance + 1:.6f} {question.unit}"
    return f"not {question.gold}"


@given(st.sampled_from(CLINICAL))
def test_the_gold_of_a_clinical_question_is_strict_and_right(question: Example) -> None:
    parsed = parse(render_gold(question))
    assert parsed.is_strict
    assert is_correct(parsed.answer, question)
    assert is_correct(question.gold_text, question)
    assert not is_correct(a_wrong_answer(question), question)


@given(st.sampled_from([question for question in CLINICAL if question.kind == "choice"]))
def test_every_other_option_is_wrong(question: Example) -> None:
    for letter, text in question.options.items():
        right = letter == question.gold
        assert is_correct(letter, question) is right
        assert is_correct(text, question) is right
        assert is_correct(f"{letter}. {text}", question) is right
        assert is_correct(f"The answer is ({letter}): {text}", question) is right
        assert verdict(f"not {letter}", question) == UNREADABLE
        assert is_correct(f"{question.gold}. {text}", question) is right
        assert is_readable(f"{question.gold}. {text}", question) is right


def test_the_clinical_questions_are_of_several_kinds() -> None:
    assert {question.kind for question in CLINICAL} >= {"choice", "numeric"}


# --- quantities


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BP 120/80 mmHg", [(120, ""), (80, "mmHg")]),
        ("sodium 140 mmol/L, temp 38.5 °C.", [(140, "mmol/L"), (38.5, "°C")]),
        ("5.2 x 10^9/L", [(5.2e9, "/L")]),
        ("2.5 10^9/L", [(2.5, "10^9/L")]),
        ("10-15 mg", [(10, ""), (15, "mg")]),
        ("-3.5 mmol/L", [(-3.5, "mmol/L")]),
        ("17 weeks, 4 days", [(17, "wk"), (4, "d")]),
        ("1,234.5 mL", [(1234.5, "mL")]),
        ("a 4-week course", [(4, "wk")]),
        ("GFR 30 mL/min/1.73 m² and B12", [(30, "mL/min/1.73 m^2")]),
        ("5 in 10", [(5, ""), (10, "")]),
        ("45% of them", [(45, "%")]),
        ("5 mcg/kg/min", [(5, "µg/kg/min")]),
        ("10 units/kg", [(10, "U/kg")]),
        ("1e999 and 7", [(7, "")]),
        ("", []),
        ("none", []),
    ],
)
def test_quantities_are_found_with_their_units(text: str, found: list[tuple[float, str]]) -> None:
    assert find_quantities(text) == [Quantity(float(value), unit) for value, unit in found]


@pytest.mark.parametrize(
    ("value", "unit", "other", "expected"),
    [
        (5, "mg", "g", 0.005),
        (98.6, "°F", "°C", 37),
        (37, "°C", "°F", 98.6),
        (5000, "cells/µL", "10^9/L", 5),
        (5, "x10^3/uL", "cells/mm³", 5000),
        (70, "bpm", "/min", 70),
        (0.45, "L/L", "%", 45),
        (17, "weeks", "days", 119),
        (5, "IU", "U", 5),
        (1, "in", "cm", None),
        (150, "lb", "kg", 68.0388555),
        (70, "inches", "cm", 177.8),
        (1, "L/min", "mL/s", 1000 / 60),
        (100, "mg/dL", "mmol/L", None),
        (5, "mEq/L", "mmol/L", None),
        (5, "points", "%", None),
        (5, "°C/min", "°F/min", None),
        (5, "mg", "mL", None),
        (5, "", "mg", None),
        (5, "10^99 mg", "mg", None),
        (1e308, "kg", "ng", None),
    ],
)
def test_units_are_converted(value: float, unit: str, other: str, expected: float | None) -> None:
    found = convert(Quantity(value, unit), other)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("pair", ["mcg µg", "cc mL", "bpm /min", "g/L mg/mL", "kg/m2 kg/m²", "IU/L U/L", "foo foo"])
def test_the_same_unit_in_other_words(pair: str) -> None:
    assert same_unit(*pair.split())


@pytest.mark.parametrize("pair", ["mg g", "°C °F", "mM mm", "mEq/L mmol/L", "foo mg", "mL/min mL/min/1.73m2"])
def test_other_units(pair: str) -> None:
    assert not same_unit(*pair.split())


def test_equal_quantities() -> None:
    assert same_quantity(Quantity(5, "mg"), Quantity(0.005, "g"))
    assert same_quantity(Quantity(5, ""), Quantity(5, "g")), "a missing unit fits any"
    assert not same_quantity(Quantity(5, "mg"), Quantity(5, "g"))
    assert not same_quantity(Quantity(5, "mg"), Quantity(5, "mL"))
    assert same_quantity(Quantity(100, "mg"), Quantity(101, "mg"), tolerance=0.01)


@pytest.mark.parametrize("name", _ATOMS)
def test_every_spelling_names_its_unit_and_pint_knows_it(name: str) -> None:
    for spelling in filter(None, (name, *_ATOMS[name][1].split("|"))):
        unit = read_unit(spelling)
        assert unit is not None and unit.name == name
    # an inverse is another unit, so that pint is asked
    assert convert(Quantity(2, f"1000{name}"), name) is None
    assert convert(Quantity(2, f"10^3 {name}"), f"{name}") is not None
    assert name in ("°C", "°F") or convert(Quantity(2, f"{name}/min"), f"{name}/s") == pytest.approx(2 / 60)


def test_importing_the_judge_loads_no_pint() -> None:
    code = "import sys, medgrpo.judge, medgrpo.judge.quantities; print('pint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
