"""The answer grammar: tables of completions, and properties that hold for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.answer import DEFAULT_SYSTEM_PROMPT, messages, parse, render_completion, render_gold, render_question
from medgrpo.types import Example, Parsed

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

# Completion → reasoning and answer; the grammar has no fault to find.
STRICT: dict[str, tuple[str, str]] = {
    "<reasoning>r s t</reasoning><answer>a</answer>": ("r s t", "a"),
    "<reasoning>r s t</reasoning>\n<answer>a</answer>": ("r s t", "a"),
    " \n\t<reasoning>\nr s t\n</reasoning>\n\n<answer>\na\n</answer>\n ": ("r s t", "a"),
    "<reasoning>r\ns t</reasoning><answer>a\nb</answer>": ("r\ns t", "a\nb"),
    "<reasoning>pH < 7.35 and > 7</reasoning><answer><b>C</b></answer>": ("pH < 7.35 and > 7", "<b>C</b>"),
    "<reasoning>Натрий 128 ≤ 133 🩺</reasoning><answer>低钠血症</answer>": ("Натрий 128 ≤ 133 🩺", "低钠血症"),
    "\u00a0<reasoning>\u2003r s t\u2003</reasoning>\u3000<answer>\u00a0a\u00a0</answer>\u2028": ("r s t", "a"),
    "<reasoning>an <answer tag</reasoning><answer>/answer></answer>": ("an <answer tag", "/answer>"),
    "<reasoning>x <Answer>y</Answer> z</reasoning><answer>a</answer>": ("x <Answer>y</Answer> z", "a"),
}

# Completion → reasoning, answer, every fault in it.
FAULTY: dict[str, tuple[str | None, str | None, set[str]]] = {
    "": (None, None, {"no reasoning block", "no answer block"}),
    "C": (None, None, {"no reasoning block", "no answer block"}),
    "<answer>a</answer>": (None, "a", {"no reasoning block"}),
    "<reasoning>r s t</reasoning>": ("r s t", None, {"no answer block"}),
    "<reasoning>r s t</reasoning>a": ("r s t", None, {"no answer block"}),
    "<reasoning></reasoning><answer>a</answer>": ("", "a", {"empty reasoning block"}),
    "<reasoning>r s t</reasoning><answer> \n\u00a0</answer>": ("r s t", "", {"empty answer block"}),
    "<reasoning></reasoning><answer></answer>": ("", "", {"empty reasoning block", "empty answer block"}),
    "<answer>a</answer><reasoning>r s t</reasoning>": (
        "r s t",
        "a",
        {"answer before reasoning", "text outside the blocks"},
    ),
    "so <reasoning>r s t</reasoning><answer>a</answer>": ("r s t", "a", {"text outside the blocks"}),
    "<reasoning>r s t</reasoning>so<answer>a</answer>": ("r s t", "a", {"text outside the blocks"}),
    "<reasoning>r s t</reasoning><answer>a</answer>.": ("r s t", "a", {"text outside the blocks"}),
    "\u200b<reasoning>r s t</reasoning><answer>a</answer>": ("r s t", "a", {"text outside the blocks"}),
    "<reasoning>r s t</reasoning><answer>a</answer><answer>b</answer>": ("r s t", None, {"several answer blocks"}),
    "<reasoning>r s t</reasoning><answer>a</answer></answer>": ("r s t", None, {"several answer blocks"}),
    "<reasoning>r s t</reasoning><answer><answer>a</answer>": ("r s t", None, {"several answer blocks"}),
    "<reasoning>r s t</reasoning><reasoning>s</reasoning><answer>a</answer>": (None, "a", {"several reasoning blocks"}),
    "<reasoning></reasoning><answer></answer>" * 2: (None, None, {"several reasoning blocks", "several answer blocks"}),
    "<reasoning>r s t<answer>a</answer></reasoning>": ("r s t<answer>a</answer>", "a", {"text outside the blocks"}),
    "<reasoning>r s t<answer>u</reasoning>a</answer>": (
        "r s t<answer>u",
        "u</reasoning>a",
        {"text outside the blocks"},
    ),
    "<answer>a<reasoning>r s t</reasoning></answer>": (
        "r s t",
        "a<reasoning>r s t</reasoning>",
        {"answer before reasoning", "text outside the blocks"},
    ),
    "<reasoning>r s t</answer></reasoning><answer>a</answer>": ("r s t</answer>", None, {"several answer blocks"}),
    "<Reasoning>r</Reasoning><Answer>a</Answer>": (None, None, {"no reasoning block", "no answer block"}),
    "<reasoning>r s t</reasoning><ANSWER>a</ANSWER>": ("r s t", None, {"no answer block"}),
    "< reasoning>r</reasoning><answer >a</answer>": (None, None, {"no reasoning block", "no answer block"}),
    "<reasoning>r s t</reasoning><answer>a": ("r s t", None, {"no answer block"}),
    "<reasoning>r<answer>a</answer>": (None, "a", {"no reasoning block"}),
    "</reasoning>r<reasoning><answer>a</answer>": (None, "a", {"no reasoning block"}),
    "<reasoning>r s t</reasoning></answer>a<answer>": ("r s t", None, {"no answer block"}),
    "<reasoning>Yes.</reasoning><answer>a</answer>": ("Yes.", "a", {"reasoning says nothing"}),
    "<reasoning>. , - : ; !</reasoning><answer>a</answer>": (". , - : ; !", "a", {"reasoning says nothing"}),
    "so <reasoning>r s</reasoning><answer>a</answer>": (
        "r s",
        "a",
        {"reasoning says nothing", "text outside the blocks"},
    ),
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
SODIUM = example("numeric", "140", tolerance=0.5, unit="mmol/L")
POTASSIUM = example("range", "3.5-5.0", unit="mmol/L")
PLAIN = example("numeric", "14")


@pytest.mark.parametrize(
    ("reasoning", "says_nothing"),
    [
        ("Thought process:", True),
        ("Here is my thought process:", True),
        ("**Here is my reasoning:**", True),
        (":", True),
        ("...", True),
        ("Step one", True),
        ("低钠", True),
        ("低钠血症", False),
        ("ภาวะโซเดียมต่ำ", False),
        ("It is low", False),
        ("Sodium: 128 < 133", False),
        ("The sodium of 128 is low, and that means:", False),
        ("Thought process:\nsodium is low", False),
    ],
)
def test_a_reasoning_of_fewer_than_three_words_says_nothing(reasoning: str, says_nothing: bool) -> None:
    faults = parse(render_completion(reasoning, "a")).faults
    assert faults == (("reasoning says nothing",) if says_nothing else ())


@pytest.mark.parametrize("reasoning", ["", "Ans. C", "Explanation:"])
def test_the_gold_is_strict_whatever_reasoning_the_row_has(reasoning: str) -> None:
    assert parse(render_gold(CHOICE.model_copy(update={"reasoning": reasoning}))).is_strict


# Pieces that a grammar can trip over; plain random text would hardly ever hold a tag.
PIECES = st.sampled_from([*TAGS, "<", ">", "</", "answer>", "<Answer>", " ", "\n", "\u00a0", "C", "14", "é", "\x00"])
COMPLETIONS = st.text(max_size=40) | st.lists(PIECES | st.text(max_size=5), max_size=14).map("".join)
TAG_FREE = st.text(max_size=60).filter(lambda text: text.strip() and not any(tag in text for tag in TAGS))
THOUGHTS = TAG_FREE.map(lambda text: f"It is so: {text} then.")


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


@given(THOUGHTS, TAG_FREE)
def test_a_rendered_completion_is_strict(reasoning: str, answer: str) -> None:
    parsed = parse(render_completion(reasoning, answer))
    assert parsed == Parsed(reasoning=reasoning.strip(), answer=answer.strip(), faults=())


@given(THOUGHTS, TAG_FREE, st.text(min_size=1, max_size=10).filter(str.strip), st.integers(0, 2))
def test_text_at_any_place_outside_is_a_fault(reasoning: str, answer: str, stray: str, place: int) -> None:
    parts = [f"<reasoning>{reasoning}</reasoning>", f"<answer>{answer}</answer>"]
    parts.insert(place, stray)
    assert not parse("".join(parts)).is_strict


def test_gold_is_rendered_with_its_unit_and_reasoning() -> None:
    gold = render_gold(SODIUM.model_copy(update={"reasoning": "the lab gives it"}))
    assert gold == "<reasoning>the lab gives it</reasoning>\n<answer>140 mmol/L</answer>"
    assert parse(render_gold(PLAIN)).answer == "14"
    assert parse(render_gold(POTASSIUM)).answer == "3.5-5.0 mmol/L"
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
    shown = parse(DEFAULT_SYSTEM_PROMPT.partition("format:")[2])
    assert shown.faults == ("reasoning says nothing",), "it shows dots where words belong"
