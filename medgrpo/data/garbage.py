"""Python's cycle collector, out of the way of work on many rows."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the cycle collector, which would look through all rows again and again, for half of the time.

    Rows and examples hold no cycles: they are freed all the same.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
