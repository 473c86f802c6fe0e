"""Checkpoints that can be trusted: written aside, sealed with a manifest of hashes, renamed; checked before use."""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from medgrpo.fingerprint import file_digest, write_whole
from medgrpo.policy import ADAPTER_FILES, store_adapter
from medgrpo.settings import Settings
from medgrpo.types import CheckpointRef

log = logging.getLogger(__name__)

MANIFEST = "medgrpo-manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM = 64 * 1024
"""A disk with fewer bytes than that has no room for anything."""
DRAFTS = ".saving"
"""Folder beside the checkpoints where they are made and taken apart: what is in it is never used."""
PRUNED = "only its adapter was kept"
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Write the manifest of a finished checkpoint: every file with its digest. All of it is on the disk afterwards."""
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)}
    for path in _files(folder):
        _to_disk(path)
    write_whole(folder / MANIFEST, json.dumps(files, indent=1, sort_keys=True))
    for path in (folder / MANIFEST, *folder.rglob("*/"), folder):
        _to_disk(path)


def fault(folder: Path) -> str:
    """Why a checkpoint can't be resumed from; empty when it has all files of its manifest, unchanged, and no others."""
    found = [path.relative_to(folder).as_posix() for path in _files(folder)]
    if reason := _fault(folder, None):
        return PRUNED if set(found) == set(ADAPTER_FILES) and not adapter_fault(folder) else reason
    known = _manifest(folder)
    return next((f"{name} is not in the manifest" for name in found if name not in known), "")


def adapter_fault(folder: Path) -> str:
    """Why a checkpoint's adapter can't be used; empty when it is as the manifest says, whatever else is there."""
    return _fault(folder, ADAPTER_FILES)


def _fault(folder: Path, wanted: tuple[str, ...] | None) -> str:
    """Why some files can't be used, or those of the manifest."""
    if not (folder / MANIFEST).is_file():
        return "no manifest: the save was cut off"
    try:
        files = _manifest(folder)
    except ValueError:
        return "the manifest is damaged"
    for name in wanted or files:
        if name not in files:
            return f"{name} is not in the manifest"
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_digest(folder / name) != files[name]:
            return f"{name} was changed"
    return ""


def _manifest(folder: Path) -> dict[str, str]:
    """Name → digest.

    Raises:
        ValueError: it isn't a manifest.
    """
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(files, dict) or not files or not all(isinstance(value, str) for value in files.values()):
        raise ValueError("not a manifest")
    return files


def adapters(output: Path) -> list[tuple[int, Path]]:
    """All checkpoints whose adapter verifies, as (step, folder), oldest first; the log names the others."""
    good = []
    for step, folder in reversed(_newest_first(output)):
        if reason := adapter_fault(folder):
            log.warning("skipping %s: %s", folder.name, reason)
        else:
            good.append((step, folder))
    return good


def newest(output: Path) -> tuple[int, Path] | None:
    """The newest checkpoint that can be resumed from; the log names newer ones that can't, and why."""
    return next(_whole(output), None)


def verified(output: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a training that can be resumed from, as (step, folder), oldest first."""
    return sorted(_whole(output))


def _whole(output: Path) -> Iterator[tuple[int, Path]]:
    """Checkpoints that can be resumed from, newest first."""
    for step, folder in _newest_first(output):
        if reason := fault(folder):
            log.log(logging.INFO if reason == PRUNED else logging.WARNING, "skipping %s: %s", folder.name, reason)
        else:
            yield step, folder


def _newest_first(output: Path) -> list[tuple[int, Path]]:
    named = [(_NAME.fullmatch(folder.name), folder) for folder in output.glob("checkpoint-*")]
    return sorted(((int(match[1]), folder) for match, folder in named if match), reverse=True)


def draft_folder(output: Path) -> Path:
    """Where a checkpoint is made."""
    return output / DRAFTS


def is_full(error: BaseException | None, output: Path) -> bool:
    """Whether a failure came from a full disk, or quota; torch and safetensors have no error of their own for that."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    told = any(getattr(cause, "errno", None) in FULL or "no space left" in str(cause).lower() for cause in causes)
    disk = os.statvfs(output)
    return told or (bool(causes) and disk.f_bavail * disk.f_frsize < NO_ROOM)


def sweep(output: Path) -> None:
    """Remove what an unfinished save has left."""
    drafts = draft_folder(output)
    if drafts.exists():
        for path in drafts.iterdir():
            log.info("removing %s: it was not finished", path.name)
        shutil.rmtree(drafts)


def finish(step: int, output: Path) -> None:
    """Seal the checkpoint that was made in the folder of drafts, and give it its name: now it counts."""
    draft, target = (folder / f"checkpoint-{step}" for folder in (draft_folder(output), output))
    seal(draft)
    _remove(target, output)  # one that was damaged, or is being made again
    draft.rename(target)
    _to_disk(output)


def prune(output: Path, is_kept: Callable[[int], bool], whole: int) -> None:
    """Give back the disk that older checkpoints take.

    Of older ones the adapter stays, for the evaluation; those that are not evaluated go.

    Args:
        is_kept: whether the checkpoint of a step is to be evaluated.
        whole: so many of the newest that verify stay as they are. With 2, one is left when the newest is damaged later.
    """
    newest_whole = [step for (step, _), _ in zip(_whole(output), range(whole), strict=False)]
    if len(newest_whole) < whole:
        return
    for step, folder in _newest_first(output):
        if step >= newest_whole[-1]:
            continue
        if is_kept(step):
            _keep_adapter(folder)
        else:
            _remove(folder, output)


def _keep_adapter(folder: Path) -> None:
    """Remove what only a resume needs. Cut off anywhere, the adapter is still good."""
    for path in _files(folder):
        if path.relative_to(folder).as_posix() not in ADAPTER_FILES:
            path.unlink()


def _remove(folder: Path, output: Path) -> None:
    """Remove a checkpoint: at once for everybody who looks, even if this is cut off."""
    if folder.exists():
        grave = draft_folder(output) / f"old-{folder.name}"
        grave.parent.mkdir(exist_ok=True)
        shutil.rmtree(grave, ignore_errors=True)
        folder.rename(grave)
        shutil.rmtree(grave)


def export(step: int, folder: Path, train_key: str, settings: Settings) -> CheckpointRef:
    """Copy a checkpoint's adapter to its content-addressed folder, where evaluation and serving find it."""
    digest = store_adapter(folder, settings)
    return CheckpointRef(train_key=train_key, step=step, adapter_digest=digest)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and MANIFEST not in path.name)


def _to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
