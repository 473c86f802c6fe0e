"""Changed golds: each means something else, and reworded ones mean the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from medgrpo.audit.perturb import CHANGES, Change, changed, changed_answers, reworded
from medgrpo.data import PresetSource
from medgrpo.data.words import joined_words
from medgrpo.judge import is_correct
from medgrpo.types import Example


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        ("negation", "Sepsis", ["not sepsis", "no evidence of sepsis", "sepsis is ruled out", "anything but sepsis"]),
        ("negation", "T4 is raised", ["T4 is not raised", "It is not true that T4 is raised", "False: T4 is raised"]),
        ("negation", "It is not dangerous", ["It is dangerous"]),
        ("number", "5 mg", ["50 mg", "0.5 mg", "6 mg", "-5 mg"]),
        ("number", "1,200 mL", ["12000 mL", "120 mL"]),
        ("number", "Trisomy 21", ["Trisomy 31"]),
        ("number", "CD4 cells", ["CD5 cells"]),
        ("number", "two weeks", ["three weeks"]),
        ("number", "2nd premolar", ["3rd premolar"]),
        ("unit", "5 mg daily", ["5 g daily"]),
        ("unit", "two weeks", ["two months"]),
        ("unit", "140 mmol/L", ["140 mol/L"]),
        ("side", "Left ventricle", ["Right ventricle"]),
        ("side", "the DISTAL ileum", ["the PROXIMAL ileum"]),
        ("opposite", "Hyperkalaemia", ["Hypokalaemia"]),
        ("opposite", "increased preload", ["decreased preload"]),
        ("opposite", "Chronic bronchitis", ["Acute bronchitis"]),
    ],
)
def test_a_gold_is_changed(change: Change, text: str, expected: list[str]) -> None:
    found = changed(text, change)
    assert set(expected) <= set(found), found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("negation", "No treatment is needed unless it worsens, and none without consent"),  # denying affirms it
        ("negation", "yes"),
        ("negation", ""),
        ("number", "Sepsis"),
        ("number", "at 4:01"),
        ("unit", "vitamin g"),
        ("unit", "5 grafts"),
        ("side", "All of the above"),
        ("side", "The right answer"),
        ("side", "lower blood pressure"),
        ("side", "from left to right"),  # changing one leaves nonsense
        ("opposite", "Hypothalamus"),
        ("drug", "Sepsis"),
    ],
)
def test_what_has_nothing_of_a_kind_is_left_alone(change: Change, text: str) -> None:
    assert changed(text, change) == []


def test_a_drug_becomes_another_one() -> None:
    found = changed("Warfarin with aspirin", "drug")
    assert len(found) == 6
    assert all(text.startswith("Warfarin with ") != text.endswith(" with aspirin") for text in found)


def test_denials_take_many_forms() -> None:
    found = changed("Iron deficiency", "negation")
    assert len(found) >= 12
    assert len({text.replace("iron deficiency", "X") for text in found}) == len(found)


@pytest.mark.parametrize(
    "text", ["Iron deficiency", "5 mg", "The heart is enlarged", "T3", "a lesion of the left side."]
)
def test_rewordings_keep_every_word(text: str) -> None:
    found = reworded(text)
    assert len(found) >= 3 and text not in found[:1]
    for other in found:
        assert joined_words(text) in joined_words(other)
        assert not {"not", "no", "un"} & set(joined_words(other).split())


def example(kind: str, gold: str, **more: object) -> Example:
    return Example.model_validate({"id": "e", "kind": kind, "question": "?", "gold": gold} | more)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            example("numeric", "105", unit="mg", tolerance=1.0),
            {"off by ten": ["1050 mg", "10.5 mg", "10500 mg"], "another sign": ["-105 mg"], "another unit": ["105 g"]},
        ),
        (example("numeric", "0"), {"off by ten": [], "another sign": [], "another unit": []}),
        (example("numeric", "5", limits=(0.0, 1000.0)), {"off by ten": []}),
        (
            example("range", "3.5-5.0", unit="mmol/L"),
            {"off by ten": ["35-50 mmol/L", "0.35-0.5 mmol/L"], "another unit": ["3.5-5.0 mol/L"]},
        ),
        (
            example("date", "12/31/2000"),
            {"another day": ["01/01/2001"], "another month": ["01/31/2001"], "another year": ["01/01/2002"]},
        ),
        (example("date", "unknown"), {}),
        (example("text", "5 mg"), {}),
    ],
)
def test_answers_near_a_gold(row: Example, expected: dict[str, list[str]]) -> None:
    found = changed_answers(row)
    assert {name: found[name] for name in expected} == expected
    assert not any(is_correct(answer, row) for answers in found.values() for answer in answers)


def golds(shared_data: Path) -> Sequence[str]:
    files = {"medqa-4": "medqa/dev_4options.jsonl", "medmcqa": "medmcqa/dev_first2000.jsonl"}
    rows = [
        row for name, path in files.items() for row in PresetSource(name=name, path=str(shared_data / path)).load(0)
    ]  # type: ignore[arg-type]
    return list(dict.fromkeys(row.gold_text for row in rows))


def test_real_golds_are_changed_into_other_texts_the_same_each_time(shared_data: Path) -> None:
    for text in golds(shared_data):
        for change in CHANGES:
            found = changed(text, change)
            assert found == changed(text, change)
            assert len(set(found)) == len(found)
            assert text not in found and text.rstrip(" .") not in found
