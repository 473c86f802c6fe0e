import json
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.data.clinical import generate
from medgrpo.data.duplicates import bands, find_duplicates
from medgrpo.data.words import is_generic, joined_words, negations, numbers, option_text, word_ngrams, words
from medgrpo.types import Example

LONG = (
    "A 44-year-old man comes to the physician because of severe lower back pain for 1 week. He has also had fatigue, "
    "weight gain and episodic headaches during the past 3 months. His pulse is 88/min and blood pressure is 155/102 mm "
    "Hg. Physical examination shows facial plethora and truncal obesity. Which finding is most likely?"
)
OPTIONS = ("nuchal hypertrophy", "low glucose", "suprasellar mass", "flat T waves")


def choice(row: str, question: str, *options: str, gold: str = "A") -> Example:
    return Example(
        id=row, kind="choice", question=question, gold=gold, options=dict(zip("ABCDEFGH", options, strict=False))
    )


def text(row: str, question: str, gold: str = "Cushing") -> Example:
    return Example(id=row, kind="text", question=question, gold=gold)


def numeric(row: str, gold: str, **more: object) -> Example:
    return Example.model_validate({"id": row, "kind": "numeric", "question": "The BMI?", "gold": gold, **more})


def reasons(*examples: Example, similarity: float = 0.85) -> list[str]:
    drops = find_duplicates(examples, similarity)
    return [drops[row].reason if row in drops else "" for row in range(len(examples))]


EXACT, NEAR, BOTH_GO = ["", "exact duplicate"], ["", "near duplicate"], ["contradiction", "contradiction"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (text("a", "What is it?"), text("b", "WHAT,  is -- it"), EXACT),
        (text("a", "Non-competitive?"), text("b", "Non - competitive"), EXACT),
        (text("a", "5 µg of it"), text("b", "5 μg of it"), EXACT),  # micro sign, Greek mu
        (text("a", "What is it?", "flu"), text("b", "what is it", "influenza"), EXACT),
        (text("a", "Base excess is 12?"), text("b", "Base excess is -12?"), ["", ""]),
        (text("a", "pH < 7.35?"), text("b", "pH > 7.35?"), ["", ""]),
        (text("a", "Which one?"), choice("b", "Which one?", "x", "y"), ["", ""]),
        (
            choice("a", "Which is true?", "p", "q", "r", "s"),
            choice("b", "Which is true?", "t", "u", "v", "w"),
            ["", ""],
        ),
        (choice("a", "Which?", "pus", "q", "r", "s"), choice("b", "Which?", "pus", "q", "v", "w"), EXACT),
        (choice("a", "Which?", "pus", "q", "r", "s"), choice("b", "Which?", "pus", "u", "v", "w"), ["", ""]),
        (
            choice("a", "Which?", "one", "two", "three", "four"),
            choice("b", "Which?", "one", "two", "x1", "x2", "x3"),
            ["", ""],
        ),
        (
            choice("a", "True?", "gout", "flu", "All of the above", "None of the above"),
            choice("b", "True?", "rash", "pus", "All of the above", "None of the above"),
            ["", ""],
        ),
        (
            choice("a", "Nitrates act by", "decrease in preload", "decrease in afterload", "x", "y"),
            choice("b", "Nitrates act by", "decreases in preload", "decreases in afterload", "v", "w"),
            EXACT,
        ),
        (choice("a", "So?", "yes", "no"), choice("b", "So?", "no", "yes", gold="B"), EXACT),
        (choice("a", "So?", "yes", "no"), choice("b", "So?", "true", "false"), ["", ""]),
        (choice("a", "Sign?", "+", "-", gold="A"), choice("b", "Sign?", "+", "-", gold="B"), BOTH_GO),
        (choice("a", "Which?", "p", "q"), choice("b", "Which?", "q", "p", gold="B"), EXACT),
        (choice("a", "Which?", "p", "q"), choice("b", "Which?", "q", "p"), BOTH_GO),
        (
            choice("a", "Which?", "pus", "q", "r"),
            choice("b", "Which?", "pus pus", "q", "r"),
            EXACT,
        ),  # golds in one row only
        (numeric("a", "22.5"), numeric("b", "22.50"), EXACT),
        (numeric("a", "22.5"), numeric("b", "23"), BOTH_GO),
        (numeric("a", "22.5", tolerance=1), numeric("b", "23"), EXACT),
        (numeric("a", "22.5", limits=(20, 22.9)), numeric("b", "23", limits=(22.6, 25)), BOTH_GO),
        (numeric("a", "22.5", unit="g"), numeric("b", "22500", unit="mg"), EXACT),
        (numeric("a", "unreadable"), numeric("b", "23"), EXACT),
        (
            Example(id="a", kind="date", question="When?", gold="01/02/2024"),
            Example(id="b", kind="date", question="When?", gold="2024-01-02"),
            EXACT,
        ),
        (
            Example(id="a", kind="date", question="When?", gold="01/02/2024"),
            Example(id="b", kind="date", question="When?", gold="02/01/2024"),
            BOTH_GO,
        ),
        (text("a", LONG), text("b", LONG.replace("Which finding", "Which sign")), NEAR),
        (text("a", LONG), text("b", LONG.replace("155", "165")), ["", ""]),
        (text("a", LONG), text("b", LONG.replace("3 months", "3.5 months")), ["", ""]),
        (text("a", LONG), text("b", LONG.replace("most likely", "least likely")), ["", ""]),
        (text("a", LONG), text("b", LONG.replace("finding is", "finding isn't")), ["", ""]),
        (text("a", LONG), text("b", LONG.replace("finding", "sign"), "Graves"), ["", ""]),
        (text("a", LONG), text("b", LONG[:150]), ["", ""]),
        (choice("a", LONG, *OPTIONS), choice("b", LONG + " Say", OPTIONS[1], OPTIONS[0], *OPTIONS[2:], gold="B"), NEAR),
        (choice("a", LONG, *OPTIONS), choice("b", LONG + " Say", *OPTIONS, gold="B"), ["", ""]),
    ],
)
def test_pairs(one: Example, other: Example, expected: list[str]) -> None:
    assert reasons(one, other) == expected
    assert sorted(reasons(other, one)) == sorted(expected)


def test_details_name_the_other_row() -> None:
    rows = [text("a", LONG), text("b", LONG.upper()), text("c", LONG.replace("finding", "sign"))]
    drops = find_duplicates(rows, 0.85)
    assert drops[1].detail == "same question as row 'a'"
    assert drops[2].detail == "similarity 0.90 to row 'a'"


@pytest.mark.parametrize(("golds", "others"), [("AAB", "cca"), ("ABB", "baa"), ("ABA", "bab")])
def test_a_contradiction_takes_the_whole_group(golds: str, others: str) -> None:
    rows = [choice(name, "Which?", "p", "q", gold=gold) for name, gold in zip("abc", golds, strict=True)]
    drops = find_duplicates(rows, 0.85)
    for row, other in enumerate(others):
        one, two = ("p", "q") if golds[row] == "B" else ("q", "p")
        assert drops[row].reason == "contradiction"
        assert drops[row].detail == f"same question as row '{other}', whose gold is '{one}', not '{two}'"


@pytest.mark.parametrize(("similarity", "expected"), [(0.95, ["", ""]), (0.90, NEAR), (1.0, ["", ""])])
def test_the_similarity_decides(similarity: float, expected: list[str]) -> None:
    assert reasons(text("a", LONG), text("b", LONG.replace("finding", "sign")), similarity=similarity) == expected


def test_options_are_compared_whichever_are_rare() -> None:
    """'drop' and 'rash', which are common to the last row and the first, aren't the rarest of either."""
    others = [choice(str(n), "Which?", "drop", "rash", f"p{n}", f"q{n}", f"r{n}", f"s{n}") for n in range(3)]
    first, last = choice("f", "Which?", "drop", "rash", "aa", "bb"), choice("l", "Which?", "drop", "rash", "cc", "dd")
    assert set(find_duplicates([first, *others, last], 0.85)) == {4}


@given(st.text())
def test_words_are_those_of_the_regular_expression(anything: str) -> None:
    assert words(anything) == re.findall(r"\w+", unicodedata.normalize("NFC", anything.casefold()))


def test_nothing_to_compare() -> None:
    assert find_duplicates([], 0.85) == {}
    assert find_duplicates([text("a", "?"), text("b", "!")], 0.85) == {}


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.85, 0.95, 1.0])
def test_bands_miss_one_in_a_thousand(similarity: float) -> None:
    count = bands(similarity)
    assert 128 % count == 0
    assert (1 - similarity ** (128 // count)) ** count <= 0.001


@given(st.randoms(use_true_random=False))
def test_case_and_punctuation_are_no_difference(rng: random.Random) -> None:
    def dress(word: str) -> str:
        return rng.choice([word, word.upper(), word.capitalize()]) + rng.choice([" ", "  ", ", ", "; ", "\n", "? "])

    assert reasons(text("a", LONG), text("b", "".join(dress(word) for word in words(LONG)))) == EXACT


@given(st.permutations(range(6)))
def test_order_only_changes_which_row_stays(order: list[int]) -> None:
    rows = [
        text("a", LONG),
        text("b", LONG.lower()),
        text("c", LONG.upper()),
        text("d", "What?"),
        choice("e", "Which?", "p", "q"),
        choice("f", "Which?", "q", "p"),
    ]
    shuffled = [rows[place] for place in order]
    drops = find_duplicates(shuffled, 0.85)
    kept = [example.id for row, example in enumerate(shuffled) if row not in drops]
    assert kept == [e.id for e in shuffled if e.id == "d" or e is next(r for r in shuffled if r.id in "abc")]


def test_rows_of_one_template_with_little_in_common_stay() -> None:
    rng = random.Random(1)
    vocabulary = [
        f"{a}{b}" for a in ("card", "nephr", "hepat", "gastr", "derm") for b in ("itis", "oma", "osis", "algia")
    ]
    frame = LONG.split()
    rows = [text(str(row), " ".join([*frame, *rng.choices(vocabulary, k=20)])) for row in range(300)]
    planted = text("near", rows[7].question + " please")
    drops = find_duplicates([*rows, planted], 0.85)
    assert set(drops) == {300}
    assert drops[300].detail.endswith("to row '7'")


def test_built_in_questions_all_stay() -> None:
    assert find_duplicates(generate(5000, 1), 0.85) == {}


def test_real_duplicates(medmcqa: list[Example]) -> None:
    drops = find_duplicates(medmcqa, 0.85)
    by_reason = {
        reason: sorted(row for row, drop in drops.items() if drop.reason == reason)
        for reason in ("exact duplicate", "near duplicate")
    }
    assert by_reason == {"exact duplicate": [316, 681, 1234, 1663, 1827, 1852, 1885], "near duplicate": [736, 1843]}
    assert len(drops) == 9


def test_real_questions_that_differ(shared_data: Path) -> None:
    with (shared_data / "medqa" / "dev_4options.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    examples = [choice(str(n), r["question"], *r["options"].values(), gold=r["answer_idx"]) for n, r in enumerate(rows)]
    assert find_duplicates(examples, 0.6) == {}


SCRIPT = """
from tests.test_duplicates import LONG, text
from medgrpo.data.duplicates import find_duplicates
places = [LONG.replace("finding", word).replace("pain", other) for word in ("sign", "mark", "thing") for other in ("ache", "pain")]
print([(k, v.detail) for k, v in find_duplicates([text(str(n), q) for n, q in enumerate(places)], 0.8).items()])
"""


def test_same_result_under_every_hash_seed() -> None:
    root = Path(__file__).parent.parent
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, cwd=root, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1
    assert b"similarity" in found.pop()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("20-30 mg", ["20", "30"]),
        ("20 -30 mg", ["20", "30"]),
        ("excess -12", ["-12"]),
        ("excess (12)", ["12"]),
        ("excess (-12)", ["-12"]),
        ("below < 7.35 or ≥ 1,000", ["000", "<7.35", "≥1"]),
        ("It was 7. Then 1,000,", ["000", "1", "7"]),
        ("none", []),
    ],
)
def test_numbers(question: str, expected: list[str]) -> None:
    assert sorted(numbers(question)) == sorted(expected)


def test_words() -> None:
    assert words("Na+ is 5.2,\tand\u00a0Café_1") == ["na", "is", "5", "2", "and", "café_1"]
    assert words("cafe\u0301") == words("caf\u00e9")
    assert joined_words("(+)") == "(+)"
    assert option_text("Decreases in preload") == option_text("decrease in preload")
    assert negations(words("It isn't so, EXCEPT never")) == ["except", "never", "t"]
    assert word_ngrams(list("abcd"), 3) == ["a b c", "b c d"]
    assert word_ngrams(list("abcd"), 3, mark="7") == ["7 a b c", "7 b c d"]
    assert word_ngrams(list("ab"), 3) == ["a b"]
    assert word_ngrams([], 3) == word_ngrams([], 3, mark="7") == []


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("all of the above", True),
        ("none", True),
        ("yes", True),
        ("12 5", True),
        ("a and b", True),
        ("gout", False),
        ("none of his drugs", False),
    ],
)
def test_generic_options(option: str, expected: bool) -> None:
    assert is_generic(option) is expected
