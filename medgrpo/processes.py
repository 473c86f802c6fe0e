"""Processes that we start end with us, and those that work say so.

`python -m medgrpo.processes COMMAND…` runs a command that ends when its standard input closes.
"""

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, Any
from uuid import uuid4

from medgrpo.settings import Settings

GRACE_S = 10
"""How long a command may take to end after whoever started it is gone, in seconds."""
STARTED_BY = "MEDGRPO_STARTED_BY"
"""Environment variable of a process that we start: the file that its starter holds."""

_held: dict[Path, IO[str]] = {}
_lock = Lock()
_own = uuid4().hex


def end_group(process: "subprocess.Popen[Any]", grace_s: float) -> None:
    """End the process and its children: SIGTERM, and SIGKILL for what is left after `grace_s` seconds."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tied(command: list[str]) -> list[str]:
    """The command as one that ends when its standard input closes, so with its starter, however that dies.

    Start it with `stdin=subprocess.PIPE`, in a session of its own.
    """
    return [sys.executable, "-m", "medgrpo.processes", *command]


def hold(name: str, settings: Settings) -> Path:
    """Say that this process works on something (a flow run, an MLflow run), until it ends.

    A lock on a file tells: the kernel lets go of it however the process dies, also with the machine, and no number of
    a process is taken for another's. Several processes may hold one name.
    """
    path = held_file(name, settings)
    with _lock:
        if path not in _held:
            path.parent.mkdir(exist_ok=True)
            handle = path.open("a")
            os.utime(path)
            fcntl.flock(handle, fcntl.LOCK_SH)
            _held[path] = handle
    return path


def held_file(name: str, settings: Settings) -> Path:
    """The file of what is worked on."""
    return settings.root / "alive" / name


def is_held(path: Path) -> bool | None:
    """Whether a living process holds a file's lock; None: there is no such file."""
    try:
        with path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


def is_held_elsewhere(name: str, settings: Settings) -> bool:
    """Whether another living process than this one works on something."""
    path = held_file(name, settings)
    return path not in _held and is_held(path) is True


def started_by(settings: Settings) -> dict[str, str]:
    """The environment that tells a child who started it: then an orphan can be known as one."""
    return {STARTED_BY: str(hold(f"process-{_own}", settings))}


def main() -> int:
    """Run the command in our arguments; its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # our whole group gets it; we end after the command
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    orphaned = Event()
    Thread(target=_end_with_stdin, args=(child, orphaned), daemon=True).start()
    code = child.wait()
    if orphaned.is_set():  # nobody else is left to end what the command started
        os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code  # as shells say which signal it was


def _end_with_stdin(child: "subprocess.Popen[Any]", orphaned: Event) -> None:
    while os.read(0, 4096):
        pass
    orphaned.set()
    with suppress(ProcessLookupError):
        os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
