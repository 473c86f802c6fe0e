"""What stands before the routes: keys, the size limit, draining, clients that left, an answer when the rest fails."""

import asyncio
import base64
import binascii
import ipaddress
import logging
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medgrpo.serve.api_keys import ApiKeys
from medgrpo.serve.chat import error_body
from medgrpo.serve.metrics import CLIENT_GONE, Metrics

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Longest request body, in bytes."""
MAX_DISCARDED = 16 * MAX_BODY
"""Bytes of a refused body that are read and thrown away, so that the client gets to read the refusal."""
BODY_S = 60
"""How long a body may take to come, in seconds."""
OPEN = ("/health", "/ready")
"""Paths that need no key, and answer to the end."""
DRAIN_RETRY_S = 10
"""When a client that is refused at the end is told to come back, in seconds."""
VERSION_HEADER = "x-medgrpo-version"


class Doorman:
    """Knows how many requests are inside, and whether more are let in."""

    def __init__(self) -> None:
        self.draining = False
        self.inside = 0

    def drain(self) -> None:
        """Let no more in: the server is about to end."""
        self.draining = True


class Guard:
    """Refuses a request before anything reads it. Cancels it when its client leaves."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, doorman: Doorman, metrics: Metrics) -> None:
        self._app, self._keys, self._doorman, self._metrics = app, keys, doorman, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection, as ASGI calls it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        told = _Told(send)
        try:
            await self._answer(scope, receive, told)
        finally:
            # A template of ours, never the path that was sent: each label value lives as long as the server.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, told.status, told.version).inc()

    async def _answer(self, scope: Scope, receive: Receive, told: "_Told") -> None:
        is_open = scope["path"] in OPEN
        refusal = None if is_open else self._refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, told)
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read_body(receive)
        except TimeoutError:
            return await refuse(408, "the request's body took too long", "body_timeout")(scope, receive, told)
        if body is None:
            refusal = refuse(413, f"a request may have at most {MAX_BODY} bytes", "request_too_large")
            return await refusal(scope, receive, told)
        self._doorman.inside += not is_open
        try:
            await _answer_while_there(self._app, scope, body, receive, told)
        except Exception:
            log.exception("a request failed")
            if told.begun:  # nothing can be said any more; uvicorn closes the connection
                raise
            # Left to rise, uvicorn would close the connection under the client's next request.
            failure = refuse(500, "the server failed; its log says why", "internal_error")
            await failure(scope, receive, told)
        finally:
            self._doorman.inside -= not is_open

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self._keys.required:
            if self._keys.name_of(_given_key(headers)) is None:
                # A browser that is shown Basic asks its user: the page works with a key for a password.
                browser = "text/html" in headers.get("accept", "")
                wanted = 'Basic realm="medgrpo: any name, a key for the password"' if browser else "Bearer"
                return refuse(401, "a valid Bearer key is needed", "invalid_api_key", {"www-authenticate": wanted})
        elif not _is_local(headers.get("host", "")):
            # A web page elsewhere can make its own name point to this machine, and ask in its visitor's browser.
            return refuse(403, "without keys this is answered under a local address alone", "host_not_allowed")
        if self._doorman.draining:
            return refuse(503, "the server is about to end", "draining", {"retry-after": str(DRAIN_RETRY_S)})
        return None


def refuse(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in OpenAI's shape."""
    return JSONResponse(error_body(status, message, None, code), status, headers)


class _Told:
    """What the client was told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.status = str(CLIENT_GONE)
        self.version = ""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = str(message["status"])
            self.version = Headers(raw=list(message["headers"])).get(VERSION_HEADER, "")
        await self._send(message)


async def _answer_while_there(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body that was read; cancelled when the client leaves."""
    gone = asyncio.Event()
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if pending:
            return pending.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, watcher = asyncio.ensure_future(app(scope, replay, send)), asyncio.ensure_future(watch())
    try:
        await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            gone.set()
            work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    finally:
        watcher.cancel()
        work.cancel()


def _given_key(headers: Headers) -> bytes:
    """The key in a request: of a Bearer header, or the password of a Basic one."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("latin-1")
    if scheme.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    return b""


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine by an address or as localhost: no name that others control."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _read_body(receive: Receive) -> bytes | None:
    """The request's body, or None when it is too large. Counted as it comes: a length that is announced may lie."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more and size <= MAX_DISCARDED:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts) if size <= MAX_BODY else None
