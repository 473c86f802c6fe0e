"""The data report: what is in a dataset, what was left out and why, which expectations held; a page and its figures."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.data.figures import (
    Histogram,
    Tally,
    bar_length,
    bars,
    bin_name,
    histogram,
    in_order,
    renamed,
    share,
    tally,
    ticks,
)
from medgrpo.data.patient_data import mask
from medgrpo.data.store import DROPPED, Manifest, read_manifest
from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import write_whole
from medgrpo.page import load_template
from medgrpo.settings import Settings
from medgrpo.types import (
    SPLITS,
    BadRow,
    DatasetRef,
    DropReason,
    ExpectationResult,
    Frozen,
    Origin,
    Split,
    ValidationReport,
)

if TYPE_CHECKING:
    import pyarrow

SHOWN_DROPS = 5
"""Dropped rows that are shown for each reason."""
SHOWN_CHARACTERS = 160
"""Longest text that is shown of a row."""
_STATES = ("stops", "warning", "passed")


class DroppedRow(Frozen):
    """A row that was left out; patient data is masked."""

    id: str
    question: str
    """How it begins."""
    detail: str


class DataReport(Frozen):
    """Everything that the page shows. Texts of rows are cut, and patient data in them is masked."""

    name: str
    dataset_key: str
    verdict: str
    """`passed`, `passed with N warnings` or `stopped`."""
    origin: Origin
    benchmarks: tuple[Origin, ...]
    loaded: int
    """Rows that the source gave."""
    dropped: dict[DropReason, int]
    dropped_rows: dict[DropReason, tuple[DroppedRow, ...]]
    """The first few rows that were dropped, by reason, in the source's order."""
    rows: dict[Split, int]
    digests: dict[Split, str]
    majority_accuracy: float
    results: tuple[ExpectationResult, ...]
    """Critical failures first, then warnings, then what held."""
    histograms: dict[str, Histogram]
    tallies: dict[str, Tally]


def make_report(dataset: DatasetRef, validation: ValidationReport, settings: Settings) -> DataReport:
    """Gather what is known about a dataset.

    Raises:
        NotFoundError: the dataset isn't on this disk, or its files were changed.
    """
    manifest = read_manifest(dataset.key, settings)
    if manifest is None:
        raise NotFoundError(f"dataset {dataset.key} is not whole in {settings.root}: run `medgrpo prepare` again")
    folder = settings.dataset(dataset.key)
    tables = {split: _read_split(folder, split) for split in SPLITS}
    return DataReport(
        name=dataset.name,
        dataset_key=dataset.key,
        verdict=_verdict(validation),
        origin=manifest.origin,
        benchmarks=manifest.benchmarks,
        loaded=manifest.loaded,
        dropped=manifest.dropped,
        dropped_rows=_dropped_rows(manifest, folder),
        rows=dataset.rows,
        digests=dataset.digests,
        majority_accuracy=validation.majority_accuracy,
        results=tuple(_masked(result) for result in sorted(validation.results, key=_urgency)),
        histograms=_histograms(tables),
        tallies=_tallies(tables),
    )


def write_report(report: DataReport, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.json` into `folder`: the same bytes for the same report."""
    folder.mkdir(parents=True, exist_ok=True)
    page, figures = folder / "report.html", folder / "report.json"
    write_whole(page, _render(report))
    write_whole(figures, report.model_dump_json(indent=1) + "\n")
    return page, figures


def _verdict(validation: ValidationReport) -> str:
    if validation.critical_failures:
        return "stopped"
    warnings = sum(not result.success for result in validation.results)
    return f"passed with {warnings} warning{'s' * (warnings > 1)}" if warnings else "passed"


def _urgency(result: ExpectationResult) -> int:
    """Place in `_STATES`."""
    return 2 if result.success else int(result.severity == "warning")


def _masked(result: ExpectationResult) -> ExpectationResult:
    rows = tuple(BadRow(id=row.id, value=_shown(row.value)) for row in result.bad_rows)
    return result.model_copy(update={"bad_rows": rows})


def _shown(text: str) -> str:
    """What is shown of a text: its beginning on one line, masked before it is cut, as half a number isn't found."""
    line = " ".join(mask(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1].rstrip() + "…"


def _read_split(folder: Path, split: Split) -> "pyarrow.Table":
    """The columns that are counted: examples one by one would take too long for large sets."""
    import pyarrow.parquet

    columns = ["kind", "gold", "options", "topic", "question", "prompt_tokens", "gold_tokens"]
    return pyarrow.parquet.read_table(folder / f"{split}.parquet", columns=columns)


def _dropped_rows(manifest: Manifest, folder: Path) -> dict[DropReason, tuple[DroppedRow, ...]]:
    import pyarrow.parquet

    if not any(manifest.dropped.values()):
        return {}
    table = pyarrow.parquet.read_table(folder / DROPPED, columns=["id", "question", "detail", "reason"])
    places: dict[DropReason, list[int]] = {reason: [] for reason, count in manifest.dropped.items() if count}
    for place, reason in enumerate(table["reason"].to_pylist()):
        if len(places[reason]) < SHOWN_DROPS:
            places[reason].append(place)
    return {
        reason: tuple(
            DroppedRow(id=mask(row["id"]), question=_shown(row["question"]), detail=_shown(row["detail"]))
            for row in table.take(found).to_pylist()
        )
        for reason, found in places.items()
    }


def _histograms(tables: "dict[Split, pyarrow.Table]") -> dict[str, Histogram]:
    import pyarrow.compute

    def lengths(name: str) -> dict[Split, Any]:
        return {split: table[name].to_numpy() for split, table in tables.items()}

    questions = {split: pyarrow.compute.utf8_length(table["question"]).to_numpy() for split, table in tables.items()}
    return {
        "prompt length": histogram(lengths("prompt_tokens"), "tokens"),
        "gold length": histogram(lengths("gold_tokens"), "tokens"),
        "question length": histogram(questions, "characters"),
    }


def _tallies(tables: "dict[Split, pyarrow.Table]") -> dict[str, Tally]:
    """The labels' counts; those that only choices have are left out where there is none."""
    topics = tally({split: table["topic"].to_pylist() for split, table in tables.items()}, rest="other topics")
    kinds = tally({split: table["kind"].to_pylist() for split, table in tables.items()})
    found = {"topics": renamed(topics, (_shown(label) for label in topics.labels)), "kinds": kinds}
    if "choice" in kinds.labels:
        choices = {split: _choices(table) for split, table in tables.items()}
        found["gold letters"] = in_order(tally({split: [gold for gold, _ in rows] for split, rows in choices.items()}))
        counts = {split: [str(count) for _, count in rows] for split, rows in choices.items()}
        found["options per question"] = in_order(tally(counts))
    return found


def _choices(table: "pyarrow.Table") -> list[tuple[str, int]]:
    """Gold and number of options of each choice; golds that aren't an option are free text, which no page shows."""
    columns = (table[name].to_pylist() for name in ("kind", "gold", "options"))
    rows = [(gold, json.loads(options)) for kind, gold, options in zip(*columns, strict=True) if kind == "choice"]
    return [(gold if gold in options and len(gold) == 1 else "no option", len(options)) for gold, options in rows]


@cache
def _template() -> Any:
    template = load_template("data/report.html.j2")
    template.globals |= {call.__name__: call for call in (bar_length, bars, bin_name, share, ticks)}
    return template


def _render(report: DataReport) -> str:
    """The page as HTML."""
    states = [_STATES[_urgency(result)] for result in report.results]
    worst = states[0] if states else "passed"
    return str(_template().render(report=report, splits=SPLITS, states=states, state=worst)) + "\n"
