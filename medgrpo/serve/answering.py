"""One completion from its request to its end: its turn, its version, its pieces in time, and what is noted of it."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from medgrpo.answer import parse
from medgrpo.data.patient_data import mask
from medgrpo.errors import MedgrpoError, ServeError
from medgrpo.serve.chat import ChatRequest
from medgrpo.serve.engine import Decoding, Loaded, Piece, Served
from medgrpo.serve.feedback import Notes, RequestFigures, now
from medgrpo.serve.limits import Queue
from medgrpo.serve.metrics import Metrics
from medgrpo.serve.request_traces import RequestTraces
from medgrpo.serve.stage import Stage

log = logging.getLogger(__name__)

CHALLENGER = "challenger"


class UnknownModel(MedgrpoError):
    """The request names a version that isn't loaded."""


class TimeUp(MedgrpoError):
    """A request took longer than it may."""


class Completing:
    """A completion in progress. Its first piece is there: what goes wrong before is raised by `Answerer.begin`."""

    def __init__(
        self, loaded: Loaded, turns: list[dict[str, str]], decoding: Decoding, deadline: float, begun: float
    ) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.begun_ns = time.time_ns() - int((time.monotonic() - begun) * 1e9)
        self.created = int(time.time())
        self.loaded, self.turns, self.decoding = loaded, turns, decoding
        self.text = ""
        self.last = Piece("", 0, 0)
        self.cause = "client left"
        """Why it ended early, unless it ends well."""
        self.first_s = 0.0
        self.seconds = 0.0
        self._begun, self._deadline = begun, deadline
        self._pieces = loaded.stream(loaded.served.chat(turns), decoding)
        self._first: Piece | None = None

    @property
    def served(self) -> Served:
        """What answers."""
        return self.loaded.served

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end."""
        return self.last.finish_reason is not None

    async def start(self) -> None:
        """Wait for the first piece."""
        self._first = await self._next()
        self.first_s = time.monotonic() - self._begun

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces to the last one.

        Raises:
            TimeUp: they took too long.
            ServeError: the engine failed, or ended without a last piece.
        """
        piece = self._first
        while piece is not None:
            self.text += piece.text
            self.last = piece
            yield piece
            piece = None if self.is_whole else await self._next()
        if not self.is_whole:
            self.cause = "failed"
            raise ServeError("the engine ended a completion without saying why")

    async def close(self) -> None:
        """Cancel the generation, unless it has ended."""
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()
        self.seconds = time.monotonic() - self._begun

    async def _next(self) -> Piece | None:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._pieces, None)
        except TimeoutError:
            self.cause = "time up"
            raise TimeUp("the request took longer than it may") from None
        except Exception:
            self.cause = "failed"
            raise


class Answerer:
    """Begins completions, and notes how they ended."""

    def __init__(self, stage: Stage, queue: Queue, metrics: Metrics, notes: Notes) -> None:
        self._stage, self._queue, self._metrics, self._notes = stage, queue, metrics, notes
        self._traces = RequestTraces(stage.settings)
        self._shadows: set[asyncio.Task[None]] = set()

    async def begin(self, request: ChatRequest, stack: AsyncExitStack) -> Completing:
        """Wait for a turn and the first piece. All that is held meanwhile is given back when `stack` ends.

        Raises:
            RequestRefused: it can't be answered as asked.
            UnknownModel: it names a version that isn't loaded.
            QueueFull: too many wait.
            TimeUp: the first piece took too long.
            ServeError: the engine failed.
        """
        begun = time.monotonic()
        decoding, turns = request.decoding(self._stage.limits), request.turns(self._stage.limits)
        # Chosen before it waits: whoever asks for what isn't here is told at once.
        try:
            loaded = stack.enter_context(self._stage.versions.choose(request.model))
        except LookupError:
            raise UnknownModel("this model is not served here: see /v1/models") from None
        completing = await self._begin(loaded, turns, decoding, stack, begun)
        self._notes.remember(completing.id, completing.served.version)
        return completing

    async def _begin(
        self, loaded: Loaded, turns: list[dict[str, str]], decoding: Decoding, stack: AsyncExitStack, begun: float
    ) -> Completing:
        deadline = asyncio.get_running_loop().time() + self._stage.settings.request_timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await stack.enter_async_context(self._queue.turn())
        except TimeoutError:
            raise TimeUp("the request waited longer than it may") from None
        completing = Completing(loaded, turns, decoding, deadline, begun)
        stack.push_async_callback(self._end, completing)
        await completing.start()
        return completing

    async def _end(self, completing: Completing) -> None:
        await completing.close()
        self._count(completing)
        if completing.is_whole:
            self._note(completing, shadow=False)
            self._log(completing)
            self._traces.offer(completing)
            self._shadow(completing)

    def _count(self, completing: Completing) -> None:
        version, metrics = completing.served.version, self._metrics
        metrics.prompt_tokens.labels(version).inc(completing.last.prompt_tokens)
        metrics.completion_tokens.labels(version).inc(completing.last.completion_tokens)
        if completing.first_s:
            metrics.first_token.labels(version).observe(completing.first_s)
        if completing.is_whole:
            metrics.duration.labels(version).observe(completing.seconds)
        else:
            metrics.unfinished.labels(version, completing.cause).inc()

    def _log(self, completing: Completing) -> None:
        last = completing.last
        log.debug("%d + %d tokens, %.2f s", last.prompt_tokens, last.completion_tokens, completing.seconds)
        if self._stage.settings.log_completions:
            asked = mask(completing.turns[-1]["content"])
            log.info("%s %s: %r → %r", completing.served.version, completing.id, asked, mask(completing.text))

    def _note(self, completing: Completing, shadow: bool) -> None:
        """For comparing versions, where there is something to compare."""
        settings = self._stage.settings
        if not (settings.shadow or settings.challenger_share):
            return
        figures: dict[str, Any] = {"first_s": round(completing.first_s, 4), "seconds": round(completing.seconds, 4)}
        self._notes.record(
            RequestFigures(
                id=completing.id,
                version=completing.served.version,
                shadow=shadow,
                prompt_tokens=completing.last.prompt_tokens,
                completion_tokens=completing.last.completion_tokens,
                strict=parse(completing.text).is_strict,
                at=now(),
                **figures,
            )
        )

    def _shadow(self, completing: Completing) -> None:
        """Let the challenger answer the same, where it doesn't take a turn from anybody."""
        versions = self._stage.versions
        roles = versions.served()
        champion, challenger = roles.get("champion"), roles.get(CHALLENGER)
        if not self._stage.settings.shadow or challenger is None or challenger == champion or not self._queue.idle:
            return
        if completing.served != champion or len(self._shadows) >= self._stage.settings.max_running:
            return
        task = asyncio.create_task(self._complete_shadow(completing))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _complete_shadow(self, of: Completing) -> None:
        try:
            async with AsyncExitStack() as stack:
                loaded = stack.enter_context(self._stage.versions.choose(CHALLENGER))
                await stack.enter_async_context(self._queue.turn())
                deadline = asyncio.get_running_loop().time() + self._stage.settings.request_timeout_s
                shadow = Completing(loaded, of.turns, of.decoding, deadline, time.monotonic())
                shadow.id = of.id
                stack.push_async_callback(shadow.close)
                await shadow.start()
                async for _ in shadow.pieces():
                    pass
                await shadow.close()
                self._note(shadow, shadow=True)
        except Exception as error:
            log.warning("the challenger failed to answer beside the champion: %s", type(error).__name__)

    async def close(self) -> None:
        """Stop what is made for comparison alone, and send the last traces."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await asyncio.to_thread(self._traces.close)
