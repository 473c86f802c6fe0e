"""Compare: which rows of a source are others than in a dataset that was prepared before."""

from collections.abc import Mapping, Sequence

from medgrpo.data.patient_data import mask
from medgrpo.data.store import read_digests, read_manifest
from medgrpo.settings import Settings

NAMED = 5


def describe_changes(key_before: str, rows: Mapping[str, str], settings: Settings) -> str:
    """The rows that changed, came or went since a dataset was prepared; empty if it isn't on this disk any more.

    Args:
        rows: id → digest of the source's rows now.
    """
    manifest = read_manifest(key_before, settings)
    if manifest is None:
        return ""
    before = read_digests(manifest.dataset, settings)
    told = [
        _list("changed", [row for row in rows if row in before and rows[row] != before[row]]),
        _list("new", [row for row in rows if row not in before]),
        _list("gone", [row for row in before if row not in rows]),
    ]
    return "; ".join(text for text in told if text)


def _list(what: str, ids: Sequence[str]) -> str:
    """The first ids, as in `2 rows changed: 'a', 'b'`."""
    if not ids:
        return ""
    named = ", ".join(repr(mask(row)) for row in ids[:NAMED])
    return f"{len(ids)} row{'s' if len(ids) > 1 else ''} {what}: {named}{', …' if len(ids) > NAMED else ''}"
