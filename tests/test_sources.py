"""Sources: every format, every preset and every label convention as the right examples, and every bad row named."""

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medgrpo.answer import parse, render_gold
from medgrpo.data import AnySource, ClinicalSource, ColumnMap, FileSource, HubSource, PresetSource
from medgrpo.data.formats import MAX_FIELD
from medgrpo.data.normalise import normalise
from medgrpo.data.patient_data import listed
from medgrpo.data.presets import PRESETS
from medgrpo.data.source import Source
from medgrpo.errors import ConfigError, DataError
from medgrpo.fingerprint import digest
from medgrpo.judge import is_correct
from medgrpo.types import Example, Origin

REVISION = "0123456789abcdef0123456789abcdef01234567"
CHOICE = ColumnMap(question="q", gold="gold", options=("a", "b"), id="id")
FOUR = ColumnMap(question="q", gold="gold", options=("a", "b", "c", "d"))
LIMITS = ColumnMap(question="q", gold="gold", lower="low", upper="high")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the path's ending names."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def read(path: Path, columns: ColumnMap, kind: str = "choice", **fields: Any) -> list[Example]:
    return FileSource.model_validate(
        {"path": str(path), "example_kind": kind, "columns": columns.model_dump(), **fields}
    ).load(0)


def choices(*golds: Any, **changes: Any) -> list[dict[str, Any]]:
    """Rows with four options and these golds."""
    return [
        {"q": f"Which {n}?", "a": "w", "b": "x", "c": "y", "d": "z", "gold": g, **changes} for n, g in enumerate(golds)
    ]


# --- formats


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    rows = [
        {"id": f"r{n}", "q": f"Is {n} even?", "a": "yes", "b": "no", "gold": "A" if n % 2 == 0 else "B"}
        for n in range(3)
    ]
    examples = read(write(tmp_path / f"rows{ending}", rows), CHOICE, citation="me")
    assert [(e.id, e.question, e.options, e.gold, e.citation) for e in examples] == [
        ("r0", "Is 0 even?", {"A": "yes", "B": "no"}, "A", "me"),
        ("r1", "Is 1 even?", {"A": "yes", "B": "no"}, "B", "me"),
        ("r2", "Is 2 even?", {"A": "yes", "B": "no"}, "A", "me"),
    ]


HEAD = b"id,q,gold,a,b\n"


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("gone.csv", None, CHOICE, ["no such file", "gone.csv"]),
        ("rows.xml", b"<a/>", CHOICE, ["unknown format '.xml'", ".jsonl"]),
        ("rows.csv", b"id,q,gold,a\n1,x,A,yes\n", CHOICE, ["no column 'b'", "the columns are: a, gold, id, q"]),
        ("rows.csv", HEAD, CHOICE, ["no rows"]),
        ("rows.csv", b"", CHOICE, ["no rows"]),
        ("rows.csv", b"id,q,q,a,b\n1,x,A,yes,no\n", CHOICE, ["header names 'q' more than once"]),
        (
            "rows.csv",
            HEAD + b'1,x,A,yes,no\n2,"x,A,yes,no\n3,y,A,yes,no\n',
            CHOICE,
            ["rows.csv: row 2: not readable as csv", "a quote", "line 3", "never closed"],
        ),
        (
            "rows.csv",
            HEAD + b"1,x,A,yes,no\n2,x,A,yes\n3,x,A,yes,no,5\n",
            CHOICE,
            ["row 2: 4 fields", "row 3: 6 fields"],
        ),
        ("rows.csv", HEAD + b'1,"x\ny",A,yes,no\n2,\xff\xfe,A,yes,no\n', CHOICE, ["line 4", "0xff", "as UTF-8"]),
        ("rows.json", b'[\n{"q": "x"},\n{"q": "caf\xe9"}]', CHOICE, ["line 3", "byte 11", "0xe9", "as UTF-8"]),
        ("rows.jsonl", b'{"id": 1}\n\n{"q": "caf\xe9"}\n', CHOICE, ["line 3", "0xe9", "as UTF-8"]),
        ("rows.jsonl", b'{"id": 1}\n{"id": \n', CHOICE, ["rows.jsonl", "line 2", "no column 'a', 'b', 'gold', 'q'"]),
        ("rows.jsonl", b"[1, 2]\n", CHOICE, ["line 1: not an object", "[1, 2]"]),
        ("rows.jsonl", b"\n\n", CHOICE, ["no rows"]),
        ("rows.json", b'"text"', CHOICE, ["rows.json", "expected a list"]),
        ("rows.json", b'{"data": 1}', CHOICE, ["expected a list"]),
        ("rows.json", b'[{"q": "x"}, 7]', CHOICE, ["row 2: not an object of columns: 7"]),
        ("rows.json", b"[" * 100_000, CHOICE, ["not readable as json"]),
        ("rows.json", b"[{]", CHOICE, ["not readable as json", "line 1 column 3"]),
        ("rows.parquet", b"PAR1nothing", CHOICE, ["not readable as parquet"]),
        (
            "rows.jsonl",
            b'{"q": "\\ud800", "gold": "A"}\n',
            ColumnMap(question="q", gold="gold"),
            ["line 1", "'q'", "ud800"],
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, content: bytes | None, columns: ColumnMap, said: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(path, columns, "choice" if columns.options else "text")
    for words in said:
        assert words in str(error.value)


CELLS = b"Call (312) 555-0167,Call (312) 555-0167,jane.roe@clinic.example,A\n"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (CELLS, "header names 'Call (•••) •••-••67' more than once"),
        (CELLS.replace(b"Call", b"Cell", 1), "columns are: A, Call (•••) •••-••67, Cell (•••) •••-••67, j••••"),
    ],
)
def test_a_first_row_that_is_no_header_is_masked(tmp_path: Path, header: bytes, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(header + CELLS)
    with pytest.raises(DataError) as error:
        read(path, CHOICE)
    assert said in str(error.value)
    assert "555" not in str(error.value)
    assert "jane" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["a", 1], "a, 1"),
        (range(30), ", ".join(map(str, range(30)))),
        (range(32), ", ".join(map(str, range(30))) + " and 2 more"),
        (["x" * 100], "x" * 60),
        (["MRN: 00123456"], "MRN: ••••••56"),
    ],
)
def test_names_are_listed_masked_and_not_endlessly(names: Iterable[object], expected: str) -> None:
    assert listed(names) == expected


def test_a_csv_field_may_be_long_but_not_endless(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    csv.field_size_limit(131_072)
    note = "word " * 60_000
    path.write_text(f"id,q,gold,a,b\n1,{note},A,yes,no\n", encoding="utf-8")
    assert read(path, CHOICE)[0].question == note.strip()
    path.write_text(f"id,q,gold,a,b\n1,x,A,yes,no\n2,{'x' * (MAX_FIELD + 1)},A,yes,no\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2: .*field larger than field limit.*line 3"):
        read(path, CHOICE)
    assert csv.field_size_limit() == 131_072, "the limit is the whole process's"


def test_csv_without_a_header_gets_its_names_from_the_config(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeff"Which, of two?",yes,no,B\n', encoding="utf-8")
    (example,) = read(path, CHOICE.model_copy(update={"id": ""}), header=("q", "a", "b", "gold"))
    assert (example.question, example.gold_text) == ("Which, of two?", "no")
    with pytest.raises(ValidationError, match=r"only a \.csv file"):
        read(tmp_path / "rows.json", CHOICE, header=("q",))


def test_an_object_of_rows_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"k1": {"q": "x?", "g": "y"}, "k2": {"q": "z?", "g": "y", "key": "own"}}', encoding="utf-8")
    assert [e.id for e in read(path, ColumnMap(question="q", gold="g", id="key"), "text")] == ["k1", "own"]


def test_all_faulty_rows_are_told_together(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "q": "How much?", "gold": "1", "tol": "wide" if n % 2 else "1"} for n in range(50)]
    columns = ColumnMap(question="q", gold="gold", tolerance="tol", id="id")
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "rows.csv", rows), columns, "numeric")
    lines = str(error.value).splitlines()
    assert lines[0].endswith("rows.csv: 25 faults")
    assert lines[1].strip() == "row 2 (id 'r1'): column 'tol': 'wide' is no number"
    assert len(lines) == 1 + 20 + 1
    assert lines[-1].strip() == "and 5 more"
    with pytest.raises(DataError, match="20 faults") as at_most:
        read(write(tmp_path / "rows.csv", rows[:40]), columns, "numeric")
    assert "more" not in str(at_most.value).splitlines()[-1]


def test_only_the_first_rows_are_read_where_a_limit_is_set(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "x?", "gold": "y"}\n{"q": "z?", "gold": "y"}\nbroken\n', encoding="utf-8")
    columns = ColumnMap(question="q", gold="gold")
    assert [e.question for e in read(path, columns, "text", limit=2)] == ["x?", "z?"]
    with pytest.raises(DataError, match="line 3"):
        read(path, columns, "text", limit=3)


# --- values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  plain \t", "plain"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  \t\nb", "a\nb"),
        ("5\u00a0mg\u202fof\u2009x\u3000y", "5 mg of x y"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("in\u200bvis\u00adible\ufeff\u202e", "invisible"),
        ("patient\x92s", "patient\x92s"),
        ("a\tb\x0bc\x0cd\x85e\u2028f", "a\tb\nc\nd\ne\nf"),
        ("37 \u00b0C \u2265 \u03bcg/dL", "37 \u00b0C \u2265 \u03bcg/dL"),
        ("e\u200b\u0301", "\u00e9"),
    ],
)
def test_texts_that_look_the_same_become_the_same(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_what_is_missing_is_empty_and_never_the_word_nan(tmp_path: Path, missing: object) -> None:
    row = {"q": "x?", "gold": "y", "topic": missing, "why": missing, "was": missing, "id": missing}
    columns = ColumnMap(question="q", gold="gold", topic="topic", reasoning="why", original="was", id="id")
    (example,) = read(write(tmp_path / "rows.jsonl", [row]), columns, "text")
    assert (example.topic, example.reasoning, example.original, example.id) == ("general", "", "", "1")


def test_the_original_question_may_be_there_or_not(tmp_path: Path) -> None:
    columns = ColumnMap(question="q", gold="gold", original="was")
    rows = [{"q": "x?", "gold": "y"}, {"q": "z?", "gold": "y", "was": "Z or Y?"}]
    assert [e.original for e in read(write(tmp_path / "rows.jsonl", rows), columns, "text")] == ["", "Z or Y?"]
    assert read(write(tmp_path / "rows.jsonl", rows[:1]), columns, "text")[0].original == ""


ALIASED = ColumnMap(question="q", gold="gold", aliases="also")


@pytest.mark.parametrize(
    ("also", "expected"),
    [
        (["MI", " heart  attack "], ("MI", "heart  attack")),
        (["MI", None, "", "MI"], ("MI",)),
        ('["MI", "heart attack"]', ("MI", "heart attack")),
        ("MI | heart attack|", ("MI", "heart attack")),
        ("MI", ("MI",)),
        ("", ()),
        (None, ()),
        ([], ()),
        ("[MI", "starts like a list as JSON"),
        ([["MI"]], "is no text"),
        ("[1]", "'1' is no text"),
    ],
)
def test_aliases_are_a_list_or_a_text_with_bars(tmp_path: Path, also: object, expected: object) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "What is it?", "gold": "infarction", "also": also}])
    if isinstance(expected, str):
        with pytest.raises(DataError, match=rf"line 1: column 'also'.*{re.escape(expected)}"):
            read(path, ALIASED, "text")
    else:
        assert read(path, ALIASED, "text")[0].aliases == expected
        assert read(path, ALIASED, "date")[0].aliases == (), "only for texts"


def test_aliases_from_csv_and_parquet(tmp_path: Path) -> None:
    rows = [{"q": "What is it?", "gold": "infarction", "also": "MI|heart attack"}]
    assert read(write(tmp_path / "rows.csv", rows), ALIASED, "text")[0].aliases == ("MI", "heart attack")
    listed_rows = [{**rows[0], "also": ["MI", "heart attack"]}]
    assert read(write(tmp_path / "rows.parquet", listed_rows), ALIASED, "text")[0].aliases == ("MI", "heart attack")


def test_a_column_of_aliases_that_is_in_no_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'also'"):
        read(write(tmp_path / "rows.jsonl", [{"q": "What is it?", "gold": "x"}]), ALIASED, "text")


def test_a_range_has_a_unit_and_a_tolerance_but_no_limits(tmp_path: Path) -> None:
    columns = ColumnMap(question="q", gold="gold", kind="is", unit="in", tolerance="by", lower="low", upper="high")
    row = {"q": "Normal?", "gold": "3.5-5.0", "is": "range", "in": "mmol/L", "by": "0.1", "low": 1, "high": 2}
    (example,) = read(write(tmp_path / "rows.jsonl", [row]), columns, "numeric")
    assert (example.kind, example.unit, example.tolerance, example.limits) == ("range", "mmol/L", 0.1, None)
    assert example.gold_text == "3.5-5.0 mmol/L"
    assert is_correct(parse(render_gold(example)).answer, example)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"low": "1.5", "high": 2}, (1.5, 2.0)),
        ({"low": None, "high": None}, None),
        ({"low": 3, "high": 2}, "the lower limit 3 is above the upper limit 2"),
        ({"low": 3, "high": ""}, "only one of the limits"),
        ({"low": "few", "high": 2}, "column 'low': 'few' is no number"),
        ({"low": 1, "high": "inf"}, "column 'high': 'inf' is no number"),
        ({"low": [1], "high": 2}, "column 'low' holds a list"),
    ],
)
def test_limits_are_two_numbers_in_order(tmp_path: Path, row: dict[str, Any], expected: object) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "How much?", "gold": "1.7"} | row])
    if isinstance(expected, str):
        with pytest.raises(DataError, match=f"line 1: {expected}"):
            read(path, LIMITS, "numeric")
    else:
        assert read(path, LIMITS, "numeric")[0].limits == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"a": "x", "b": "y", "c": None, "d": ""}, {"A": "x", "B": "y"}),
        ({"a": "x", "b": None, "c": "z", "d": None}, "option B is empty"),
    ],
)
def test_options_may_be_missing_at_the_end_only(tmp_path: Path, options: dict[str, Any], expected: object) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "What?", "gold": "A", **options}])
    if isinstance(expected, dict):
        assert read(path, FOUR)[0].options == expected
    else:
        with pytest.raises(DataError, match=f"line 1.*{expected}"):
            read(path, FOUR)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"A": "x ", "b": "y", "C": None}, {"A": "x", "B": "y"}),
        (["x", "y", None], {"A": "x", "B": "y"}),
        ({"1": "x"}, "option '1' is called neither"),
        ({"AB": "x"}, "option 'AB' is called neither"),
        ({"MRN: 00123456": ["x"]}, "option 'MRN: ••••••56' is called neither"),
        ({"a": "x", "A": "y", "B": "z"}, "two options are called A"),
        ({"A": "x", "B ": "x", "b": "x"}, "two options are called B"),
        ({"A": "x", "B": "y", "a": None, "b": ""}, {"A": "x", "B": "y"}),  # as Parquet keeps rows that differ in case
        (list("abcdefghijk"), "11 options: at most 10"),
        ("A: x; B: y", "neither letters with texts nor a list"),
        (None, "neither letters with texts nor a list"),
    ],
)
def test_options_in_one_column(tmp_path: Path, options: object, expected: object) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "What?", "gold": "A", "o": options}])
    columns = ColumnMap(question="q", gold="gold", options="o")
    if isinstance(expected, dict):
        assert read(path, columns)[0].options == expected
    else:
        with pytest.raises(DataError, match=f"line 1.*{expected}"):
            read(path, columns)


def test_rows_may_differ_in_kind(tmp_path: Path) -> None:
    columns = ColumnMap(question="q", gold="gold", kind="is", options=("a", "b"), lower="low", upper="low")
    rows = [
        {"q": "One?", "gold": "b", "is": "choice", "a": "x", "b": "y", "low": None},
        {"q": "Two?", "gold": "2", "is": None, "a": None, "b": None, "low": 2},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    assert [(e.kind, e.gold, e.limits) for e in read(path, columns, "numeric")] == [
        ("choice", "B", None),
        ("numeric", "2", (2.0, 2.0)),
    ]
    rows[1]["is"] = "essay"
    with pytest.raises(DataError, match="line 2: column 'is': 'essay' is none of choice, date, numeric, range, text"):
        read(write(path, rows), columns, "numeric")


# --- golds of choices


@pytest.mark.parametrize(
    ("golds", "base", "expected"),
    [
        (["A", "d", " c "], None, "ADC"),
        (["w", "z", "x"], None, "ADB"),
        (["w", "D", "x"], None, "ADB"),
        ([0, 3, 2], None, "ADC"),
        ([1, 4, 2], None, "ADB"),
        (["1", "4.0", 2.0], None, "ADB"),
        ([1, 2, 3], 0, "BCD"),
        ([1, 2, 3], 1, "ABC"),
        (["A", "J", ""], None, ["A", "J", ""]),  # no such option, no gold: for validation to name
        ([1, 2, 3], None, "set data.source.columns.label_base"),
        ([1, 2, 5], None, "set data.source.columns.label_base"),
        ([0, 4, 2], None, "column 'gold': golds are numbered from 0 in line 1, and from 1 in line 2"),
        ([-1, -1], None, "every gold is -1: this split has no golds"),
        ([-1, -1], 0, "every gold is -1: this split has no golds"),
        ([1, 4], 0, "line 2: gold '4' is no number from 0 to 3"),
        ([1, 0], 1, "line 2: gold '0' is no number from 1 to 4"),
        ([1, 4, 5], None, "line 3: gold '5' is no number from 1 to 4"),
        ([0, 1, -1], None, "line 3: gold '-1' is no number from 0 to 3"),
        (["A", 2], 1, "line 1: gold 'A' is no number from 1 to 4"),
        (["A", "K"], None, "line 2: gold 'K' is neither a letter from A to J nor an option's text"),
        (["A", "(B)"], None, r"line 2: gold '\(B\)' is neither"),
        (["A", 1], None, "line 2: gold '1' is neither"),
        (["A", ["B"]], None, "line 2: column 'gold' holds a list"),
    ],
)
def test_what_a_gold_means(tmp_path: Path, golds: list[Any], base: int | None, expected: Any) -> None:
    path = write(tmp_path / "rows.jsonl", choices(*golds))
    columns = FOUR.model_copy(update={"label_base": base})
    if isinstance(expected, str) and " " in expected:
        with pytest.raises(DataError, match=expected):
            read(path, columns)
    else:
        assert [e.gold for e in read(path, columns)] == list(expected)


GAP = {"A": "w", "B": "", "C": "y", "D": "z"}
UNORDERED = {"C": "y", "A": "w", "D": "z"}


@pytest.mark.parametrize(
    ("options", "golds", "base", "expected"),
    [
        (GAP, [1, 3, 4], None, "ACD"),
        (GAP, [0, 2, 3], None, "ACD"),
        (GAP, [3], 1, "C"),
        (GAP, [3], 0, "D"),
        (GAP, [1, 2, 4], None, "line 2: gold '2' is option B, but there are only A, C, D"),
        (GAP, [0, 1], None, "line 2: gold '1' is option B, but there are only A, C, D"),
        (GAP, [5], 1, "line 1: gold '5' is no number from 1 to 4: there are 3 options"),
        (UNORDERED, [1, 3, 4], None, "ACD"),
        (UNORDERED, [2], 1, "line 1: gold '2' is option B, but there are only A, C, D"),
    ],
)
def test_a_number_counts_options_without_a_text(
    tmp_path: Path, options: dict[str, str], golds: list[int], base: int | None, expected: str
) -> None:
    rows = [{"q": f"Which {n}?", "o": options, "gold": gold} for n, gold in enumerate(golds)]
    path = write(tmp_path / "rows.jsonl", rows)
    columns = ColumnMap(question="q", gold="gold", options="o", label_base=base)
    if " " in expected:
        with pytest.raises(DataError, match=expected):
            read(path, columns)
    else:
        assert "".join(e.gold for e in read(path, columns)) == expected


def test_letters_that_are_also_texts(tmp_path: Path) -> None:
    groups = {"a": "O", "b": "A", "c": "B", "d": "AB"}
    assert [e.gold for e in read(write(tmp_path / "rows.jsonl", choices("A", "B", **groups)), FOUR)] == ["A", "B"]
    as_texts = choices("A", "AB", "O", **groups)
    assert [e.gold for e in read(write(tmp_path / "rows.jsonl", as_texts), FOUR)] == ["B", "D", "A"]


def test_numbers_that_are_always_an_options_text_are_texts(tmp_path: Path) -> None:
    numbers = {"a": "3", "b": "1", "c": "0", "d": "2"}
    rows = choices(0, 3, **numbers)
    assert [e.gold_text for e in read(write(tmp_path / "rows.jsonl", rows), FOUR)] == ["0", "3"]
    stated = FOUR.model_copy(update={"label_base": 0})
    assert [e.gold_text for e in read(write(tmp_path / "rows.jsonl", rows), stated)] == ["3", "2"]


def test_a_text_of_two_options_is_no_gold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: gold 'x' is the text of several options"):
        read(write(tmp_path / "rows.jsonl", choices("x", a="x", b="x")), FOUR)


def test_shifted_labels_are_caught_by_the_golds_texts(tmp_path: Path) -> None:
    columns = FOUR.model_copy(update={"gold_text": "answer", "label_base": 0})
    rows = [row | {"answer": text} for row, text in zip(choices(0, 1, 2), ["w", "x ", None], strict=True)]
    assert [e.gold for e in read(write(tmp_path / "rows.jsonl", rows), columns)] == ["A", "B", "C"]
    rows[1]["gold"] = 2
    with pytest.raises(
        DataError, match="line 2: the gold is option C, 'y', but its text is given as 'x': are the labels"
    ):
        read(write(tmp_path / "rows.jsonl", rows), columns)


def test_a_limit_does_not_hide_what_numbers_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", choices(1, 2, 3, 4))
    assert [e.gold for e in read(path, FOUR, limit=2)] == ["A", "B"]


# --- real sets

FILES = {
    "medqa-4": "medqa/dev_4options.jsonl",
    "medmcqa": "medmcqa/dev_first2000.jsonl",
    "pubmedqa": "pubmedqa/pqal_train500.json",
    "mmlu-anatomy": "mmlu/anatomy_test.csv",
    "mmlu-clinical-knowledge": "mmlu/clinical_knowledge_test.csv",
    "medcalc": "medcalc/one_shot_55.csv",
    "medical-o1-reasoning-sft": "huatuo/demo_198.json",
    "medical-o1-verifiable-problem": "huatuo/demo_198.json",
}
FIGURES: dict[str, tuple[str, dict[str, int], int, int, int]] = {
    # name: (digest, kinds, topics, rows with a reasoning, rows with an original)
    "medqa-4": ("c8568963b59cb5846baf7a9c2c6fc87e", {"choice": 1272}, 2, 0, 0),
    "medmcqa": ("f6892938fd775fc8f8f42adbc0751f0f", {"choice": 2000}, 20, 1056, 0),
    "pubmedqa": ("989888d4ce655653e09a278467eb0b3d", {"choice": 500}, 1, 500, 0),
    "mmlu-anatomy": ("beba2f782059e0f6643682a93f816e65", {"choice": 135}, 1, 0, 0),
    "mmlu-clinical-knowledge": ("e52e5e89754cdbe190e0ab31dee29568", {"choice": 265}, 1, 0, 0),
    "medcalc": ("dfee3cfc838dca0a53c2d02ef085f91c", {"numeric": 52, "date": 2, "text": 1}, 55, 55, 0),
    "medical-o1-reasoning-sft": ("d2d06e24f81e58d32e9613e33a74dbb8", {"text": 198}, 1, 198, 198),
    "medical-o1-verifiable-problem": ("c0d951ce4e2088f8e1e6733ebe9ea7f6", {"text": 198}, 1, 0, 198),
}
GOLDS = {
    "medqa-4": {"A": 330, "B": 316, "C": 352, "D": 274},
    "medmcqa": {"A": 637, "B": 525, "C": 445, "D": 393},
    "pubmedqa": {"A": 276, "B": 169, "C": 55},
    "mmlu-anatomy": {"A": 25, "B": 34, "C": 45, "D": 31},
    "mmlu-clinical-knowledge": {"A": 57, "B": 71, "C": 58, "D": 79},
}
ENDS = {
    # name: (id, start of the question, gold as text, topic) of the first and of the last row
    "medqa-4": (
        ("1", "A 21-year-old sexually active male complains of fe", "Ceftriaxone", "step1"),
        ("1272", "A 63-year-old man presents to the emergency depart", "CT scan", "step2&3"),
    ),
    "medmcqa": (
        (
            "45258d3d-b974-44dd-a161-c3fccbdadd88",
            "Which of the following is not true for myelinated ",
            "Impulse through myelinated fibers is slower than non-myelinated fibers",
            "Physiology",
        ),
        (
            "97e96705-d952-463a-90bd-a03aa16d4772",
            "2nd optimal landmark for termination of cleaning, ",
            "Apical constriction",
            "Dental",
        ),
    ),
    "pubmedqa": (
        ("10808977", "Telephone counseling and tailored print communicat", "yes", "pubmedqa"),
        ("17559449", "The reduced use of sugars-containing (SC) liquid m", "no", "pubmedqa"),
    ),
    "mmlu-clinical-knowledge": (
        ("1", "What size of cannula would you use in a patient wh", "18 gauge.", "clinical_knowledge"),
        (
            "265",
            "The patient's self-report of pain is important bec",
            "do not possess an objective way of assessing pain.",
            "clinical_knowledge",
        ),
    ),
    "medcalc": (
        (
            "1",
            "A 53-year old man (height, 175 cm; weight, 87 kg) ",
            "67.00495",
            "Creatinine Clearance (Cockcroft-Gault Equation)",
        ),
        ("55", "The patient's last menstrual period was on 12/23/2", "(34 weeks, 3 days)", "Estimated Gestational Age"),
    ),
    "medical-o1-verifiable-problem": (
        ("1", "A 45-year-old homeless man presents to the emergen", "Parvovirus B19 infection", "general"),
        ("198", "When a rickshaw tyre passes over an 8-year-old chi", "Pattern bruises", "general"),
    ),
}


def preset(name: str, path: Path | None = None, **fields: Any) -> PresetSource:
    return PresetSource.model_validate({"name": name, "path": str(path) if path else "", **fields})


@pytest.mark.parametrize("name", FILES)
def test_real_sets_are_read_to_the_last_character(shared_data: Path, name: str) -> None:
    examples = preset(name, shared_data / FILES[name]).load(0)
    said, kinds, topics, reasoned, originals = FIGURES[name]
    assert Counter(e.kind for e in examples) == kinds
    assert len({e.topic for e in examples}) == topics
    assert sum(bool(e.reasoning) for e in examples) == reasoned
    assert sum(bool(e.original) for e in examples) == originals
    assert len({e.id for e in examples}) == len(examples)
    assert {e.citation for e in examples} == {PRESETS[name].citation}
    if name in GOLDS:
        assert Counter(e.gold for e in examples) == GOLDS[name]
    if name in ENDS:
        ends = [(e.id, e.question[:50], e.gold_text, e.topic) for e in (examples[0], examples[-1])]
        assert ends == list(ENDS[name])
    assert digest(examples) == said


@pytest.mark.parametrize("name", FILES)
def test_every_real_gold_is_right_and_no_other_option_is(shared_data: Path, name: str) -> None:
    for example in preset(name, shared_data / FILES[name]).load(0):
        gold = parse(render_gold(example))
        assert gold.is_strict, example.id
        assert is_correct(gold.answer, example), example.id
        assert [letter for letter in example.options if is_correct(letter, example)] == list(
            example.gold if example.options else ""
        )


def test_medmcqa_means_the_same_numbered_from_0_or_1(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / FILES["medmcqa"]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert Counter(row["cop"] for row in rows) == {1: 637, 2: 525, 3: 445, 4: 393}
    published = preset("medmcqa", shared_data / FILES["medmcqa"]).load(0)
    shifted = write(tmp_path / "hub.jsonl", [row | {"cop": row["cop"] - 1} for row in rows])
    assert preset("medmcqa", shifted).load(0) == published
    assert preset("medmcqa", shifted, limit=7).load(0) == published[:7]
    undecided = write(tmp_path / "some.jsonl", [row for row in rows if row["cop"] < 4])
    with pytest.raises(DataError, match=r"column 'cop': .*set data\.source\.columns\.label_base"):
        preset("medmcqa", undecided).load(0)
    mixed = write(tmp_path / "mixed.jsonl", [*rows[:50], rows[0] | {"cop": 0}])
    with pytest.raises(DataError, match="numbered from 0 in line 51, and from 1 in line"):
        preset("medmcqa", mixed).load(0)
    unlabelled = write(tmp_path / "test.jsonl", [row | {"cop": -1} for row in rows])
    with pytest.raises(DataError, match="this split has no golds; choose another split"):
        preset("medmcqa", unlabelled).load(0)


def test_medcalc_golds_have_their_kinds_and_limits(shared_data: Path) -> None:
    examples = {e.id: e for e in preset("medcalc", shared_data / FILES["medcalc"]).load(0)}
    dose, due, age = examples["21"], examples["11"], examples["55"]
    assert (dose.kind, dose.gold, dose.limits) == ("numeric", "2.47001", (2.34651, 2.59351))
    assert [is_correct(answer, dose) for answer in ("2.4", "2.59", "2.6")] == [True, True, False]
    assert (due.kind, due.gold, due.limits) == ("date", "12/02/2000", None)
    assert (age.kind, age.gold) == ("text", "(34 weeks, 3 days)")
    assert all(e.limits for e in examples.values() if e.kind == "numeric")


MEDCALC = {
    "Row Number": 1,
    "Calculator Name": "Age",
    "Output Type": "decimal",
    "Patient Note": "Born in 1990.",
    "Question": "How old?",
    "Ground Truth Answer": "30",
    "Lower Limit": "30",
    "Upper Limit": "30",
    "Ground Truth Explanation": "2020 - 1990",
}
PUBMED = {"QUESTION": "x?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe", "LONG_ANSWER": "Perhaps."}


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("medcalc", MEDCALC | {"Output Type": "essay"}, "line 1: 'Output Type' 'essay' is none of"),
        ("medcalc", MEDCALC | {"Output Type": "date"}, "line 1: 'Ground Truth Answer' '30' is neither"),
        ("medcalc", MEDCALC | {"Output Type": "date", "Ground Truth Answer": "__import__('os')"}, "is neither a month"),
        ("medcalc", MEDCALC | {"Lower Limit": "40"}, "line 1: the lower limit 40 is above"),
        ("medcalc", {"Patient Note": "x"}, "line 1: no column 'Output Type'; the columns are: Patient Note"),
        ("medcalc", {"MRN: 00123456": "x"}, "the columns are: MRN: ••••••56"),
        ("medcalc", dict.fromkeys(map(str, range(31)), "x"), "28, 29 and 1 more"),
        ("pubmedqa", PUBMED | {"final_decision": "perhaps"}, "line 1: gold 'perhaps' is neither"),
        ("pubmedqa", PUBMED | {"CONTEXTS": [1]}, "line 1: "),
        ("pubmedqa", {"question": "x?"}, "line 1: no column 'context'"),
        ("medqa-5", {"question": "x?"}, "no column 'answer', 'answer_idx', 'meta_info', 'options'"),
        ("medmcqa", {"question": "x?", "cop": 1}, "no column 'exp', 'id', 'opa', 'opb', 'opc', 'opd'"),
    ],
)
def test_rows_that_are_not_as_published_are_named(tmp_path: Path, name: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as error:
        preset(name, write(tmp_path / "rows.jsonl", [row])).load(0)
    assert said in str(error.value)


def test_pubmedqa_asks_after_the_contexts(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"123": PUBMED}), encoding="utf-8")
    (example,) = preset("pubmedqa", path).load(0)
    assert example.question == "One.\nTwo.\n\nx?"
    assert (example.id, example.options, example.gold) == ("123", {"A": "yes", "B": "no", "C": "maybe"}, "C")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "medqa-5"}, "no hub repository that we can vouch for"),
        ({"name": "medqa-4", "path": "x.jsonl", "revision": REVISION}, "either path, or revision and split"),
        ({"name": "medqa-4", "path": "x.jsonl", "split": "test"}, "either path, or revision and split"),
        ({"name": "medqa-4", "revision": "main"}, "revision"),
        ({"name": "medqa-6", "path": "x.jsonl"}, "name"),
    ],
)
def test_a_preset_is_a_file_or_a_repository(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(AnySource).validate_python({"kind": "preset", **fields})


# --- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache. The tests run offline, see conftest."""
    import datasets.config
    import huggingface_hub.constants

    # `datasets` keeps what it read by commit: it would show one test the rows of another one with the same commit.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def lay_out(hub: Path, repo: str, card: str, **files: list[dict[str, Any]]) -> None:
    """A dataset as the hub cache keeps it; keywords are its Parquet files."""
    folder = hub / f"datasets--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION, encoding="utf-8")
    (snapshot / "README.md").write_text(f"---\n{card}\n---\n# A set\n", encoding="utf-8")
    for name, rows in files.items():
        write(snapshot / f"{name}.parquet", rows)


EN = "configs:\n- config_name: en\n  data_files: train.parquet"
TEXT = ColumnMap(question="Question", gold="Response")


def test_hub_source_reads_a_pinned_revision_from_the_cache(hub: Path) -> None:
    rows = [{"Question": f"What raises potassium {n}?", "Response": "Renal failure"} for n in range(3)]
    lay_out(hub, "medical/questions", EN, train=rows)
    source = HubSource(repo="medical/questions", config="en", revision=REVISION, example_kind="text", columns=TEXT)
    first, *rest = source.load(0)
    assert (first.question, first.gold) == ("What raises potassium 0?", "Renal failure")
    assert first.citation == "medical/questions", "a new commit with the same rows changes no row"
    assert len(rest) == 2
    assert len(source.model_copy(update={"limit": 2, "citation": "me"}).load(0)) == 2
    with pytest.raises(DataError, match="config 'fr'"):
        source.model_copy(update={"config": "fr"}).load(0)
    with pytest.raises(DataError, match=r"split 'test'.*train"):
        source.model_copy(update={"split": "test"}).load(0)
    with pytest.raises(DataError, match="medical/other@01234567"):
        source.model_copy(update={"repo": "medical/other"}).load(0)


def test_a_hub_source_must_be_pinned_and_pins_itself(hub: Path) -> None:
    lay_out(hub, "medical/questions", EN, train=[{"Question": "x?", "Response": "y"}])
    source = HubSource(repo="medical/questions", config="en", example_kind="text", columns=TEXT)
    with pytest.raises(ConfigError) as error:
        source.load(0)
    assert str(error.value) == (
        "data.source.revision: pin the dataset's commit; `medgrpo prepare CONFIG` prints the one that it finds"
    )
    pinned = source.pinned()
    assert pinned == source.model_copy(update={"revision": REVISION})
    assert pinned.pinned() == pinned
    assert len(pinned.load(0)) == 1
    with pytest.raises(DataError, match=r"medical/absent: not in the hub cache.*HF_HUB_OFFLINE"):
        source.model_copy(update={"repo": "medical/absent"}).pinned()
    with pytest.raises(DataError, match="check its name and revision"):
        source.model_copy(update={"repo": "../absent"}).pinned()


@pytest.mark.parametrize(
    ("card", "stated", "licence"),
    [
        ("license: CC-BY-4.0", "", "cc-by-4.0"),
        ("license: CC-BY-4.0", "own", "own"),
        ("license: CC-BY-4.0", " MIT ", "mit"),
        ("license:\n- MIT\n- apache-2.0", "", "mit, apache-2.0"),
        ("tags: [medical]", "", ""),
        ("license: [", "", ""),
        ("- license", "", ""),
    ],
)
def test_the_licence_is_the_configs_or_else_the_cards(hub: Path, card: str, stated: str, licence: str) -> None:
    lay_out(hub, "medical/questions", card)
    source = HubSource(
        repo="medical/questions", revision=REVISION, example_kind="text", columns=TEXT, licence=stated, citation="me"
    )
    assert source.origin() == Origin(name="medical/questions", revision=REVISION, licence=licence, citation="me")
    assert source.model_copy(update={"revision": ""}).origin().licence == stated.strip().lower()


def test_medmcqa_on_the_hub(hub: Path) -> None:
    row = {"id": "m", "question": "Which?", "exp": None, "subject_name": "Anatomy"}
    options = {"opa": "w", "opb": "x", "opc": "y", "opd": "z"}
    splits = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.parquet\n"
    lay_out(
        hub,
        "openlifescienceai/medmcqa",
        f"license: apache-2.0\n{splits}  - split: test\n    path: test.parquet",
        train=[row | options | {"id": f"m{cop}", "cop": cop} for cop in range(4)],
        test=[row | options | {"cop": -1}],
    )
    source = preset("medmcqa").pinned()
    assert source.revision == REVISION
    assert [(e.id, e.gold, e.topic) for e in source.load(0)] == [(f"m{n}", "ABCD"[n], "Anatomy") for n in range(4)]
    assert source.origin() == Origin(
        name="medmcqa", revision=REVISION, licence="mit", citation=PRESETS["medmcqa"].citation
    )
    with pytest.raises(DataError, match=r"openlifescienceai/medmcqa@01234567: column 'cop': every gold is -1"):
        preset("medmcqa", revision=REVISION, split="test").load(0)
    with pytest.raises(ConfigError, match="pin the dataset's commit"):
        preset("medmcqa").load(0)
    with pytest.raises(DataError, match="qiaojin/PubMedQA: not in the hub cache"):
        preset("pubmedqa").pinned()


def test_mmlu_on_the_hub_is_numbered_from_0(hub: Path) -> None:
    row = {"question": "Which?", "subject": "anatomy", "choices": ["w", "x", "y", "z"]}
    card = "license: mit\nconfigs:\n- config_name: anatomy\n  data_files:\n  - split: test\n    path: test.parquet"
    lay_out(hub, "cais/mmlu", card, test=[row | {"answer": n} for n in (1, 2, 3)])
    examples = preset("mmlu-anatomy").pinned().load(0)
    assert [(e.gold, e.topic) for e in examples] == [("B", "anatomy"), ("C", "anatomy"), ("D", "anatomy")]


def test_pubmedqa_on_the_hub_is_what_the_file_is(hub: Path, tmp_path: Path) -> None:
    row = {"pubid": 123, "question": "x?", "context": {"contexts": ["One.", "Two."], "labels": ["A", "B"]}}
    card = "configs:\n- config_name: pqa_labeled\n  data_files: train.parquet"
    lay_out(hub, "qiaojin/PubMedQA", card, train=[row | {"final_decision": "maybe", "long_answer": "Perhaps."}])
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"123": PUBMED}), encoding="utf-8")
    assert preset("pubmedqa").pinned().load(0) == preset("pubmedqa", path).load(0)


# --- all sources


def test_every_source_says_where_its_rows_come_from() -> None:
    assert ClinicalSource().origin() == Origin(name="clinical", licence="apache-2.0")
    assert ClinicalSource().pinned() == ClinicalSource()
    file = FileSource(path="x.csv", example_kind="text", columns=TEXT, licence="own", citation="us")
    assert file.origin() == Origin(name="x.csv", licence="own", citation="us")
    named = preset("medqa-5", Path("x.jsonl"))
    assert named.origin() == Origin(name="medqa-5", licence="mit", citation=PRESETS["medqa-5"].citation)
    assert named.pinned() == named
    ours = preset("medqa-5", Path("x.jsonl"), licence="own", citation="us").origin()
    assert (ours.licence, ours.citation) == ("own", "us")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "file", "path": "x.csv", "example_kind": "text", "columns": TEXT},
        {"kind": "hub", "repo": "medical/questions", "example_kind": "text", "columns": TEXT},
        {"kind": "preset", "name": "medqa-5", "path": "x.jsonl"},
    ],
)
def test_a_licence_may_be_written_in_capitals(fields: dict[str, Any]) -> None:
    source: Source = TypeAdapter(AnySource).validate_python({**fields, "licence": " CC-BY-4.0\n"})
    assert source.origin().licence == "cc-by-4.0"


def test_every_preset_states_its_licence_and_paper() -> None:
    licences = Counter(known.licence for known in PRESETS.values())
    assert licences == {"mit": 10, "apache-2.0": 2, "cc-by-sa-4.0": 1}
    assert all("arXiv:" in known.citation for known in PRESETS.values())
    assert [name for name, known in PRESETS.items() if not known.repo] == ["medqa-5"]


def test_naming_a_source_loads_no_heavy_library() -> None:
    heavy = {"torch", "pandas", "datasets", "huggingface_hub", "pyarrow"}
    code = f"import sys, medgrpo.data; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_source_of_your_own_is_the_ten_lines_that_the_docs_show(tmp_path: Path) -> None:
    docs = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class .*?)```", docs, flags=re.DOTALL)
    names: dict[str, Any] = {"Source": Source, "Example": Example, "Origin": Origin, "Path": Path, "Literal": Literal}
    exec(code, names)
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    (tmp_path / "cards.tsv").write_text("What raises potassium?\trenal failure\nAnd lowers it?\tvomiting\n")
    source = names["FlashcardSource"](path=str(tmp_path / "cards.tsv"))
    assert [(e.id, e.gold) for e in source.load(0)] == [("1", "renal failure"), ("2", "vomiting")]
    assert source.origin().licence == "own"
