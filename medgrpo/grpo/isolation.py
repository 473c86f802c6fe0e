"""Work that must leave no trace in the random generators, such as an evaluation between two steps."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unseen_draws() -> Iterator[None]:
    """What the block draws is drawn from where the generators of Python, NumPy and torch are; afterwards they are back.

    Of several CUDA devices the current one alone counts: a process trains on no other.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
