"""The data report: exact figures, a page that loads nothing and escapes everything, and no patient data in either."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medgrpo.data.figures import Histogram, bar_length, bars, histogram, renamed, tally, ticks
from medgrpo.data.report import DataReport, make_report, write_report
from medgrpo.data.store import DROPPED, Manifest, Measured, write_rows
from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import file_digest
from medgrpo.settings import Settings
from medgrpo.types import (
    SPLITS,
    BadRow,
    DatasetRef,
    Drop,
    Example,
    ExpectationResult,
    Origin,
    Severity,
    Split,
    ValidationReport,
)

KEY = "0" * 32
PHONE = "(415) 555-0137"
SCRIPT = "<script>alert('x')</script>"
VOID = {"meta"}


def choice(n: int, gold: str = "A", topic: str = "heart", question: str = "", letters: str = "AB") -> Measured:
    options = {letter: f"option {letter}" for letter in letters}
    text = question or f"Is {n} even?"
    example = Example(id=f"c{n}", kind="choice", question=text, gold=gold, options=options, topic=topic)
    return Measured(example, f"digest {n}", 10 + n, 3)


def number(n: int) -> Measured:
    return Measured(
        Example(id=f"n{n}", kind="numeric", question="How much?", gold="7", topic="dose"), f"digest of n{n}", 30, 5
    )


ROWS: dict[Split, list[Measured]] = {
    "train": [choice(0), choice(1, "B"), choice(2, topic="lung"), number(3), choice(4, "C", letters="ABC")],
    "validation": [choice(5, "B")],
    "test": [choice(6), number(7)],
}
DROPS = [
    *((choice(n), Drop(reason="exact duplicate", detail=f"the same question as c{n - 100}")) for n in range(100, 107)),
    (choice(107, question=f"Call {PHONE} {SCRIPT}"), Drop(reason="contradiction", detail=f"c1 says {PHONE}")),
]


def store(
    settings: Settings,
    rows: dict[Split, list[Measured]] = ROWS,
    drops: Sequence[tuple[Measured, Drop]] = DROPS,
    name: str = "clinic",
) -> DatasetRef:
    folder = settings.dataset(KEY)
    folder.mkdir(parents=True)
    for split in SPLITS:
        write_rows(folder / f"{split}.parquet", rows[split])
    write_rows(folder / DROPPED, [row for row, _ in drops], [drop for _, drop in drops])
    dataset = DatasetRef(
        key=KEY,
        name=name,
        rows={split: len(rows[split]) for split in SPLITS},
        digests={split: split * 2 for split in SPLITS},
    )
    manifest = Manifest(
        dataset=dataset,
        origin=Origin(name="someone/questions", revision="abc123", licence="mit", citation="Someone, 2024"),
        benchmarks=(Origin(name="someone/benchmark"),),
        loaded=sum(dataset.rows.values()) + len(drops),
        dropped=dict(Counter(drop.reason for _, drop in drops)),
        key_parts={},
        files={path.name: file_digest(path) for path in folder.glob("*.parquet")},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return dataset


def result(name: str, severity: Severity, *bad: BadRow, count: int = 0, success: bool = False) -> ExpectationResult:
    return ExpectationResult(
        name=name,
        meaning=f"{name} holds",
        severity=severity,
        success=success,
        bad_rows=bad,
        bad_count=count or len(bad),
    )


HELD = result("unique_ids", "critical", success=True)
WARNED = result("language", "warning", BadRow(id="c2", value="pt"))
STOPPED = result("no_patient_data", "critical", BadRow(id="c4", value=f"{SCRIPT} {PHONE}"), count=31)


def validation(*results: ExpectationResult) -> ValidationReport:
    return ValidationReport(dataset_key=KEY, results=results, majority_accuracy=0.375)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def report(home: Settings) -> DataReport:
    return make_report(store(home), validation(HELD, WARNED, STOPPED), home)


class Page(HTMLParser):
    """Reads a page: its tags, its text, and whether every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def write(report: DataReport, folder: Path) -> tuple[str, str]:
    page, figures = write_report(report, folder)
    assert (page.name, figures.name) == ("report.html", "report.json")
    return page.read_text(encoding="utf-8"), figures.read_text(encoding="utf-8")


# --- figures


def test_the_figures_are_exact(report: DataReport, tmp_path: Path) -> None:
    figures = json.loads(write(report, tmp_path)[1])
    assert (figures["name"], figures["dataset_key"], figures["loaded"]) == ("clinic", KEY, 16)
    assert figures["origin"] == {
        "name": "someone/questions",
        "revision": "abc123",
        "licence": "mit",
        "citation": "Someone, 2024",
    }
    assert figures["dropped"] == {"exact duplicate": 7, "contradiction": 1}
    assert figures["rows"] == {"train": 5, "validation": 1, "test": 2}
    assert figures["digests"] == {"train": "traintrain", "validation": "validationvalidation", "test": "testtest"}
    assert figures["majority_accuracy"] == 0.375
    assert figures["tallies"] == {
        "topics": {
            "labels": ["heart", "dose", "lung"],
            "counts": {"train": [3, 1, 1], "validation": [1, 0, 0], "test": [1, 1, 0]},
        },
        "kinds": {"labels": ["choice", "numeric"], "counts": {"train": [4, 1], "validation": [1, 0], "test": [1, 1]}},
        "gold letters": {
            "labels": ["A", "B", "C"],
            "counts": {"train": [2, 1, 1], "validation": [0, 1, 0], "test": [1, 0, 0]},
        },
        "options per question": {
            "labels": ["2", "3"],
            "counts": {"train": [3, 1], "validation": [1, 0], "test": [1, 0]},
        },
    }
    assert figures["histograms"]["gold length"] == {
        "unit": "tokens",
        "edges": [3, 4, 5, 6],
        "has_tail": False,
        "counts": {"train": [4, 0, 1], "validation": [1, 0, 0], "test": [1, 0, 1]},
        "smallest": 3,
        "median": 3,
        "percentile_95": 5,
        "largest": 5,
    }
    assert {name: (h["smallest"], h["largest"]) for name, h in figures["histograms"].items()} == {
        "prompt length": (10, 30),
        "gold length": (3, 5),
        "question length": (9, 10),
    }
    assert DataReport.model_validate(figures) == report


def test_a_few_dropped_rows_are_shown_for_each_reason(report: DataReport) -> None:
    shown = report.dropped_rows
    assert [row.id for row in shown["exact duplicate"]] == ["c100", "c101", "c102", "c103", "c104"]
    assert shown["exact duplicate"][0].detail == "the same question as c0"
    assert [row.id for row in shown["contradiction"]] == ["c107"]


def test_the_dataset_has_the_name_that_it_was_asked_for_by(home: Settings) -> None:
    dataset = store(home).model_copy(update={"name": "other"})
    assert make_report(dataset, validation(), home).name == "other"


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ((HELD,), "passed"),
        ((HELD, WARNED), "passed with 1 warning"),
        ((WARNED, HELD, WARNED), "passed with 2 warnings"),
        ((WARNED, STOPPED), "stopped"),
    ],
)
def test_the_verdict(home: Settings, results: tuple[ExpectationResult, ...], verdict: str) -> None:
    report = make_report(store(home), validation(*results), home)
    assert report.verdict == verdict
    html, _ = write(report, home.root)
    assert f"<title>clinic: {verdict}</title>" in html


def test_the_worst_comes_first(report: DataReport) -> None:
    assert [found.name for found in report.results] == ["no_patient_data", "language", "unique_ids"]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"changed")])
def test_a_changed_dataset_is_not_reported_on(home: Settings, change: object) -> None:
    dataset = store(home)
    change(home.dataset(KEY) / "test.parquet")  # type: ignore[operator]
    with pytest.raises(NotFoundError, match="medgrpo prepare"):
        make_report(dataset, validation(), home)


# --- the page


def test_the_page_is_whole_and_loads_nothing(report: DataReport, tmp_path: Path) -> None:
    html, _ = write(report, tmp_path)
    page = Page(html)
    assert page.open == []
    assert dict(page.tags)["html"] == {"lang": "en"}
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    attributes = {name for _, found in page.tags for name in found}
    assert not attributes & {"src", "srcset", "href", "xlink:href", "data", "action", "background"}
    assert not {name for name in attributes if name.startswith("on")}
    assert not re.search(r"https?://|url\(|@import", html)
    assert len(html) < 500_000


def test_the_page_can_be_read_without_seeing_it(report: DataReport, tmp_path: Path) -> None:
    page = Page(write(report, tmp_path)[0])
    pictures = [found for name, found in page.tags if name == "svg"]
    assert all(found.get("aria-label") or found.get("aria-hidden") == "true" for found in pictures)
    assert sum("aria-label" in found for found in pictures) == 9
    assert all("scope" in found for name, found in page.tags if name == "th")
    count = Counter(name for name, _ in page.tags)
    assert count["caption"] == count["table"]
    assert count["h1"] == count["main"] == 1


def test_the_page_says_what_the_figures_say(report: DataReport, tmp_path: Path) -> None:
    html, _ = write(report, tmp_path)
    text = " ".join(Page(html).text.split())
    for said in (
        "abc123",
        "mit",
        "Someone, 2024",
        "someone/benchmark",
        "37.5 %",
        "1 critical failure ·",
        "c100",
        "c104",
    ):
        assert said in text
    assert "loaded 16 rows" in text
    assert "dropped 8 Dropped rows by reason exact duplicate 7 43.8 % contradiction 1 6.2 %" in text
    assert "kept 8 Rows per split train 5 31.2 % validation 1 6.2 % test 2 12.5 %" in text


def test_every_failure_names_its_rows(report: DataReport, tmp_path: Path) -> None:
    html, _ = write(report, tmp_path)
    text = " ".join(Page(html).text.split())
    assert (
        "no_patient_data No_patient_data holds. The first 1 of 31 rows that broke it Rows that broke no_patient_data Row Value c4 "
        in text
    )
    assert "language Language holds. The 1 row that broke it Rows that broke language Row Value c2 pt 1 row" in text
    assert html.index("no_patient_data") < html.index(">language<") < html.index("unique_ids")


def test_markup_in_the_data_is_text(home: Settings) -> None:
    rows = ROWS | {"validation": [choice(5, topic=f"{SCRIPT} & more")]}
    dataset = store(home, rows, name=SCRIPT)
    odd = result(SCRIPT, "warning", BadRow(id=SCRIPT, value=SCRIPT))
    html, _ = write(make_report(dataset, validation(STOPPED, odd), home), home.root)
    assert "<script" not in html
    page = Page(html)
    assert page.open == []
    assert (
        page.text.count(SCRIPT) == 10
    )  # title, heading, check, meaning, caption, id, 2 values, topic, dropped question


def test_patient_data_is_masked(report: DataReport, tmp_path: Path) -> None:
    for text in write(report, tmp_path):
        assert "555-0137" not in text
        assert "c1 says" in text  # the rest of the detail stays


def test_a_number_that_the_cut_would_split_is_masked_too(home: Settings) -> None:
    values = [BadRow(id=str(place), value="x" * place + f" {PHONE}") for place in range(140, 165)]
    report = make_report(store(home), validation(result("language", "warning", *values)), home)
    shown = [row.value for row in report.results[0].bad_rows]
    assert not [value for value in shown if "415" in value]
    assert max(map(len, shown)) == 160


def test_the_same_dataset_gives_the_same_bytes(home: Settings, tmp_path: Path) -> None:
    dataset = store(home)
    told = [write(make_report(dataset, validation(STOPPED, WARNED), home), tmp_path / name) for name in ("a", "b")]
    assert told[0] == told[1]


def test_a_dataset_without_drops_choices_or_failures_has_a_page(home: Settings) -> None:
    rows: dict[Split, list[Measured]] = {"train": [number(1), number(2)], "validation": [], "test": []}
    report = make_report(store(home, rows, drops=()), validation(HELD), home)
    assert sorted(report.tallies) == ["kinds", "topics"]
    page = Page(write(report, home.root)[0])
    assert page.open == []
    assert "no row was left out" in page.text
    assert "What was dropped" not in page.text


def test_a_dataset_without_rows_has_a_page(home: Settings) -> None:
    report = make_report(store(home, {split: [] for split in SPLITS}, drops=()), validation(), home)
    assert Page(write(report, home.root)[0]).open == []


# --- counting


def spread(*values: int) -> Histogram:
    empty = np.array([], dtype=np.int64)
    return histogram({"train": np.array(values), "validation": empty, "test": empty}, "tokens")


def test_every_row_is_in_one_bin() -> None:
    values = [int(value) for value in np.random.default_rng(0).lognormal(5, 1, 5000)]
    found = spread(*values)
    expected = [sum(low <= value < high for value in values) for low, high in pairwise(found.edges)]
    assert list(found.counts["train"]) == expected
    assert sum(expected) == 5000
    assert found.counts["validation"] == (0,) * len(expected)


def test_few_long_rows_do_not_squeeze_the_others() -> None:
    found = spread(*range(100, 200), *range(100, 200), 20_000)
    assert found.has_tail
    assert found.edges == (*range(100, 201, 5), 20_001)
    assert found.counts["train"] == (10,) * 20 + (1,)
    assert ticks(found)[-1].label == "≥ 200"


def test_rows_of_one_length_are_one_bin() -> None:
    found = spread(7, 7)
    assert (found.edges, found.has_tail, found.counts["train"]) == ((7, 8), False, (2,))
    assert [tick.label for tick in ticks(found)] == ["7"]
    (bar,) = bars(found, "train")
    assert (bar.x, bar.y, bar.height, bar.label) == (0, 0, 46, "7 tokens: 2 rows, 100.0 %")


def test_bars_stay_within_their_panel_and_axis_labels_apart() -> None:
    for values in ([0], [1, 2], range(1000), [*range(20_000), 10**6], [1] * 500 + [9_999_999]):
        found = spread(*values)
        for bar in bars(found, "train"):
            assert 0 <= bar.x < bar.x + bar.width <= 340
            assert bar.y >= 0
            assert bar.y + bar.height == pytest.approx(46, abs=0.01)
        places = [tick.x for tick in ticks(found)]
        assert all(after - before >= 30 for before, after in pairwise(places))


def test_the_rarest_labels_are_counted_together() -> None:
    found = tally({"train": [f"t{n:02}" for n in range(20) for _ in range(40 - n)], "test": ["t19"] * 2}, rest="others")
    assert found.labels == (*(f"t{n:02}" for n in range(15)), "5 others")
    assert found.counts["train"] == (*(40 - n for n in range(15)), 25 + 24 + 23 + 22 + 21)
    assert found.counts["test"] == (0,) * 15 + (2,)
    assert bar_length(found, "test", 15) == 100.0


def test_labels_that_are_masked_alike_are_counted_together() -> None:
    found = renamed(tally({"train": ["a", "a", "b", "c"]}), ["x", "y", "x"])
    assert (found.labels, found.counts) == (("x", "y"), {"train": (3, 1)})


def test_a_gold_that_is_no_option_is_not_shown(home: Settings) -> None:
    rows = ROWS | {"test": [choice(6, gold="Jane Doe, born 1950"), choice(7, gold="Z")]}
    report = make_report(store(home, rows), validation(), home)
    letters = report.tallies["gold letters"]
    assert dict(zip(letters.labels, letters.counts["test"], strict=True))["no option"] == 2
    assert "Jane Doe" not in report.model_dump_json()
