"""Prepared datasets on disk, under `<home>/datasets/<key>/`: a Parquet file per split, the dropped rows, a manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import file_digest
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, DatasetRef, Drop, DropReason, Example, Frozen, Origin, Split

if TYPE_CHECKING:
    import pyarrow

DROPPED = "dropped.parquet"
GROUP = 10_000
"""Rows of a Parquet row group: what another process reads at once."""


class Manifest(Frozen):
    """What a dataset's folder holds, and where it came from."""

    dataset: DatasetRef
    origin: Origin
    benchmarks: tuple[Origin, ...]
    """What the rows were compared with, so that none of it is trained on."""
    loaded: int
    """Rows that the source gave."""
    dropped: dict[DropReason, int]
    """Rows that were left out, by reason."""
    key_parts: dict[str, str]
    """What the dataset's key is made of: name → digest."""
    files: dict[str, str]
    """File name → digest of its bytes."""


class Measured(NamedTuple):
    """An example with what is counted of it once: its content's digest, and its lengths in tokens of the base model."""

    example: Example
    digest: str
    prompt_tokens: int
    gold_tokens: int


MEASURES = ("digest", "prompt_tokens", "gold_tokens")


def write_rows(path: Path, rows: Sequence[Measured], drops: Sequence[Drop] | None = None) -> None:
    """Write rows as Parquet, the same bytes for the same rows: a column per field, options as JSON to keep their order.

    Args:
        drops: for dropped rows, why each one was dropped.
    """
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {
        field: [getattr(row.example, field) for row in rows] for field in Example.model_fields
    }
    columns["options"] = [json.dumps(options, ensure_ascii=False) for options in columns["options"]]
    columns |= {field: [getattr(row, field) for row in rows] for field in MEASURES}
    if drops is not None:
        columns |= {field: [getattr(drop, field) for drop in drops] for field in Drop.model_fields}
    table = pyarrow.table(columns, schema=_schema(with_drops=drops is not None))
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=GROUP)


def _schema(*, with_drops: bool) -> "pyarrow.Schema":
    """The columns' types: named, so that a column without a value has the same type as one with."""
    import pyarrow

    kinds: Mapping[str, Any] = {
        "tolerance": pyarrow.float64(),
        "limits": pyarrow.list_(pyarrow.float64()),
        "aliases": pyarrow.list_(pyarrow.string()),
        "prompt_tokens": pyarrow.int32(),
        "gold_tokens": pyarrow.int32(),
    }
    names = [*Example.model_fields, *MEASURES, *(Drop.model_fields if with_drops else ())]
    return pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])


def read_split(dataset: DatasetRef, split: Split, settings: Settings) -> list[Example]:
    """Read one split of a prepared dataset, in its order.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    return [row.example for row in read_measured(dataset, split, settings)]


def benchmark_file(dataset: DatasetRef, name: str) -> str:
    """Name of the file with a benchmark's drawn rows: a benchmark's own name may be a path."""
    return f"benchmark-{list(dataset.benchmarks).index(name) + 1}.parquet"


def read_benchmark(dataset: DatasetRef, name: str, settings: Settings) -> list[Example]:
    """Read the rows that were drawn from a benchmark, in their order.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    return [_measured(row).example for row in _read(dataset, benchmark_file(dataset, name), settings).to_pylist()]


def read_measured(dataset: DatasetRef, split: Split, settings: Settings, group: int | None = None) -> list[Measured]:
    """Read rows of one split with their measures.

    Args:
        group: only these rows, `GROUP` of them from `group * GROUP` on; None: all.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    return [_measured(row) for row in _read(dataset, f"{split}.parquet", settings, group=group).to_pylist()]


def read_prompt_tokens(dataset: DatasetRef, split: Split, settings: Settings) -> list[int]:
    """Length of each row's prompt in tokens; the rows themselves are not read.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    tokens: list[int] = _read(dataset, f"{split}.parquet", settings, columns=["prompt_tokens"])[0].to_pylist()
    return tokens


def read_dropped(dataset: DatasetRef, settings: Settings) -> list[tuple[Measured, Drop]]:
    """Read the rows that were left out, each with the reason, in the source's order.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    rows = _read(dataset, DROPPED, settings).to_pylist()
    return [(_measured(row), Drop(reason=row["reason"], detail=row["detail"])) for row in rows]


def read_digests(dataset: DatasetRef, settings: Settings) -> list[tuple[str, str]]:
    """Id and digest of all rows that the source had, the dropped ones too.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    names = (*(f"{split}.parquet" for split in SPLITS), DROPPED)
    tables = [_read(dataset, name, settings, columns=["id", "digest"]) for name in names]
    return [
        pair
        for table in tables
        for pair in zip(*(table[column].to_pylist() for column in ("id", "digest")), strict=True)
    ]


def _read(
    dataset: DatasetRef, name: str, settings: Settings, columns: list[str] | None = None, group: int | None = None
) -> "pyarrow.Table":
    import pyarrow.parquet

    path = settings.dataset(dataset.key) / name
    if not path.is_file():
        raise NotFoundError(f"dataset {dataset.key} is not in {settings.root}: run `medgrpo prepare` first")
    if group is None:
        return pyarrow.parquet.read_table(path, columns=columns)
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=columns)


def _measured(row: Mapping[str, Any]) -> Measured:
    fields = {field: row[field] for field in Example.model_fields} | {"options": json.loads(row["options"])}
    return Measured(Example.model_validate(fields), *(row[measure] for measure in MEASURES))


def read_manifest(key: str, settings: Settings) -> Manifest | None:
    """The manifest of a dataset that is on this disk whole and unchanged, else None."""
    folder = settings.dataset(key)
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not there; or another version's, of which nothing can be said
        return None
    intact = all(
        (folder / name).is_file() and file_digest(folder / name) == digest for name, digest in manifest.files.items()
    )
    return manifest if intact else None
