"""The HTTP face of an engine, in OpenAI's shapes: `/v1/chat/completions`, `/v1/models`, `/health`."""

import logging
import time
import uuid
from collections.abc import Mapping
from secrets import compare_digest
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medgrpo import __version__
from medgrpo.answer import parse
from medgrpo.serve.engine import Completion, Engine, RequestRefused, Served

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Longest request body, in bytes."""
MAX_DISCARDED = 16 * MAX_BODY
"""Bytes of a refused body that are read and thrown away, so that the client gets to read the refusal."""


def _text(content: object) -> object:
    """Content given as a list of text parts, as one text."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise ValueError("only text can be answered")
    return "".join(str(part.get("text", "")) for part in content)


def _encodable(content: str) -> str:
    """JSON can escape half of a surrogate pair, which no tokenizer takes."""
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    return content


def _list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class ChatMessage(BaseModel):
    """One turn. A `developer` turn counts as `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text), AfterValidator(_encodable)]

    def turn(self) -> dict[str, str]:
        """The turn as chat templates know it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatRequest(BaseModel):
    """The part of OpenAI's chat completion request that is understood; other keys are ignored, as OpenAI does."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], BeforeValidator(_list)] = Field(
        default=[], max_length=4
    )
    stream: bool = False
    n: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, request: object) -> object:
        return {k: v for k, v in request.items() if v is not None} if isinstance(request, dict) else request

    def limit(self, longest: int) -> int:
        """Tokens that the completion may have.

        Raises:
            RequestRefused: more than `longest`.
        """
        param = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        asked = self.max_completion_tokens or self.max_tokens or longest
        if asked > longest:
            raise RequestRefused(f"a completion may have at most {longest} tokens here", param, "invalid_value")
        return asked


def build_app(engine: Engine, max_completion_tokens: int, api_key: str = "") -> FastAPI:
    """The application that serves an engine.

    Args:
        engine: what answers.
        max_completion_tokens: longest completion that a request may ask for, and the length when it doesn't say.
        api_key: when given, everything but `/health` needs it as a Bearer key.
    """
    app = FastAPI(title="medgrpo", version=__version__)
    served = engine.served
    started = int(time.time())

    # Not async: generation takes a worker thread, and the event loop goes on answering.
    @app.post("/v1/chat/completions")
    def chat_completions(request: ChatRequest) -> JSONResponse:
        if request.model not in (None, served.version, served.name):
            return _error(404, "this model is not served here: see /v1/models", "model", "model_not_found")
        _refuse_unsupported(request)
        chat = served.chat([message.turn() for message in request.messages])
        limit = request.limit(max_completion_tokens)
        begun = time.monotonic()
        answer = engine.complete(chat, limit, request.temperature, request.top_p, request.seed, request.stop)
        log.debug("%d + %d tokens, %.2f s", answer.prompt_tokens, answer.completion_tokens, time.monotonic() - begun)
        return JSONResponse(_body(answer, served), headers={"x-medgrpo-version": served.version})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": served.version, "object": "model", "created": started, "owned_by": "medgrpo"}
        return {"object": "list", "data": [model | {"base": served.base, "run_id": served.run_id}]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": served.version, "base": served.base}

    _answer_errors_in_openai_shape(app)
    app.add_middleware(_Guard, api_key=api_key)
    return app


def _refuse_unsupported(request: ChatRequest) -> None:
    if request.stream:
        raise RequestRefused("streaming is not supported: leave stream out", "stream", "unsupported_value")
    if request.n > 1:
        raise RequestRefused("one completion per request is supported: leave n out", "n", "unsupported_value")


def _body(completion: Completion, served: Served) -> dict[str, Any]:
    """OpenAI's chat completion, and beside it what this answer is and where it comes from."""
    parsed = parse(completion.text)
    message = {"role": "assistant", "content": completion.text}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": served.version,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
        "medgrpo": {
            "version": served.version,
            "run_id": served.run_id,
            "dataset_digest": served.dataset_digest,
            "reasoning": parsed.reasoning,
            "answer": parsed.answer,
            "strict": parsed.is_strict,
        },
    }


def _error(
    status: int, message: str, param: str | None, code: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers)


def _answer_errors_in_openai_shape(app: FastAPI) -> None:
    """Nothing of what was sent goes into an error: it may be about a patient."""

    @app.exception_handler(RequestRefused)
    async def refused(_: Request, error: RequestRefused) -> JSONResponse:
        return _error(400, str(error), error.param, error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        if fault["type"] == "json_invalid":
            return _error(400, "the body is not valid JSON", None, "invalid_json")
        where = ".".join(str(part) for part in fault["loc"][1:])
        if not where:
            return _error(400, "send a JSON object, with content-type: application/json", None, "invalid_json")
        return _error(400, f"{where}: {fault['msg']}", where, fault["type"])

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), None, None, error.headers)


class _Guard:
    """Refuses a request before anything reads it: without the key, or too large. Answers when the rest fails."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode() if api_key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            return await self._app(scope, receive, send)
        if self._expected and not compare_digest(_given_key(scope), self._expected):
            wanted = {"www-authenticate": "Bearer"}
            refusal = _error(401, "a valid Bearer key is needed", None, "invalid_api_key", wanted)
            return await refusal(scope, receive, send)
        body = await _read_body(receive)
        if body is None:
            refusal = _error(413, f"a request may have at most {MAX_BODY} bytes", None, "request_too_large")
            return await refusal(scope, receive, send)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        try:
            await self._app(scope, replay, send)
        except Exception:
            # Left to rise, uvicorn would close the connection under the client's next request.
            log.exception("a request failed")
            failure = _error(500, "the server failed; its log says why", None, "internal_error")
            await failure(scope, receive, send)


def _given_key(scope: Scope) -> bytes:
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return f"{scheme.capitalize()} {key.strip()}".encode("latin-1")


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
