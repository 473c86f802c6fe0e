"""The HTTP face of a served stage, in OpenAI's shapes."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from medgrpo import __version__
from medgrpo.errors import ServeError
from medgrpo.serve.answering import Answerer, Completing, TimeUp, UnknownModel
from medgrpo.serve.chat import (
    Answer,
    ChatCompletion,
    ChatRequest,
    Choice,
    ErrorBody,
    Provenance,
    Text,
    Usage,
    chunk,
    error_body,
)
from medgrpo.serve.engine import RequestRefused
from medgrpo.serve.feedback import LONGEST_COMMENT, Notes, Thumb, compare
from medgrpo.serve.guard import VERSION_HEADER, Doorman, Guard
from medgrpo.serve.limits import Queue, QueueFull
from medgrpo.serve.lineage import DISCLAIMER, Lineage
from medgrpo.serve.metrics import Metrics
from medgrpo.serve.page import mount_page
from medgrpo.serve.stage import Stage

log = logging.getLogger(__name__)

ENGINE_RETRY_S = 5
"""When a client is told to come back while the engine can't answer, in seconds."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request can't be answered as it is.",
        401: "No valid key.",
        403: "Without keys: asked under a name that isn't local.",
        404: "Not here.",
        408: "The body took too long.",
        413: "The body is too large.",
        429: "Too many requests wait: come back after `retry-after` seconds.",
        500: "The server failed.",
        503: "The engine can't answer now, or the server is about to end.",
        504: "The request took longer than it may.",
    }.items()
}


class FeedbackRequest(BaseModel):
    """A thumb about a completion of this server."""

    id: str = Field(max_length=100)
    """The completion's id."""
    thumb: Thumb
    comment: Text = Field(default="", max_length=LONGEST_COMMENT)
    """Stored masked for patient data."""


async def _closing() -> AsyncIterator[AsyncExitStack]:
    """What a request holds, given back once its answer is sent, has failed, or was cancelled."""
    async with AsyncExitStack() as stack:
        yield stack


Closing = Annotated[AsyncExitStack, Depends(_closing)]


def build_app(stage: Stage, doorman: Doorman | None = None) -> FastAPI:
    """The application that serves a stage.

    Args:
        doorman: who is told that the server is about to end.
    """
    doorman = doorman or Doorman()
    queue = Queue(stage.settings.max_running, stage.settings.max_waiting)
    metrics = Metrics(stage.engine, stage.versions, queue)
    notes, lineage = Notes(stage.settings), Lineage(stage.settings)
    answerer = Answerer(stage, queue, metrics, notes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await answerer.close()
        await stage.close()

    app = FastAPI(title="medgrpo", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_completions(app, answerer)
    _add_versions(app, stage, lineage)
    _add_feedback(app, notes, metrics)
    _add_state(app, stage, metrics, doorman)
    mount_page(app)
    _answer_errors_in_openai_shape(app, stage)
    _describe(app)
    mount_page(app)
    app.add_middleware(Guard, keys=stage.keys, doorman=doorman, metrics=metrics)
    return app


def _add_completions(app: FastAPI, answerer: Answerer) -> None:
    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=REFUSALS)
    async def chat_completions(request: ChatRequest, stack: Closing) -> Response:
        """Complete a chat; with `stream`, as server-sent events in OpenAI's shape."""
        completing = await answerer.begin(request, stack)
        served = completing.served
        headers = {
            VERSION_HEADER: served.version,
            "x-medgrpo-run": served.run_id,
            "x-medgrpo-dataset": served.dataset_digest,
        }
        if request.stream:
            events = _events(completing, request.stream_options.include_usage)
            more = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers | more)
        async for _ in completing.pieces():
            pass
        return JSONResponse(_whole(completing).model_dump(), headers=headers)


def _whole(completing: Completing) -> ChatCompletion:
    last = completing.last
    assert last.finish_reason is not None
    return ChatCompletion(
        id=completing.id,
        created=completing.created,
        model=completing.served.version,
        choices=[Choice(message=Answer(content=completing.text), finish_reason=last.finish_reason)],
        usage=Usage.of(last.prompt_tokens, last.completion_tokens),
        medgrpo=Provenance.of(completing.text, completing.served),
    )


async def _events(completing: Completing, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of a completion. A failure is the last of them: the status was sent long before."""
    head = {"id": completing.id, "created": completing.created, "model": completing.served.version}
    no_usage = {"usage": None} if include_usage else {}
    try:
        yield _event(chunk(head, {"role": "assistant", "content": ""}, **no_usage))
        async for piece in completing.pieces():
            if piece.text:
                yield _event(chunk(head, {"content": piece.text}, **no_usage))
        last = completing.last
        told = Provenance.of(completing.text, completing.served).model_dump()
        yield _event(chunk(head, {}, last.finish_reason, medgrpo=told, **no_usage))
        if include_usage:
            usage = Usage.of(last.prompt_tokens, last.completion_tokens).model_dump()
            yield _event(chunk(head, None, usage=usage, medgrpo=told))
        yield "data: [DONE]\n\n"
    except TimeUp as error:
        yield _event(error_body(504, str(error), None, "timeout"))
    except Exception:
        log.exception("a completion failed after its first piece")
        yield _event(error_body(500, "the server failed; its log says why", None, "internal_error"))


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _add_versions(app: FastAPI, stage: Stage, lineage: Lineage) -> None:
    started = int(time.time())

    @app.get("/v1/models", responses=REFUSALS)
    async def models() -> dict[str, Any]:
        """What is loaded, in OpenAI's shape."""
        listed: dict[str, dict[str, Any]] = {}
        for role, served in stage.versions.served().items():
            model = {"id": served.version, "object": "model", "created": started, "owned_by": "medgrpo"}
            more = {"base": served.base, "run_id": served.run_id, "dataset_digest": served.dataset_digest}
            listed.setdefault(served.version, {**model, **more, "roles": []})["roles"].append(role)
        return {"object": "list", "data": list(listed.values())}

    @app.get("/v1/versions", responses=REFUSALS)
    async def versions() -> dict[str, Any]:
        """Role → what is loaded, and each version's figures: requests, thumbs, how often it follows the grammar."""
        loaded = {role: served.version for role, served in stage.versions.served().items()}
        figures = [entry.model_dump() for entry in compare(stage.settings)]
        return {"loaded": loaded, "problem": stage.versions.problem, "figures": figures}

    @app.post("/v1/versions/refresh", status_code=202, responses=REFUSALS)
    async def refresh() -> dict[str, str]:
        """Look at the registry now, as after a promotion. The answer doesn't wait for it: see `/v1/versions`."""
        stage.nudge()
        return {"status": "looking"}

    @app.get("/v1/versions/{role}", responses=REFUSALS)
    async def version(role: str) -> dict[str, Any]:
        """Where a version comes from: run, data, base, config, the gate's decision. `current`: what answers."""
        loaded = stage.versions.served()
        role = next(iter(loaded), role) if role == "current" else role
        if role not in loaded:
            raise HTTPException(404, "no version is loaded in this role: see /v1/versions")
        return await lineage.of(role, loaded[role])


def _add_feedback(app: FastAPI, notes: Notes, metrics: Metrics) -> None:
    @app.post("/v1/feedback", responses=REFUSALS)
    async def feedback(request: FeedbackRequest) -> dict[str, str]:
        """Store a thumb about a completion that this server gave; a later one replaces it."""
        if notes.version_of(request.id) is None:
            raise HTTPException(404, "this server gave no such completion, or too long ago")
        given = notes.rate(request.id, request.thumb, request.comment)
        metrics.feedback.labels(given.version, given.thumb).inc()
        return {"id": given.id, "version": given.version, "thumb": given.thumb}


def _add_state(app: FastAPI, stage: Stage, metrics: Metrics, doorman: Doorman) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Alive, and what answers; `problem` says why the newest promotion isn't followed."""
        served = next(iter(stage.versions.served().values()), None)
        version, base = (served.version, served.base) if served else ("", "")
        return {"status": "ok", "version": version, "base": base, "problem": stage.versions.problem}

    @app.get("/ready", responses={503: {"description": "Not ready, and why.", "model": dict[str, str]}})
    async def ready() -> JSONResponse:
        """Whether a request would be answered now."""
        why = "the server is about to end" if doorman.draining else stage.engine.fault()
        why = why or ("" if stage.versions.served() else "no version is loaded")
        return JSONResponse({"status": "not ready", "reason": why} if why else {"status": "ready"}, 503 if why else 200)

    @app.get("/metrics", response_class=Response, responses=REFUSALS | {200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _error(
    status: int, message: str, param: str | None, code: str | None, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(status, message, param, code), status, headers)


def _answer_errors_in_openai_shape(app: FastAPI, stage: Stage) -> None:
    """Nothing of what was sent goes into an error: it may be about a patient."""

    @app.exception_handler(RequestRefused)
    async def refused(_: Request, error: RequestRefused) -> JSONResponse:
        return _error(400, str(error), error.param, error.code)

    @app.exception_handler(UnknownModel)
    async def unknown(_: Request, error: UnknownModel) -> JSONResponse:
        return _error(404, str(error), "model", "model_not_found")

    @app.exception_handler(QueueFull)
    async def full(_: Request, error: QueueFull) -> JSONResponse:
        return _error(429, str(error), None, "queue_full", {"retry-after": str(error.retry_after)})

    @app.exception_handler(TimeUp)
    async def time_up(_: Request, error: TimeUp) -> JSONResponse:
        return _error(504, str(error), None, "timeout")

    @app.exception_handler(ServeError)
    async def failed(_: Request, error: ServeError) -> JSONResponse:
        log.error("%s", error)
        if stage.engine.fault():
            retry = {"retry-after": str(ENGINE_RETRY_S)}
            return _error(503, "the engine can't answer now; /ready says why", None, "engine_fault", retry)
        return _error(500, "the engine failed; the server's log says why", None, "engine_error")

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
        return _error(error.status_code, str(error.detail), None, None, dict(error.headers or {}))


def _describe(app: FastAPI) -> None:
    """The OpenAPI schema, without FastAPI's own shape and status of an invalid request, which is never sent here."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=DISCLAIMER, routes=app.routes)
            for operations in found["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]
