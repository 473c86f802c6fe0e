"""Evaluations on disk, under `<home>/evaluations/<key>/`: the report, and the per-row tables that it is made from."""

import shutil
from typing import TYPE_CHECKING, NamedTuple

from medgrpo.fingerprint import write_whole
from medgrpo.settings import Settings
from medgrpo.types import EvalReport

if TYPE_CHECKING:
    import pandas as pd


class Tables(NamedTuple):
    """What every figure of a report is computed from."""

    rows: "pd.DataFrame"
    """One line per row: its greedy completion."""
    sampled: "pd.DataFrame | None"
    """One line per row and sampled completion; None where none were asked for."""
    orders: "pd.DataFrame | None"
    """One line per row and order of its options; None where no others were asked for."""


def read_report(key: str, settings: Settings) -> EvalReport | None:
    """The stored report of an evaluation, or None."""
    path = settings.evaluation(key) / "report.json"
    return EvalReport.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_rows(report: EvalReport, settings: Settings) -> "pd.DataFrame":
    """The table of greedy completions behind a report, one line per row."""
    return read_tables(report, settings).rows


def read_tables(report: EvalReport, settings: Settings) -> Tables:
    """All tables behind a report."""
    import pandas as pd

    folder = settings.evaluation(report.key)
    return Tables(
        rows=pd.read_parquet(folder / "rows.parquet"),
        sampled=pd.read_parquet(folder / "sampled.parquet") if report.sampled else None,
        orders=pd.read_parquet(folder / "orders.parquet") if report.orders else None,
    )


def write_report(report: EvalReport, tables: Tables, settings: Settings) -> None:
    """Store a report and its tables; the report last: where it is, the tables are whole, and no shard is needed."""
    folder = settings.evaluation(report.key)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables._asdict().items():
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet")
    write_whole(folder / "report.json", report.model_dump_json(indent=1))
    shutil.rmtree(folder / "shards", ignore_errors=True)
