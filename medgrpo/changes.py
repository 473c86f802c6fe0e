"""Why something is made again: which parts of its key are others than when this config was last run."""

import json
import logging
from collections.abc import Mapping
from typing import NamedTuple

from medgrpo.fingerprint import digest, write_whole
from medgrpo.settings import Settings

log = logging.getLogger(__name__)


class Change(NamedTuple):
    """What became of a key since last time."""

    parts: tuple[str, ...]
    """Names of the parts that changed; none where nothing did, or this is the first time."""
    key_before: str
    """The key of last time; empty the first time."""


def note_key(name: str, stage: str, parts: Mapping[str, str], settings: Settings) -> Change:
    """Remember the parts of a config's key, and say which of them changed.

    Args:
        name: the config's name.
        stage: what the key is of, such as `dataset`.
        parts: name → digest of everything that the key is made of.
    """
    path = settings.root / "keys" / f"{name}-{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    before: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = tuple(part for part in parts if before and before.get(part) != parts[part])
    if changed:
        details = ", ".join(f"{part} {before.get(part, 'none')[:8]} → {parts[part][:8]}" for part in changed)
        log.info("the %s of '%s' has another key than last time, since these changed: %s", stage, name, details)
    write_whole(path, json.dumps(dict(parts), indent=1))
    return Change(changed, digest(before) if before else "")
