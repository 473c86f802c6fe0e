"""A call with a time limit, which holds for anybody's code: the call runs in a thread that can be left behind."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Overdue(Exception):  # says what happened, as TimeoutError does, which a call may raise by itself
    """The call took longer than it may."""


class CallFailed(Exception):
    """The call raised; its error is the cause."""


class _Worker(threading.Thread):
    """Runs calls one after another. A daemon: one that hangs doesn't keep the process alive, as a pool's would."""

    def __init__(self) -> None:
        super().__init__(name="rewards", daemon=True)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.start()

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Start a call when those before it have ended."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:  # also SystemExit: a reward must not end the process as if all were well
                failed = CallFailed(str(error))
                failed.__cause__ = error
                future.set_exception(failed)


_free: list[_Worker] = []
os.register_at_fork(after_in_child=_free.clear)  # threads don't live on in a child


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns.

    Raises:
        Overdue: it took longer. Its thread goes on until it ends by itself or the process does.
        CallFailed: it raised, whatever it was.
    """
    worker = _free.pop() if _free else _Worker()
    future = worker.submit(call)
    try:
        return future.result(timeout=seconds)
    except TimeoutError as error:
        raise Overdue from error
    finally:
        if future.done():
            _free.append(worker)
