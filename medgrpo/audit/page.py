"""How an audit is shown: as tables in a terminal, as the message of a refusal, as an HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgrpo.audit.report import AuditReport, FamilyRow, RewardRow
from medgrpo.page import load_template
from medgrpo.types import Interval

TEMPLATE = "audit/report.html.j2"
LEAST_WIDTH = 72
"""Columns below which a table is wider than its terminal: cut words would say less than broken lines."""
PLAIN_WIDTH = 140
"""Columns of what is no terminal: a log, a file."""
SCALE = 300
"""Width of the ranking's axis, in the units of the page's SVG."""


def describe_refusal(report: AuditReport, page: Path) -> str:
    """Why a reward set is refused: the table of families and terms, what is wrong with gold answers, what to do."""
    lines = [f"the reward set is refused, audited on {report.rows} rows:", *map(_describe_fault, _fault_parts(report))]
    if report.failures:
        lines += [
            "Cheats that earn what only an honest answer should, by term (the cheat's / the honest wrong answer's):"
        ]
        lines += _aligned([_heads(report), *(_cells(row) for row in report.failures)])
        lines += _advice(report.failures)
    return "\n".join([*lines, f"The whole report: {page}"])


class _Fault(NamedTuple):
    """What is wrong with one reward."""

    row: RewardRow
    is_gold: bool


def _fault_parts(report: AuditReport) -> Iterator[_Fault]:
    for row in report.faults:
        if not row.pays_gold:
            yield _Fault(row, is_gold=True)
        if not row.pays_nothing:
            yield _Fault(row, is_gold=False)


def _describe_fault(fault: _Fault) -> str:
    row = fault.row
    if fault.is_gold:
        return (
            f"  reward '{row.label}' gives {row.least:.3f} to the gold answer of example '{row.example}', not "
            f"{row.promised:.3f} ({row.missed} such rows): check that its gold {row.gold!r} is an answer to the "
            "question, or what the reward wants"
        )
    return (
        f"  reward '{row.label}' gives {row.empty:.3f} to the empty completion of example '{row.empty_example}', not "
        f"{row.lowest:.3f}: a policy that says nothing must earn the least; make the reward pay what is said"
    )


def _heads(report: AuditReport) -> list[str]:
    return ["family", "must be", "earns", "honest", *(row.label for row in report.rewards), "pays most", "example"]


def _cells(row: FamilyRow) -> list[str]:
    terms = (f"{paid:.3f}/{row.honest_terms[label]:.3f}" for label, paid in row.terms.items())
    return [row.family, row.rule, f"{row.earned:.3f}", f"{row.bar:.3f}", *terms, row.payer or "none", row.example]


def families_as_rows(report: AuditReport) -> list[dict[str, str]]:
    """The families as a table whose cells are texts, for Prefect."""
    heads = _heads(report)
    return [{**dict(zip(heads, _cells(row), strict=True)), "passed": str(row.passed)} for row in report.families]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _advice(failures: Sequence[FamilyRow]) -> Iterator[str]:
    """What to do about each term that pays."""
    payers = dict.fromkeys(row.payer for row in failures)
    for payer in payers:
        families = ", ".join(f"'{row.family}'" for row in failures if row.payer == payer)
        if payer:
            yield f"Lower the weight of '{payer}', make it stricter, or leave it out: it pays most for {families}."
        else:
            yield f"No term tells {families} from an honest answer: add one for the form, such as 'format'."


def print_report(report: AuditReport, page: Path, console: Console) -> None:
    """Print the tables of an audit and where its page is."""
    console.print(_rewards_table(report))
    for row in report.rewards:
        if row.measured:
            console.print(Text(f"{row.label}, measured: {describe_measured(row)}"))
    for table in (_families_table(report), _ranking_table(report)):
        if table.row_count:
            console.print(table)
    verdict = f"{'passed' if report.passed else 'REFUSED'} on {report.rows} rows"
    console.print(Text(verdict, style="bold green" if report.passed else "bold red"))
    console.print(Text(f"page: {page}"), soft_wrap=True)


def describe_measured(row: RewardRow) -> str:
    """The settings of a reward that were measured, with their numbers."""
    return ", ".join(f"{name} {value:.4g}" for name, value in row.measured.items())


def make_console() -> Console:
    """Standard output; tables are never squeezed below what can be read, nor cut where it is no terminal."""
    console = Console(highlight=False)
    console.width = max(console.width, LEAST_WIDTH) if console.is_terminal else PLAIN_WIDTH
    return console


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 or head in _WORDS else "right", overflow="fold")
    return table


_WORDS = ("must be", "pays most", "verdict")


def _verdict(passed: bool) -> Text:
    return Text("passed", style="green") if passed else Text("FAILED", style="bold red")


def _rewards_table(report: AuditReport) -> Table:
    table = _table("Gold answers", "reward", "weight", "least", "promised", "empty completion", "verdict")
    for row in report.rewards:
        figures = (row.weight, row.least, row.promised, row.empty)
        passed = row.pays_gold and row.pays_nothing
        table.add_row(Text(row.label), *(f"{figure:.3f}" for figure in figures), _verdict(passed))
    return table


def _families_table(report: AuditReport) -> Table:
    heads = ("family", "must be", "tried", "margin", "pays most", "verdict")
    table = _table("\nCheats, by what they earn over an honest wrong answer", *heads)
    for row in report.families:
        figures = (row.rule, str(row.tried), f"{row.margin:+.3f}", row.payer or "none")
        table.add_row(row.family, *map(Text, figures), _verdict(row.passed))
    return table


def _ranking_table(report: AuditReport) -> Table:
    table = _table("\nRight ranked above wrong", "pairs of", "pairs", "these rewards", "plain similarity")
    for row in report.ranking:
        plain = str(row.plain) if row.plain else "–"
        table.add_row(Text(row.family), str(row.pairs), str(row.accuracy), plain)
    return table


def render_page(name: str, report: AuditReport) -> str:
    """The page as HTML: it loads nothing from elsewhere, and escapes what comes from the data."""
    most = max((total for row in report.families for total in (row.earned, row.bar)), default=0.0) or 1.0
    shown = {"most": most, "mark": _mark, "scale": SCALE, "describe_measured": describe_measured}
    return str(load_template(TEMPLATE).render(name=name, report=report, **shown)) + "\n"


class _Mark(NamedTuple):
    """An interval as it is drawn: where it begins, how wide it is, where its estimate stands."""

    x: float
    width: float
    mean: float


def _mark(interval: Interval) -> _Mark:
    left, right, mean = (round(SCALE * share, 1) for share in (interval.low, interval.high, interval.mean))
    return _Mark(left, round(right - left, 1), mean)
