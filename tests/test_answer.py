"""The answer grammar: tables of completions and answers, and properties that hold for any text."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.answer import (
    DEFAULT_SYSTEM_PROMPT,
    is_correct,
    messages,
    parse,
    render_completion,
    render_gold,
    render_question,
)
from medgrpo.data.clinical import TOPICS, generate
from medgrpo.types import Example, Parsed

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

# Completion → reasoning and answer; the grammar has no fault to find.
STRICT: dict[str, tuple[str, str]] = {
    "<reasoning>r</reasoning><answer>a</answer>": ("r", "a"),
    "<reasoning>r</reasoning>\n<answer>a</answer>": ("r", "a"),
    " \n\t<reasoning>\nr\n</reasoning>\n\n<answer>\na\n</answer>\n ": ("r", "a"),
    "<reasoning>r\ns</reasoning><answer>a\nb</answer>": ("r\ns", "a\nb"),
    "<reasoning>pH < 7.35 and > 7</reasoning><answer><b>C</b></answer>": ("pH < 7.35 and > 7", "<b>C</b>"),
    "<reasoning>Натрий 128 ≤ 133 🩺</reasoning><answer>低钠血症</answer>": ("Натрий 128 ≤ 133 🩺", "低钠血症"),
    "\u00a0<reasoning>\u2003r\u2003</reasoning>\u3000<answer>\u00a0a\u00a0</answer>\u2028": ("r", "a"),
    "<reasoning><answer</reasoning><answer>/answer></answer>": ("<answer", "/answer>"),
    "<reasoning><Answer>x</Answer></reasoning><answer>a</answer>": ("<Answer>x</Answer>", "a"),
}

# Completion → reasoning, answer, every fault in it.
FAULTY: dict[str, tuple[str | None, str | None, set[str]]] = {
    "": (None, None, {"no reasoning block", "no answer block"}),
    "C": (None, None, {"no reasoning block", "no answer block"}),
    "<answer>a</answer>": (None, "a", {"no reasoning block"}),
    "<reasoning>r</reasoning>": ("r", None, {"no answer block"}),
    "<reasoning>r</reasoning>a": ("r", None, {"no answer block"}),
    "<reasoning></reasoning><answer>a</answer>": ("", "a", {"empty reasoning block"}),
    "<reasoning>r</reasoning><answer> \n\u00a0</answer>": ("r", "", {"empty answer block"}),
    "<reasoning></reasoning><answer></answer>": ("", "", {"empty reasoning block", "empty answer block"}),
    "<answer>a</answer><reasoning>r</reasoning>": ("r", "a", {"answer before reasoning", "text outside the blocks"}),
    "so <reasoning>r</reasoning><answer>a</answer>": ("r", "a", {"text outside the blocks"}),
    "<reasoning>r</reasoning>so<answer>a</answer>": ("r", "a", {"text outside the blocks"}),
    "<reasoning>r</reasoning><answer>a</answer>.": ("r", "a", {"text outside the blocks"}),
    "\u200b<reasoning>r</reasoning><answer>a</answer>": ("r", "a", {"text outside the blocks"}),
    "<reasoning>r</reasoning><answer>a</answer><answer>b</answer>": ("r", None, {"several answer blocks"}),
    "<reasoning>r</reasoning><answer>a</answer></answer>": ("r", None, {"several answer blocks"}),
    "<reasoning>r</reasoning><answer><answer>a</answer>": ("r", None, {"several answer blocks"}),
    "<reasoning>r</reasoning><reasoning>s</reasoning><answer>a</answer>": (None, "a", {"several reasoning blocks"}),
    "<reasoning></reasoning><answer></answer>" * 2: (None, None, {"several reasoning blocks", "several answer blocks"}),
    "<reasoning>r<answer>a</answer></reasoning>": ("r<answer>a</answer>", "a", {"text outside the blocks"}),
    "<reasoning>r<answer>s</reasoning>a</answer>": ("r<answer>s", "s</reasoning>a", {"text outside the blocks"}),
    "<answer>a<reasoning>r</reasoning></answer>": (
        "r",
        "a<reasoning>r</reasoning>",
        {"answer before reasoning", "text outside the blocks"},
    ),
    "<reasoning>r</answer></reasoning><answer>a</answer>": ("r</answer>", None, {"several answer blocks"}),
    "<Reasoning>r</Reasoning><Answer>a</Answer>": (None, None, {"no reasoning block", "no answer block"}),
    "<reasoning>r</reasoning><ANSWER>a</ANSWER>": ("r", None, {"no answer block"}),
    "< reasoning>r</reasoning><answer >a</answer>": (None, None, {"no reasoning block", "no answer block"}),
    "<reasoning>r</reasoning><answer>a": ("r", None, {"no answer block"}),
    "<reasoning>r<answer>a</answer>": (None, "a", {"no reasoning block"}),
    "</reasoning>r<reasoning><answer>a</answer>": (None, "a", {"no reasoning block"}),
    "<reasoning>r</reasoning></answer>a<answer>": ("r", None, {"no answer block"}),
    "&lt;reasoning>r</reasoning><answer>a</answer>": (None, "a", {"no reasoning block"}),
}


@pytest.mark.parametrize(("completion", "expected"), STRICT.items())
def test_a_strict_completion_has_no_fault(completion: str, expected: tuple[str, str]) -> None:
    assert parse(completion) == Parsed(reasoning=expected[0], answer=expected[1], faults=())
    assert parse(completion).is_strict


@pytest.mark.parametrize(("completion", "expected"), FAULTY.items())
def test_every_fault_is_named(completion: str, expected: tuple[str | None, str | None, set[str]]) -> None:
    parsed = parse(completion)
    assert (parsed.reasoning, parsed.answer, set(parsed.faults)) == expected
    assert len(parsed.faults) == len(expected[2]), "a fault is named once"
    assert not parsed.is_strict


def example(kind: str, gold: str, **more: object) -> Example:
    return Example.model_validate({"id": "e", "kind": kind, "question": "What is it?", "gold": gold} | more)


CHOICE = example("choice", "C", options={"A": "low", "B": "normal", "C": "high", "D": "very high"})
# The texts of these options are letters and a number themselves.
GROUPS = example("choice", "B", options={"A": "O", "B": "A", "C": "AB", "D": "4"})
GERMS = example("choice", "A", options={"A": "C. difficile", "B": "E. coli", "C": "S. aureus"})

CHOICE_ANSWERS: dict[str, bool] = {
    "C": True,
    "c": True,
    "(C)": True,
    "(c)": True,
    "C)": True,
    "C.": True,
    "C:": True,
    " \nC\n ": True,
    "C. high": True,
    "C) high": True,
    "(C) high": True,
    "(C): high": True,
    "C: High.": True,
    "c - HIGH": True,
    "C.\nhigh": True,
    "high": True,
    "High.": True,
    "'high'": True,
    "  high \n": True,
    "A": False,
    "(A)": False,
    "B.": False,
    "E": False,
    "A. low": False,
    "low": False,
    "very high": False,
    "C. low": False,
    "C. very high": False,
    "A. high": False,
    "C. high or normal": False,
    "C, D": False,
    "C. D": False,
    "C and D": False,
    "CD": False,
    "CC": False,
    "A B C D": False,
    "the answer is C": False,
    "The answer is: C": False,
    "option C": False,
    "C is right": False,
    "highly": False,
    "not high": False,
    "high, low": False,
    "С": False,  # the Cyrillic letter
    "": False,
    ".": False,
    "()": False,
    "3": False,
}


@pytest.mark.parametrize(("answer", "right"), CHOICE_ANSWERS.items())
def test_choice(answer: str, right: bool) -> None:
    assert is_correct(answer, CHOICE) is right


@pytest.mark.parametrize(
    ("answer", "question", "right"),
    [
        ("B", GROUPS, True),
        ("B. A", GROUPS, True),
        ("A", GROUPS, False),  # option A, not the blood group A: else two of four letters would count
        ("A.", GROUPS, False),
        ("A. O", GROUPS, False),
        ("4", GROUPS, False),
        ("AB", GROUPS, False),
        ("C. difficile", GERMS, True),
        ("A. C. difficile", GERMS, True),
        ("E. coli", GERMS, False),
        ("C", GERMS, False),
        ("C. S. aureus", GERMS, False),
        ("II", example("choice", "A", options={"A": "II", "B": "I"}), True),
        ("V", example("choice", "A", options={"A": "V", "B": "IV"}), True),  # no option has the letter V
    ],
)
def test_choice_among_options_that_look_like_letters(answer: str, question: Example, right: bool) -> None:
    assert is_correct(answer, question) is right


SODIUM = example("numeric", "140", tolerance=0.5, unit="mmol/L")
RATE = example("numeric", "14", unit="/min")
PLAIN = example("numeric", "14")
COUNT = example("numeric", "12500", tolerance=50)
EXCESS = example("numeric", "-3.5", tolerance=0.1, unit="mmol/L")
TENTH = example("numeric", "0.3", tolerance=0.1)
PLATELETS = example("numeric", "250", unit="10^9/L")


@pytest.mark.parametrize(
    ("answer", "question", "right"),
    [
        ("140", SODIUM, True),
        ("140.0", SODIUM, True),
        ("139.5", SODIUM, True),
        ("140.5", SODIUM, True),
        ("139.49", SODIUM, False),
        ("140.51", SODIUM, False),
        ("140.500001", SODIUM, False),
        ("0.4", TENTH, True),  # 0.4 - 0.3 is more than 0.1 in binary
        ("0.2", TENTH, True),
        ("0.41", TENTH, False),
        (".3", TENTH, True),
        ("140 mmol/L", SODIUM, True),
        ("140mmol/L", SODIUM, True),
        ("140  MMOL/l.", SODIUM, True),
        ("140\nmmol/L", SODIUM, True),
        ("140 mg/dL", SODIUM, False),
        ("140 mmol", SODIUM, False),
        ("140 mmol/L or so", SODIUM, False),
        ("mmol/L", SODIUM, False),
        ("14 mmol/L", PLAIN, False),
        ("14 /min", RATE, True),
        ("14/min", RATE, True),
        ("14/", RATE, False),
        ("250 10^9/L", PLATELETS, True),
        ("250 10^6/L", PLATELETS, False),
        ("250 × 10^9/L", PLATELETS, False),
        ("12,500", COUNT, True),
        ("12500", COUNT, True),
        ("12,549.9", COUNT, True),
        ("12,551", COUNT, False),
        ("12,50", COUNT, False),
        ("12,5000", COUNT, False),
        ("1,2500", COUNT, False),
        ("12 500", COUNT, False),
        ("12.500", COUNT, False),
        ("1.25e4", COUNT, True),
        ("1.25E+4", COUNT, True),
        ("125000e-1", COUNT, True),
        ("1.25e3", COUNT, False),
        ("1.25e", COUNT, False),
        ("-3.5", EXCESS, True),
        ("-3.4 mmol/L", EXCESS, True),
        ("3.5", EXCESS, False),
        ("+3.5", EXCESS, False),
        ("--3.5", EXCESS, False),
        ("- 3.5", EXCESS, False),
        ("-14", PLAIN, False),
        ("+14", PLAIN, True),
        ("14.", PLAIN, True),
        ("14", PLAIN, True),
        ("4", PLAIN, False),
        ("1", PLAIN, False),
        ("14", example("numeric", "4"), False),
        ("4", example("numeric", "4"), True),
        ("14 15", PLAIN, False),
        ("14-15", PLAIN, False),
        ("14 or 15", PLAIN, False),
        ("about 14", PLAIN, False),
        ("= 14", PLAIN, False),
        ("fourteen", PLAIN, False),
        ("0x0e", PLAIN, False),
        ("1_4", PLAIN, False),
        ("1.4.0", PLAIN, False),
        ("7*2", PLAIN, False),
        ("nan", PLAIN, False),
        ("inf", PLAIN, False),
        ("-inf", PLAIN, False),
        ("1e999", PLAIN, False),
        ("1e9999999", PLAIN, False),
        ("9" * 5000, PLAIN, False),
        ("e1", PLAIN, False),
        ("-e14", PLAIN, False),
        ("E1", PLAIN, False),
        (".", PLAIN, False),
        ("-", PLAIN, False),
        ("", PLAIN, False),
        (" ", PLAIN, False),
        ("²", PLAIN, False),
        ("0", example("numeric", "0"), True),
        ("-0", example("numeric", "0"), True),
        ("", example("numeric", "0"), False),
    ],
)
def test_numeric(answer: str, question: Example, right: bool) -> None:
    assert is_correct(answer, question) is right


HYPERTENSION = example("text", "Stage 1 hypertension")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Stage 1 hypertension", True),
        ("stage 1 HYPERTENSION", True),
        ("  Stage  1\n hypertension \t", True),
        ("Stage 1 hypertension.", True),
        ("'stage 1 hypertension!'", True),
        ("Stage 2 hypertension", False),
        ("Stage 11 hypertension", False),
        ("Stage 1", False),
        ("hypertension", False),
        ("not stage 1 hypertension", False),
        ("stage 1 hypertension or normal", False),
        ("stage-1 hypertension", False),
        ("", False),
        (".", False),
    ],
)
def test_text(answer: str, right: bool) -> None:
    assert is_correct(answer, HYPERTENSION) is right


def test_text_compares_letters_of_all_scripts_without_case() -> None:
    assert is_correct("MORBUS GROSSESTRASSE", example("text", "Morbus Großestraße"))
    assert is_correct("ГИПЕРТОНИЯ.", example("text", "гипертония"))


@pytest.mark.parametrize("question", [CHOICE, SODIUM, HYPERTENSION])
def test_no_answer_block_is_never_right(question: Example) -> None:
    assert not is_correct(None, question)


QUESTIONS = [CHOICE, GROUPS, GERMS, SODIUM, PLAIN, EXCESS, COUNT, HYPERTENSION]
# Pieces that a grammar can trip over; plain random text would hardly ever hold a tag.
PIECES = st.sampled_from([*TAGS, "<", ">", "</", "answer>", "<Answer>", " ", "\n", "\u00a0", "C", "14", "é", "\x00"])
COMPLETIONS = st.text(max_size=40) | st.lists(PIECES | st.text(max_size=5), max_size=14).map("".join)
TAG_FREE = st.text(max_size=60).filter(lambda text: text.strip() and not any(tag in text for tag in TAGS))


@given(COMPLETIONS)
def test_parse_never_raises(completion: str) -> None:
    parsed = parse(completion)
    assert parsed.is_strict == (not parsed.faults)
    if parsed.is_strict:
        assert parsed.reasoning and parsed.answer
        # Put together again, only white space may be missing.
        rendered = render_completion(parsed.reasoning, parsed.answer)
        assert "".join(rendered.split()) == "".join(completion.split())


@given(COMPLETIONS.filter(lambda text: not all(text.count(tag) == 1 for tag in TAGS)))
def test_what_lacks_a_tag_or_repeats_one_is_never_strict(completion: str) -> None:
    assert not parse(completion).is_strict


@given(TAG_FREE, TAG_FREE)
def test_a_rendered_completion_is_strict(reasoning: str, answer: str) -> None:
    parsed = parse(render_completion(reasoning, answer))
    assert parsed == Parsed(reasoning=reasoning.strip(), answer=answer.strip(), faults=())


@given(TAG_FREE, TAG_FREE, st.text(min_size=1, max_size=10).filter(str.strip), st.integers(0, 2))
def test_text_at_any_place_outside_is_a_fault(reasoning: str, answer: str, stray: str, place: int) -> None:
    parts = [f"<reasoning>{reasoning}</reasoning>", f"<answer>{answer}</answer>"]
    parts.insert(place, stray)
    assert not parse("".join(parts)).is_strict


ANSWER_PIECES = st.sampled_from([*"0123456789+-.,eE C()/ ", "mmol/L", "high", "nan", "inf", "٣", "²"])


@given(st.text(max_size=30) | st.lists(ANSWER_PIECES, max_size=8).map("".join), st.sampled_from(QUESTIONS))
def test_is_correct_never_raises(answer: str, question: Example) -> None:
    assert is_correct(answer, question) in (True, False)


@given(st.decimals(-1e6, 1e6, places=3), st.decimals(-1e6, 1e6, places=3), st.sampled_from(["0", "0.5", "1000"]))
def test_numbers_are_judged_by_their_distance(answer: Decimal, gold: Decimal, tolerance: str) -> None:
    right = abs(answer - gold) <= Decimal(tolerance)
    assert is_correct(f"{answer:f}", example("numeric", f"{gold:f}", tolerance=tolerance)) is right
    assert is_correct(f"{gold:f}", example("numeric", f"{gold:f}", tolerance=tolerance))


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
        assert is_correct(f"{question.gold}. {text}", question) is right


def test_the_clinical_questions_are_of_several_kinds() -> None:
    assert {question.kind for question in CLINICAL} >= {"choice", "numeric"}


def test_gold_is_rendered_with_its_unit_and_reasoning() -> None:
    gold = render_gold(SODIUM.model_copy(update={"reasoning": "as given"}))
    assert gold == "<reasoning>as given</reasoning>\n<answer>140 mmol/L</answer>"
    assert parse(render_gold(PLAIN)).answer == "14"
    assert parse(render_gold(CHOICE)).answer == "C"


def test_a_question_is_shown_with_its_options() -> None:
    assert render_question(CHOICE) == "What is it?\nA. low\nB. normal\nC. high\nD. very high"
    assert render_question(PLAIN) == "What is it?"


def test_messages_hold_system_demonstrations_and_question_in_this_order() -> None:
    turns = messages("s", (("q1", "c1"), ("q2", "c2")), "q")
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "c1"),
        ("user", "q2"),
        ("assistant", "c2"),
        ("user", "q"),
    ]
    assert messages("", (), "q") == [{"role": "user", "content": "q"}]


def test_the_system_prompt_shows_the_grammar() -> None:
    assert parse(DEFAULT_SYSTEM_PROMPT.partition("format:")[2]).is_strict
