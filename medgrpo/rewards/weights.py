"""The content of a reward's model: when its weights change, a training is another one."""

from functools import lru_cache
from pathlib import Path

from medgrpo.fingerprint import files_digest


def weights_digest(folder: str) -> str:
    """Digest of a model folder's safetensors and JSON files; empty for what is no folder, such as a hub repository."""
    root = Path(folder)
    return _digest(root, _state(root)) if root.is_dir() else ""


def _state(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file: what must differ for the content to be read again."""
    found = (path for pattern in ("*.safetensors", "*.json") for path in root.rglob(pattern))
    return tuple(sorted((str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in found))


@lru_cache(maxsize=32)
def _digest(root: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    return files_digest(root, (name for name, _, _ in state))
