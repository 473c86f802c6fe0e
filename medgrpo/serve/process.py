"""The served process: run it, start it as a child, ask it. Imports no torch, so that a client stays light."""

import ipaddress
import logging
import os
import queue
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any

import httpx
import uvicorn

from medgrpo.errors import ServeError, UserError
from medgrpo.types import ServedAnswer

if TYPE_CHECKING:
    from medgrpo.serve.engine import Engine

log = logging.getLogger(__name__)

API_KEY = "MEDGRPO_API_KEY"
"""Environment variable with the Bearer key: the server asks for it, `ask` sends it."""
PARENT = "MEDGRPO_SERVE_ENDS_WITH_STDIN"
"""Environment variable that `serving` sets: the served process ends when its standard input closes."""
DRAIN_S = 30
"""How long requests in progress may take to finish after SIGTERM, in seconds."""
GRACE_S = DRAIN_S + 10
"""How long a child may take to end after SIGTERM, in seconds."""
LAST_LINES = 15


def run(engine: "Engine", host: str = "127.0.0.1", port: int = 8000, max_completion_tokens: int = 256) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress and end by that signal.

    Prints one line on standard output once requests are answered: `serving VERSION at http://HOST:PORT`.

    Args:
        port: 0 takes a free one.
        max_completion_tokens: longest completion that a request may ask for.

    Raises:
        UserError: the host is not this machine's loopback and no key is set.
        ServeError: the address can't be listened on.
    """
    from medgrpo.serve.app import build_app

    check_host(host)
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        ready = f"serving {engine.served.version} at http://{shown}:{listener.getsockname()[1]}"
        app = build_app(engine, max_completion_tokens, _api_key())
        # No log_config: uvicorn's own would put handlers of its own beside the program's.
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        if os.environ.pop(PARENT, ""):
            Thread(target=_end_with_stdin, daemon=True).start()
        _Server(config, ready).run(sockets=[listener])


def check_host(host: str) -> None:
    """Refuse to be reachable from other machines without a key.

    Raises:
        UserError: the host is not loopback and the key isn't set.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not _api_key():
        raise UserError(f"'{host}' is reachable from other machines: set {API_KEY} to a secret key, or use 127.0.0.1")


def ask(url: str, question: str, timeout_s: float = 120) -> ServedAnswer:
    """Ask the served stage one question, greedily, under the version's own system prompt.

    Args:
        url: where it is, `http://127.0.0.1:8000`.

    Raises:
        ServeError: it can't be reached, refuses, or answers in another shape.
    """
    key = _api_key()
    request = {"messages": [{"role": "user", "content": question}]}
    try:
        # trust_env: a proxy in the environment has no way to this machine's loopback.
        response = httpx.post(
            f"{url.rstrip('/')}/v1/chat/completions",
            json=request,
            headers={b"authorization": f"Bearer {key}".encode()} if key else {},
            timeout=timeout_s,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServeError(f"no answer from {url} ({type(error).__name__}): is `medgrpo serve` running there?") from error
    return _read_answer(url, question, response)


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


class _Server(uvicorn.Server):
    """A server that says where it is once it answers."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._ready, flush=True)


def _api_key() -> str:
    return os.environ.get(API_KEY, "").strip()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: two servers can't both believe that the port is theirs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServeError(f"can't listen on {host}:{port} ({reason}): choose another --port, or 0 for any") from error


def _end_with_stdin() -> None:
    """Leave nothing running when the parent is killed: its end of the pipe closes then."""
    # os.read: a thread blocked in sys.stdin.buffer would hold its lock, and Python aborts on that at exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _read_answer(url: str, question: str, response: httpx.Response) -> ServedAnswer:
    try:
        body: Any = response.json()
        if response.is_error:
            raise ServeError(f"{url} refused ({response.status_code}): {body['error']['message']}")
        return ServedAnswer(
            question=question,
            completion=body["choices"][0]["message"]["content"],
            answer=body["medgrpo"]["answer"],
            version=body["medgrpo"]["version"],
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ServeError(f"{url} is no medgrpo server: status {response.status_code}, in another shape") from error


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
