"""API keys: a file with a name and a hash per line, read again when it changes: keys rotate without a restart."""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import compare_digest

from medgrpo.errors import UserError
from medgrpo.settings import Settings

log = logging.getLogger(__name__)

API_KEY = "MEDGRPO_API_KEY"
"""Environment variable with one Bearer key: the server takes it beside those of the file, `ask` sends it."""
ENVIRONMENT = f"({API_KEY})"
"""Name of the key from the environment; no key of the file can have it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE = re.compile(rf"({_NAME.pattern})\s+sha256:([0-9a-f]{{64}})")
ABOUT = "# Keys of the served stage: name, hash. Change it with `medgrpo keys`; no restart is needed.\n"


def key_from_environment() -> str:
    """The single key of the environment; empty: none."""
    return os.environ.get(API_KEY, "").strip()


def hash_of(key: bytes) -> str:
    """A key's hash, as the file holds it.

    Plain SHA-256 is right here, and a slow password hash is not: a key has 256 random bits, so that nobody can guess
    one from its hash, and each request would pay for the slowness.
    """
    return hashlib.sha256(key).hexdigest()


class ApiKeys:
    """The keys that are accepted now.

    Args:
        path: the keys' file; it need not exist yet.
        single: a key beside those of the file; empty: none.
        required: whether a key is needed while the file is not there.
    """

    def __init__(self, path: Path, single: str = "", required: bool = False) -> None:
        self._path = path
        self._single = hash_of(single.encode()) if single else ""
        self._required = required or bool(single)
        self._seen: object = None
        self._hashes: dict[str, str] = {}
        self._refresh()

    @classmethod
    def of(cls, settings: Settings) -> "ApiKeys":
        """The keys that the environment names."""
        return cls(settings.key_file, key_from_environment(), required=bool(settings.api_keys))

    @property
    def required(self) -> bool:
        """Whether a request needs a key. Once it does, a file that vanishes doesn't open the door."""
        self._refresh()
        return self._required

    @property
    def names(self) -> list[str]:
        """Names of the keys that are accepted now."""
        self._refresh()
        return [*self._hashes, *([ENVIRONMENT] if self._single else [])]

    def name_of(self, key: bytes) -> str | None:
        """Name of a key that is accepted now; None: it isn't."""
        self._refresh()
        given, found = hash_of(key), None
        for name, known in (*self._hashes.items(), (ENVIRONMENT, self._single)):
            if compare_digest(given, known):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            state = self._path.stat()
        except OSError:
            self._hashes, self._seen = {}, None
            return
        # The commands below replace the file, which changes its inode even within one tick of the clock.
        seen = (state.st_ino, state.st_mtime_ns, state.st_size)
        if seen == self._seen:
            return
        self._required = True
        self._hashes = {}
        with suppress(OSError):
            self._hashes, self._seen = _read(self._path), seen


def _read(path: Path) -> dict[str, str]:
    """Name → hash. A line that is no key is left out, and its number logged."""
    keys: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match:
            keys[match[1]] = match[2]
        elif line.strip() and not line.lstrip().startswith("#"):
            log.warning("%s, line %d: not a name and a hash; left out", path, number)
    return keys


def add(name: str, settings: Settings) -> str:
    """Make a key, store its hash, and give the key: it can't be read again.

    Raises:
        UserError: the name is taken, or no name.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' can't name a key: up to 64 letters, digits and . _ @ -, a letter or digit first")
    key = f"mg-{secrets.token_urlsafe(32)}"
    with _changing(settings.key_file) as keys:
        if name in keys:
            raise UserError(f"there is a key '{name}' already: revoke it first, or take another name")
        keys[name] = hash_of(key.encode())
    return key


def revoke(name: str, settings: Settings) -> None:
    """Take a key away: requests with it are refused from now on.

    Raises:
        UserError: there is no such key.
    """
    with _changing(settings.key_file) as keys:
        if keys.pop(name, None) is None:
            raise UserError(f"there is no key '{name}' in {settings.key_file}: see `medgrpo keys list`")


def names(settings: Settings) -> list[str]:
    """Names of the keys in the file."""
    return sorted(_read(settings.key_file)) if settings.key_file.exists() else []


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, str]]:
    """The file's keys, to change; written back at once and readable by the user alone, unless the change fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = _read(path) if path.exists() else {}
            yield keys
            text = ABOUT + "".join(f"{name} sha256:{digest}\n" for name, digest in keys.items())
            _replace(path, text)
    except OSError as error:
        raise UserError(f"can't change the keys in {path}: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    # mkstemp's file has mode 0600 from its first moment.
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(new).replace(path)
    except OSError:
        Path(new).unlink(missing_ok=True)
        raise
