"""Source: a local JSONL, JSON, CSV or Parquet file, read through a column map."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from medgrpo.errors import DataError
from medgrpo.types import Example, Frozen, Kind

LETTERS = "ABCDEFGHIJ"


class ColumnMap(Frozen):
    """Which column holds which part of an example."""

    question: str
    """Column of the question."""
    gold: str
    """Column of the gold answer: a letter, a number or a text."""
    id: str = ""
    """Column of a unique id; empty: the row's number."""
    options: str | tuple[str, ...] = ()
    """For kind `choice`: one column that maps letters to texts (or lists texts), or one column per option."""
    tolerance: str = ""
    """Column of the numeric tolerance."""
    unit: str = ""
    """Column of the unit."""
    topic: str = ""
    """Column of the topic."""
    reasoning: str = ""
    """Column of a worked reasoning."""

    def names(self) -> set[str]:
        """Every column that is asked for."""
        options = (self.options,) if isinstance(self.options, str) else self.options
        named = {self.question, self.gold, self.id, self.tolerance, self.unit, self.topic, self.reasoning, *options}
        return named - {""}


class FileSource(Frozen):
    """A file on this disk."""

    kind: Literal["file"] = "file"
    """Chooses this source."""
    path: str
    """The file; its ending tells the format: .jsonl, .json, .csv, .parquet."""
    example_kind: Kind
    """What the questions ask for."""
    columns: ColumnMap
    """Which column holds which part."""
    citation: str = ""
    """Where the questions come from, kept with every example."""
    limit: int = Field(default=0, ge=0)
    """Read only the first rows; 0: all."""

    def load(self, seed: int) -> list[Example]:
        """Read the file.

        Raises:
            DataError: the file, a column, or a row's content is wrong; names file, column and row.
        """
        path = Path(self.path)
        if not path.is_file():
            raise DataError(f"data.source.path: no such file: {path}")
        rows = _read(path)
        return read_examples(rows[: self.limit or None], self.columns, self.example_kind, str(path), self.citation)


def read_examples(
    rows: Sequence[Mapping[str, Any]], columns: ColumnMap, kind: Kind, origin: str, citation: str
) -> list[Example]:
    """Turn raw rows into examples through a column map.

    Raises:
        DataError: there is no row, a mapped column is absent, or a value is not what its part needs.
    """
    if not rows:
        raise DataError(f"{origin}: no rows")
    if missing := columns.names() - set(rows[0]):
        raise DataError(
            f"{origin}: no column {', '.join(map(repr, sorted(missing)))} (data.source.columns); "
            f"the columns are: {', '.join(sorted(map(str, rows[0])))}"
        )
    return [_read_row(number, row, columns, kind, origin, citation) for number, row in enumerate(rows, start=1)]


def _read_row(
    number: int, row: Mapping[str, Any], columns: ColumnMap, kind: Kind, origin: str, citation: str
) -> Example:
    def text(column: str, default: str = "") -> str:
        value = row.get(column) if column else None
        return default if value is None else str(value).strip()

    try:
        return Example(
            id=text(columns.id, str(number)),
            kind=kind,
            question=text(columns.question),
            gold=text(columns.gold),
            options=_options(row, columns.options) if kind == "choice" else {},
            tolerance=float(text(columns.tolerance, "0")),
            unit=text(columns.unit),
            topic=text(columns.topic, "general"),
            reasoning=text(columns.reasoning),
            citation=citation,
        )
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{origin}: row {number}: {error}") from error


def _options(row: Mapping[str, Any], columns: str | tuple[str, ...]) -> dict[str, str]:
    """Letter → text. Options that are absent in this row may only be the last ones: a gap would shift the letters."""
    value = row[columns] if isinstance(columns, str) else [row.get(column) for column in columns]
    if isinstance(value, Mapping):
        return {str(letter): str(text) for letter, text in value.items() if text is not None}
    if not isinstance(value, list):
        raise ValueError(f"the options are neither letters with texts nor a list: {str(value)[:60]!r}")  # noqa: TRY004
    texts = ["" if text is None else str(text).strip() for text in value]
    while texts and not texts[-1]:
        texts.pop()
    if "" in texts:
        raise ValueError(f"option {LETTERS[texts.index('')]} is empty")
    if len(texts) > len(LETTERS):
        raise ValueError(f"{len(texts)} options: at most {len(LETTERS)} are read")
    return dict(zip(LETTERS, texts, strict=False))


def _read(path: Path) -> list[Mapping[str, Any]]:
    """All rows of a file, as dictionaries."""
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown format '{path.suffix}'; known: {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path}: not readable as {path.suffix[1:]}: {error}") from error


def _read_jsonl(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def _read_json(path: Path) -> list[Mapping[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected a list, or an object, of rows")
    return rows


def _read_csv(path: Path) -> list[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle, strict=True))


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow.parquet

    rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows
