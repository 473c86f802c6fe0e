"""The bounded queue before the engine: so many requests generate, so many wait, the rest is told to come back."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from medgrpo.errors import MedgrpoError

LONGEST_PAUSE_S = 60
"""Longest time after which a refused client is told to come back, in seconds."""
WEIGHT = 0.1
"""Weight of the newest request in the mean time that one takes."""


class QueueFull(MedgrpoError):
    """Too many requests wait already.

    Attributes:
        retry_after: seconds after which a place is likely to be free.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests wait: try again in {retry_after} s")
        self.retry_after = retry_after


class Queue:
    """Lets requests generate in the order in which they came.

    Args:
        running: how many may generate at once.
        waiting: how many more may wait for their turn.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting
        self._free = asyncio.Semaphore(running)
        self._mean_s = 1.0
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it while the context lasts.

        Raises:
            QueueFull: too many wait already.
        """
        if self._free.locked() and self.waiting >= self._waiting:
            raise QueueFull(self._pause())
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        begun = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
            self._mean_s += WEIGHT * (time.monotonic() - begun - self._mean_s)

    @property
    def idle(self) -> bool:
        """Whether a request would be answered at once."""
        return not self._free.locked()

    def _pause(self) -> int:
        """Seconds until the requests that wait now have had their turn."""
        return min(LONGEST_PAUSE_S, max(1, math.ceil(self._mean_s * (self.waiting + 1) / self._running)))
