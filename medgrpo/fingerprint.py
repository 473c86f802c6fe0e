"""Digests that stand for content: values, files, source code. Equal content, equal digest, on every machine."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

PACKAGE = Path(__file__).parent
KEY_LENGTH = 32
"""Hexadecimal digits of a digest: 128 bits, and short enough for MLflow's 36-character dataset digests."""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"no digest for a {type(value).__name__}")


def canonical(value: Any) -> bytes:
    """JSON of a value with sorted keys and no spaces; pydantic models count as their fields."""
    return json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Digest of any JSON-ready value."""
    return hashlib.sha256(canonical(value)).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """Digest of one file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:KEY_LENGTH]


def files_digest(root: Path, names: Iterable[str]) -> str:
    """Digest of some files below `root`: their relative names and bytes."""
    return digest({name: file_digest(root / name) for name in sorted(names)})


def source_digest(*parts: str) -> str:
    """Digest of this package's source: `parts` are modules (`answer.py`) or folders (`rewards`) below it.

    Raises:
        FileNotFoundError: a part isn't there; else a renamed folder would no longer count, and nobody would notice.
    """
    files = [path.relative_to(PACKAGE).as_posix() for part in parts for path in _sources(part)]
    return files_digest(PACKAGE, files)


def _sources(part: str) -> list[Path]:
    found = [PACKAGE / part] if part.endswith(".py") else list((PACKAGE / part).rglob("*.py"))
    if not found:
        raise FileNotFoundError(f"no source in {PACKAGE / part}")
    return found


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, whenever this process dies."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
