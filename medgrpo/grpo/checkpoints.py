"""Checkpoints that can be trusted: sealed with a manifest of hashes when they are whole, checked before use."""

import json
import logging
import re
import shutil
import tempfile
from pathlib import Path

from medgrpo.fingerprint import file_digest, write_whole
from medgrpo.policy import ADAPTER_FILES, adapter_digest
from medgrpo.settings import Settings
from medgrpo.types import CheckpointRef

log = logging.getLogger(__name__)

MANIFEST = "medgrpo-manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Write the manifest of a finished checkpoint: every file with its digest. The rename makes it whole or absent."""
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)}
    write_whole(folder / MANIFEST, json.dumps(files, indent=1, sort_keys=True))


def fault(folder: Path) -> str:
    """Why a checkpoint can't be used; empty when it verifies."""
    if not (folder / MANIFEST).is_file():
        return "no manifest: the save was cut off"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return "the manifest is damaged"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_digest(folder / name) != expected:
            return f"{name} was changed"
    return ""


def verified(output: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a training that verify, as (step, folder), oldest first; the others are named in the log."""
    good = []
    for folder in output.glob("checkpoint-*"):
        match = _NAME.fullmatch(folder.name)
        if match is None:
            continue
        if reason := fault(folder):
            log.warning("skipping %s: %s", folder.name, reason)
        else:
            good.append((int(match[1]), folder))
    return sorted(good)


def export(step: int, folder: Path, train_key: str, settings: Settings) -> CheckpointRef:
    """Copy a checkpoint's adapter to its content-addressed folder, where evaluation and serving find it."""
    digest = adapter_digest(folder)
    target = settings.adapter(digest)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as name:
            draft = Path(name) / "adapter"
            draft.mkdir()
            for file in ADAPTER_FILES:
                shutil.copy2(folder / file, draft / file)
            draft.rename(target)
    return CheckpointRef(train_key=train_key, step=step, adapter_digest=digest)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and MANIFEST not in path.name)
