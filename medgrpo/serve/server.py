"""The served process itself: where it listens, when it says that it is ready, how it ends."""

import asyncio
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from threading import Thread

import uvicorn

from medgrpo.errors import ServeError, UserError
from medgrpo.serve.api_keys import API_KEY, ApiKeys
from medgrpo.serve.app import build_app
from medgrpo.serve.guard import Doorman
from medgrpo.serve.process import DRAIN_S, PARENT
from medgrpo.serve.stage import Stage
from medgrpo.settings import Settings

CUT_S = 5
"""How long connections may take to end once the time to drain is over, in seconds."""
TICK_S = 0.05


def run(start: Callable[[], Awaitable[Stage]], host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress and end by that signal.

    Prints one line on standard output once requests are answered: `serving VERSION at http://HOST:PORT`.

    Args:
        start: makes the stage, with a version loaded, in the server's event loop.
        port: 0 takes a free one.

    Raises:
        UserError: the host is not this machine's loopback and no key is set.
        ServeError: the address can't be listened on.
    """
    check_host(host, Settings())
    with listen(host, port) as listener:
        if os.environ.pop(PARENT, ""):
            Thread(target=_end_with_stdin, daemon=True).start()
        asyncio.run(_serve(start, host, listener))


async def _serve(start: Callable[[], Awaitable[Stage]], host: str, listener: socket.socket) -> None:
    stage = await start()
    version = next(iter(stage.versions.served().values())).version
    shown = f"[{host}]" if ":" in host else host
    doorman = Doorman()
    # No log_config: uvicorn's own would put handlers of its own beside the program's.
    config = uvicorn.Config(
        build_app(stage, doorman),
        lifespan="on",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CUT_S,
    )
    ready = f"serving {version} at http://{shown}:{listener.getsockname()[1]}"
    await Server(config, doorman, ready).serve(sockets=[listener])


class Server(uvicorn.Server):
    """A server that says where it is once it answers, and finishes what it has before it stops listening.

    Args:
        doorman: who lets no more requests in at the end.
        ready: the line that says where it is; empty: none is printed.
    """

    def __init__(self, config: uvicorn.Config, doorman: Doorman, ready: str = "") -> None:
        super().__init__(config)
        self._doorman, self._ready = doorman, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started and self._ready:
            print(self._ready, flush=True)

    async def main_loop(self) -> None:
        """Serve until asked to end; then refuse what comes, with a reason, while the rest is answered."""
        await super().main_loop()
        self._doorman.drain()
        deadline = time.monotonic() + DRAIN_S
        while self._doorman.inside and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(TICK_S)


def check_host(host: str, settings: Settings) -> None:
    """Refuse to be reachable from other machines without a key, or with a key file that lets nobody in.

    Raises:
        UserError: the host is not loopback and no key is set, or no key is accepted.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    keys = ApiKeys.of(settings)
    if not keys.required and not loopback:
        raise UserError(
            f"'{host}' is reachable from other machines: make a key with `medgrpo keys add NAME` or set {API_KEY} to a "
            "secret one, or use 127.0.0.1"
        )
    if keys.required and not keys.names:
        raise UserError(f"{settings.key_file} holds no key: make one with `medgrpo keys add NAME`")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: two servers can't both believe that the port is theirs.

    Raises:
        ServeError: the address can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServeError(f"can't listen on {host}:{port} ({reason}): choose another --port, or 0 for any") from error
    # Each connection inherits it. asyncio sets it only on sockets whose protocol was named, which this one's wasn't;
    # without it each short answer waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _end_with_stdin() -> None:
    """Leave nothing running when the parent is killed: its end of the pipe closes then."""
    # os.read: a thread blocked in sys.stdin.buffer would hold its lock, and Python aborts on that at exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
