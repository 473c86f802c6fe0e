"""A share of the requests as MLflow traces, sent by a thread of its own: MLflow may be slow, or down for minutes."""

import logging
import random
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING

from medgrpo.answer import parse
from medgrpo.data.patient_data import mask
from medgrpo.settings import Settings
from medgrpo.traces import RequestTrace, log_request

if TYPE_CHECKING:
    from medgrpo.serve.answering import Completing

log = logging.getLogger(__name__)

WAITING = 100
"""Requests whose traces may wait to be sent; while MLflow is down, further ones get none."""
LOOK_S = 0.2
"""How often the thread looks whether the server ends, in seconds."""
LAST_S = 5.0
"""How long the end of the server waits for those that are not sent yet, in seconds."""


class RequestTraces:
    """Sends the traces of some of the requests. Only versions of the registry have a place for them."""

    def __init__(self, settings: Settings) -> None:
        """Start the thread, where any share is to be traced."""
        self._settings = settings
        self._draw = random.Random().random
        self._waiting: Queue[RequestTrace] = Queue(WAITING)
        self._ending = Event()
        self._thread = Thread(target=self._send_all, name="request traces", daemon=True)
        if settings.trace_share:
            self._thread.start()

    def offer(self, completing: "Completing") -> None:
        """Trace this completion, if it is one of the share; never waits."""
        if not completing.served.run_id or self._draw() >= self._settings.trace_share:
            return
        try:
            self._waiting.put_nowait(_trace(completing))
        except Full:
            log.warning("%d traces of requests wait for MLflow: this one is left out", WAITING)

    def close(self) -> None:
        """Send what waits, for some seconds at most. Blocks."""
        self._ending.set()
        if self._settings.trace_share:
            self._thread.join(LAST_S)

    def _send_all(self) -> None:
        while True:
            try:
                trace = self._waiting.get(timeout=LOOK_S)
            except Empty:
                if self._ending.is_set():
                    return
                continue
            try:
                log_request(_masked(trace), self._settings)
            except Exception as error:  # whatever MLflow's client raises: people are answered all the same
                log.warning("the trace of a request was not sent: %s", type(error).__name__)


def _masked(trace: RequestTrace) -> RequestTrace:
    turns = tuple(turn | {"content": mask(turn["content"])} for turn in trace.turns)
    return trace.model_copy(update={"turns": turns, "completion": mask(trace.completion)})


def _trace(completing: "Completing") -> RequestTrace:
    """What a trace shows of a completion. The completion itself doesn't wait: it would keep its version in memory."""
    decoding, last = completing.decoding, completing.last
    return RequestTrace(
        id=completing.id,
        version=completing.served.version,
        run_id=completing.served.run_id,
        turns=tuple(completing.turns),
        completion=completing.text,
        figures={
            "temperature": decoding.temperature,
            "max_tokens": decoding.max_tokens,
            "seed": decoding.seed,
            "prompt_tokens": last.prompt_tokens,
            "completion_tokens": last.completion_tokens,
            "finish_reason": last.finish_reason,
            "first_s": completing.first_s,
            "strict": parse(completing.text).is_strict,
        },
        begun_ns=completing.begun_ns,
        ended_ns=completing.begun_ns + int(completing.seconds * 1e9),
    )
