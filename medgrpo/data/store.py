"""Prepared datasets on disk: one Parquet file per split, and a manifest, under `<home>/datasets/<key>/`."""

import json
from collections.abc import Sequence
from pathlib import Path

from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import file_digest
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, Example, Frozen, Split


class Dropped(Frozen):
    """A source row that isn't in the dataset, and why."""

    id: str
    reason: str


class Manifest(Frozen):
    """What a dataset's folder holds."""

    dataset: DatasetRef
    files: dict[str, str]
    """File name → digest of its bytes."""
    dropped: tuple[Dropped, ...]


def write_split(path: Path, examples: Sequence[Example]) -> None:
    """Write one split: a column per field, options as JSON so that their order is kept."""
    import pyarrow
    import pyarrow.parquet

    fields = list(Example.model_fields)
    rows = [example.model_dump() | {"options": json.dumps(example.options)} for example in examples]
    table = pyarrow.table({field: [row[field] for row in rows] for field in fields})
    pyarrow.parquet.write_table(table, path)


def read_split(dataset: DatasetRef, split: Split, settings: Settings) -> list[Example]:
    """Read one split of a prepared dataset, in its order.

    Raises:
        NotFoundError: the dataset isn't on this disk.
    """
    import pyarrow.parquet

    path = settings.dataset(dataset.key) / f"{split}.parquet"
    if not path.is_file():
        raise NotFoundError(f"dataset {dataset.key} is not in {settings.root}: run `medgrpo prepare` first")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [Example.model_validate(row | {"options": json.loads(row["options"])}) for row in rows]


def read_manifest(key: str, settings: Settings) -> Manifest | None:
    """The manifest of a dataset that is on this disk whole and unchanged, else None."""
    folder = settings.dataset(key)
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    intact = all(
        (folder / name).is_file() and file_digest(folder / name) == digest for name, digest in manifest.files.items()
    )
    return manifest if intact else None
