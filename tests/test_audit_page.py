"""How an audit is shown: a page that loads nothing and escapes everything, tables of any width, the refusal."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from medgrpo.audit.page import (
    PLAIN_WIDTH,
    describe_refusal,
    families_as_rows,
    make_console,
    print_report,
    render_page,
)
from medgrpo.audit.ranking import RankingRow
from medgrpo.audit.report import AuditReport, FamilyRow, RewardRow
from medgrpo.types import Interval

SCRIPT = "<script>alert('x')</script>"


def reward(label: str = "semantic", **more: object) -> RewardRow:
    row = {"label": label, "weight": 0.2, "promised": 1.0, "least": 1.0, "missed": 0, "example": "row-1", "gold": "B"}
    row |= {"lowest": 0.0, "empty": 0.0, "empty_example": "row-1", "measured": {}}
    return RewardRow.model_validate(row | more)


def family(name: str, **more: object) -> FamilyRow:
    row = {"family": name, "meaning": "says nothing", "rule": "below", "tried": 3, "margin": -0.25, "example": "row-1"}
    terms = {"terms": {"semantic": 0.15, "format": 0.25}, "honest_terms": {"semantic": 0.05, "format": 0.6}}
    return FamilyRow.model_validate(row | terms | {"completion": "", "payer": "semantic", "passed": True} | more)


def report(**more: object) -> AuditReport:
    half = Interval(mean=0.5, low=0.4, high=0.6)
    ranking = (
        RankingRow(family="text: side", pairs=20, accuracy=half, plain=half),
        RankingRow(family="text: unit", pairs=3, accuracy=half, plain=None),
    )
    fields = {"rows": 1200, "rewards": (reward(), reward("format", weight=0.5)), "families": (family("JSON"),)}
    return AuditReport.model_validate(fields | {"ranking": ranking, "passed": True} | more)


REFUSED = report(
    passed=False,
    rewards=(reward(least=0.5, missed=3, gold=SCRIPT), reward("format", empty=0.1)),
    families=(
        family("JSON"),
        family(
            "two answers",
            margin=0.2,
            passed=False,
            completion=SCRIPT,
            example=SCRIPT,
            terms={"semantic": 0.25, "format": 0.6},
        ),
        family("empty", payer="", margin=0.0, passed=False),
    ),
)


class Balanced(HTMLParser):
    """Fails on tags that aren't closed in order; keeps what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("shown", [report(), REFUSED, report(ranking=(), families=())])
def test_the_page_is_whole_and_loads_nothing(shown: AuditReport) -> None:
    page = render_page("laptop", shown)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page.startswith("<!doctype html>") or page.lstrip().startswith("<!doctype html>")
    assert not {name for name, _ in parser.attributes} & {"src", "href", "onclick", "onload"}
    assert "<script" not in page and "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert ("refused" in page) is not shown.passed


def test_the_page_shows_the_figures() -> None:
    page = render_page("laptop", REFUSED)
    assert "<title>laptop: rewards refused</title>" in page
    assert "On 1,200 rows 2 of 3 families" in page and "2 of 2 rewards withheld" in page
    assert page.index("<b>two answers</b>") < page.index("<b>JSON</b>"), "what is paid comes first"
    assert "&lt;script&gt;" in page
    widths = [float(width) for width in re.findall(r'class="term t\d" style="width: ([\d.]+)%"', page)]
    assert max(widths) == pytest.approx(100 * 0.6 / 0.85, abs=0.01), "bars are to the scale of the largest total"
    assert '<path class="line ours" d="M120.0 8h60.0"/><circle class="ours" cx="150.0"' in page
    assert page.count('class="line plain"') == 1
    assert "0.500 [0.400, 0.600]" in page


def test_the_refusal_names_rewards_rows_terms_and_what_to_do() -> None:
    said = describe_refusal(REFUSED, Path("/home/report.html"))
    assert "reward 'semantic' gives 0.500 to the gold answer of example 'row-1', not 1.000 (3 such rows)" in said
    assert "reward 'format' gives 0.100 to the empty completion of example 'row-1', not 0.000" in said
    line = next(line for line in said.splitlines() if line.startswith("  two answers"))
    assert line.split()[2:8] == ["below", "0.850", "0.650", "0.250/0.050", "0.600/0.600", "semantic"]
    assert "JSON" not in said
    assert "Lower the weight of 'semantic', make it stricter, or leave it out: it pays most for 'two answers'" in said
    assert "No term tells 'empty' from an honest answer: add one for the form" in said
    assert said.endswith("/home/report.html")


@pytest.mark.parametrize("width", [40, 72, 80, 140, 300])
def test_tables_keep_every_word_at_any_width(width: int) -> None:
    written = io.StringIO()
    print_report(REFUSED, Path("/home/of/a/rather/long/name/report.html"), Console(file=written, width=max(width, 72)))
    said = written.getvalue()
    for words in ("two answers", "not above" if "not above" in said else "below", "+0.200", "semantic", "FAILED"):
        assert words in said
    assert "text: side" in said and "0.500 [0.400, 0.600]" in said
    assert "REFUSED on 1200 rows" in said and "/home/of/a/rather/long/name/report.html" in said
    assert "\x1b" not in said and "…" not in said
    assert all(len(line.rstrip()) <= max(width, 72) for line in said.splitlines())


def test_what_was_measured_stands_in_terminal_and_page() -> None:
    measured = {"fluent": 12.3456, "gibberish": 417.0}
    shown = report(rewards=(reward(measured=measured), reward("format")))
    written = io.StringIO()
    print_report(shown, Path("report.html"), Console(file=written, width=100))
    assert "semantic, measured: fluent 12.35, gibberish 417\n" in written.getvalue()
    assert "format, measured" not in written.getvalue()
    page = render_page("laptop", shown)
    assert "Measured: fluent 12.35, gibberish 417." in page and page.count("Measured") == 1


def test_what_is_no_terminal_gets_wide_plain_lines() -> None:
    console = make_console()
    assert console.is_terminal or console.width == PLAIN_WIDTH


def test_prefect_gets_one_row_of_texts_per_family() -> None:
    rows = families_as_rows(REFUSED)
    assert [row["family"] for row in rows] == ["JSON", "two answers", "empty"]
    assert rows[1]["semantic"] == "0.250/0.050" and rows[1]["passed"] == "False"
