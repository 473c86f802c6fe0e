"""The served process as a child: start it, wait until it answers, end it with all that it started."""

import logging
import os
import queue
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import IO

from medgrpo.errors import ServeError

log = logging.getLogger(__name__)

PARENT = "MEDGRPO_SERVE_ENDS_WITH_STDIN"
"""Environment variable that `serving` sets: the served process ends when its standard input closes."""
DRAIN_S = 30
"""How long requests in progress may take to finish after SIGTERM, in seconds."""
GRACE_S = DRAIN_S + 10
"""How long a child may take to end after SIGTERM, in seconds."""
LAST_LINES = 15


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600) -> Iterator[str]:
    """Run a served process as a child for as long as the context lasts; gives its URL.

    Args:
        command: `medgrpo serve … --port 0`, or whatever else ends up in `run`.
        env: variables on top of this process's environment.
        timeout_s: how long it may take until it answers, in seconds.

    Raises:
        ServeError: it ended, or did not get ready in time; with the last lines of its standard error.
    """
    with tempfile.TemporaryFile() as errors:
        process = _start(command, env, errors)
        ended = Event()
        news: queue.SimpleQueue[str | ServeError] = queue.SimpleQueue()
        for follow in (_follow_output, _follow_end):
            Thread(target=follow, args=(process, news, ended), daemon=True).start()
        try:
            yield _await_url(news, timeout_s, errors)
        finally:
            _end(process, ended)


def _start(command: Sequence[str], env: Mapping[str, str] | None, errors: IO[bytes]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, **(env or {}), PARENT: "1"},
        )
    except OSError as error:
        raise ServeError(f"can't start {command[0]}: {error.strerror}") from error


def _follow_output(process: subprocess.Popen[str], news: "queue.SimpleQueue[str | ServeError]", ended: Event) -> None:
    """Hand lines on until the output closes. Nothing is left unread: a full pipe would block the child."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            news.put(line)
    if not ended.wait(1):
        news.put(ServeError("the served process closed its output before it was ready"))


def _follow_end(process: subprocess.Popen[str], news: "queue.SimpleQueue[str | ServeError]", ended: Event) -> None:
    """Tell when the child ends. WNOWAIT keeps it a zombie: its number stays ours, and the group can be signalled."""
    end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    ended.set()
    assert end is not None
    cause = "exit code" if end.si_code == os.CLD_EXITED else "signal"
    news.put(ServeError(f"the served process ended with {cause} {end.si_status} before it was ready"))


def _await_url(news: "queue.SimpleQueue[str | ServeError]", timeout_s: float, errors: IO[bytes]) -> str:
    """The URL in the ready line."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            line = news.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            line = ServeError(f"the served process was not ready after {timeout_s:g} s")
        if isinstance(line, ServeError):
            raise ServeError(f"{line}{_tail(errors)}")
        if line.startswith("serving ") and " at http://" in line:
            log.info("%s", line.strip())
            return line.split()[-1]


def _tail(errors: IO[bytes]) -> str:
    # pread leaves the offset alone: the child writes through the same one.
    text = os.pread(errors.fileno(), os.fstat(errors.fileno()).st_size, 0).decode(errors="replace")
    lines = text.strip().splitlines()[-LAST_LINES:]
    return "".join(f"\n  {line}" for line in lines)


def _end(process: subprocess.Popen[str], ended: Event) -> None:
    """End the child and whatever it started, gently first. Only then is it reaped."""
    for kind, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, kind)
        ended.wait(patience)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
