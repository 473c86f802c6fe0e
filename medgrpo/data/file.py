"""Source: a local JSONL, JSON, CSV or Parquet file, read through a column map."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medgrpo.data.columns import ColumnMap, read_examples
from medgrpo.data.formats import RawRow, read_rows
from medgrpo.data.source import Licence, Source
from medgrpo.types import Example, Kind, Origin


class FileSource(Source):
    """A file on this disk."""

    kind: Literal["file"] = "file"
    """Chooses this source."""
    path: str
    """The file; its ending tells the format: .jsonl, .json, .csv, .parquet. A JSON object's rows get a column `key`."""
    example_kind: Kind
    """What the questions ask for."""
    columns: ColumnMap
    """Which column holds which part."""
    header: tuple[str, ...] = ()
    """Column names of a CSV file without a header row."""
    licence: Licence = ""
    """SPDX identifier, or `own`; empty: unknown."""
    citation: str = ""
    """Where the questions come from, kept with every example."""
    limit: int = Field(default=0, ge=0)
    """Read only the first rows; 0: all."""

    @model_validator(mode="after")
    def _only_csv_lacks_a_header(self) -> "FileSource":
        if self.header and not self.path.lower().endswith(".csv"):
            raise ValueError("header: only a .csv file can lack its column names")
        return self

    def load(self, seed: int) -> list[Example]:
        """Read the file.

        Raises:
            DataError: the file, a column, or rows are wrong; names file, column and every row.
        """
        return read_examples(self.rows(), self.columns, self.example_kind, self.path, self.citation, self.limit)

    def rows(self) -> Iterator[RawRow]:
        """The rows as they stand in the file.

        Raises:
            DataError: the file isn't there, or can't be read as what its ending says.
        """
        return read_rows(Path(self.path), self.header)

    def origin(self) -> Origin:
        """The path, and what the config says about it."""
        return Origin(name=self.path, licence=self.licence, citation=self.citation)
