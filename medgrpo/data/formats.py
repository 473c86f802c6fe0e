"""Formats: JSONL, JSON, CSV and Parquet files as raw rows, one after the other."""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medgrpo.data.patient_data import listed, shown
from medgrpo.errors import DataError

MAX_FIELD = 10_000_000
"""Longest CSV field in characters. Python's own 131,072 is too short for clinical notes with their attachments."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class RawRow(NamedTuple):
    """A row as it stands in its file or repository."""

    number: int
    """Counted from 1; of JSONL: the line."""
    values: Mapping[str, Any]
    """Column → value."""
    fault: str = ""
    """Why the row can't be read; its values are then empty."""
    unit: str = "row"
    """What `number` counts: `row` or `line`."""

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.unit} {self.number}"


def number_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[RawRow]:
    """Rows with their numbers, from 1 on."""
    return (RawRow(number, values) for number, values in enumerate(rows, start=1))


def read_rows(path: Path, header: tuple[str, ...] = ()) -> Iterator[RawRow]:
    """Read a file row by row. A row that can't be read comes with its fault, so that all of them can be told at once.

    Args:
        header: names of a CSV file's columns, where its first row isn't a header.

    Raises:
        DataError: there is no such file, its ending names no known format, or it can't be read at all.
    """
    readers: dict[str, Callable[[Path], Iterator[RawRow]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": lambda file: _read_csv(file, header),
        ".parquet": _read_parquet,
    }
    ending = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"data.source.path: no such file: {path} (relative paths start at {Path.cwd()})")
    if ending not in readers:
        raise DataError(f"{path}: unknown format '{path.suffix}'; known: {', '.join(readers)}")
    try:
        yield from readers[ending](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not readable as {ending[1:]}: {_say_encoding(path, error)}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not readable as {ending[1:]}: brackets are nested too deep") from error
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path}: not readable as {ending[1:]}: {error}") from error


def _say_encoding(path: Path, error: UnicodeDecodeError) -> str:
    """The line of the first byte that isn't UTF-8, looked up in the file: the error knows only a place in a buffer."""
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as exact:
                return f"line {number}: {_not_utf8(exact)}"
    return _not_utf8(error)


def _not_utf8(error: UnicodeDecodeError) -> str:
    return (
        f"byte {error.start + 1} of the line, 0x{error.object[error.start]:02x}, is not utf-8: save the file as UTF-8"
    )


def _read_jsonl(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                if number == 1 and line.startswith(_UTF16):
                    raise  # then no line is readable
                yield RawRow(number, {}, _not_utf8(error), "line")
            except json.JSONDecodeError as error:
                yield RawRow(number, {}, f"no JSON: {error.msg}, character {error.colno}", "line")
            except (ValueError, RecursionError) as error:
                yield RawRow(number, {}, f"no JSON: {error}", "line")
            else:
                yield _object_row(number, row, "line")


def _object_row(number: int, row: Any, unit: str = "row") -> RawRow:
    if isinstance(row, dict):
        return RawRow(number, row, "", unit)
    return RawRow(number, {}, f"not an object of columns: {shown(json.dumps(row, ensure_ascii=False))}", unit)


def _read_json(path: Path) -> Iterator[RawRow]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict) and any(isinstance(row, dict) for row in content.values()):
        content = [{"key": key, **row} if isinstance(row, dict) else row for key, row in content.items()]
    if not isinstance(content, list):
        raise ValueError("expected a list, or an object, of rows")  # noqa: TRY004 (what's wrong is the file's content)
    for number, row in enumerate(content, start=1):
        yield _object_row(number, row)


def _read_csv(path: Path, header: tuple[str, ...]) -> Iterator[RawRow]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        lines = csv.reader(handle, strict=True)
        names = list(header) or next(lines, [])
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            quoted = listed(f"'{name}'" for name in doubled)
            raise ValueError(f"the header names {quoted} more than once")
        number, start = 1, lines.line_num + 1
        while (fields := _next_fields(lines, start)) is not None:
            if isinstance(fields, str):
                yield RawRow(number, {}, f"not readable as csv: {fields}")
                return  # where the next row starts is anybody's guess
            if fields:
                fits = len(fields) == len(names)
                fault = "" if fits else f"{len(fields)} fields, but the header has {len(names)} (line {start})"
                yield RawRow(number, dict(zip(names, fields, strict=True)) if fits else {}, fault)
                number += 1
            start = lines.line_num + 1


def _next_fields(lines: Any, start: int) -> list[str] | str | None:
    """The next row's fields; a text: why it can't be read; None: there is no further row."""
    before = csv.field_size_limit(MAX_FIELD)
    try:
        fields: list[str] | None = next(lines, None)
    except csv.Error as error:
        if "end of data" in str(error):
            return f"a quote that is opened here, in the row that starts at line {start}, is never closed"
        return f"{error} (the row starts at line {start}; is a quote not closed?)"
    finally:
        csv.field_size_limit(before)
    return fields


def _read_parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from number_rows(row for batch in file.iter_batches() for row in batch.to_pylist())
