"""Why something is made again: which parts of its key are others than when this config was last run."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
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


def find_change(name: str, stage: str, parts: Mapping[str, str], settings: Settings) -> Change:
    """Compare the parts of a config's key with those that were last remembered, and say which of them changed.

    Args:
        name: the config's name.
        stage: what the key is of, such as `dataset`.
        parts: name → digest of everything that the key is made of.
    """
    path = _path(name, stage, settings)
    if not path.is_file():
        return Change((), "")
    before: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    changed = tuple(part for part in {**before, **parts} if before.get(part) != parts.get(part))
    if changed:
        digests = [(part, before.get(part, "none")[:8], parts.get(part, "none")[:8]) for part in changed]
        told = ", ".join(f"{part} {old} → {new}" for part, old, new in digests)
        log.info("the %s of '%s' has another key than last time, since these changed: %s", stage, name, told)
    return Change(changed, digest(before))


def remember_key(name: str, stage: str, parts: Mapping[str, str], settings: Settings) -> None:
    """Keep the parts of a key for the next comparison; call it when what the key names is there."""
    path = _path(name, stage, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(dict(parts), indent=1))


def _path(name: str, stage: str, settings: Settings) -> Path:
    return settings.root / "keys" / f"{name}-{stage}.json"
