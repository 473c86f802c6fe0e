"""Compare: which rows of a source are others than in a dataset that was prepared before."""

from collections import Counter
from collections.abc import Iterable

from medgrpo.data.patient_data import mask
from medgrpo.data.store import read_digests, read_manifest
from medgrpo.settings import Settings

NAMED = 5


def describe_changes(key_before: str, rows: Iterable[tuple[str, str]], settings: Settings) -> str:
    """The rows that changed, came or went since a dataset was prepared; empty if it isn't on this disk any more.

    Args:
        rows: id and digest of the source's rows now; ids may be repeated.
    """
    manifest = read_manifest(key_before, settings)
    if manifest is None:
        return ""
    now, before = Counter(rows), Counter(read_digests(manifest.dataset, settings))
    added, gone = ({row: None for row, _ in each} for each in (now - before, before - now))  # in the source's order
    told = [
        _list("changed", [row for row in added if row in gone]),
        _list("new", [row for row in added if row not in gone]),
        _list("gone", [row for row in gone if row not in added]),
    ]
    return "; ".join(text for text in told if text)


def _list(what: str, ids: list[str]) -> str:
    """The first ids, as in `2 rows changed: 'a', 'b'`."""
    if not ids:
        return ""
    named = ", ".join(repr(mask(row)) for row in ids[:NAMED])
    return f"{len(ids)} row{'s' if len(ids) > 1 else ''} {what}: {named}{', …' if len(ids) > NAMED else ''}"
