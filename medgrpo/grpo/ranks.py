"""Which of several training processes (ranks) this one is, as the launcher's environment tells."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def rank() -> int:
    """Number of this process among all of a training."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes what the training leaves: files, metrics, progress."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether each process holds only a part of the weights (FSDP, DeepSpeed): then only all together can run them."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))


def join() -> None:
    """Find the other processes, and take this one's own device, before anything is loaded to one.

    On one machine they talk over loopback alone: gloo would ask the host's name for an address.
    """
    import torch
    from accelerate import PartialState

    if sys.platform == "linux" and 1 < world_size() == int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    PartialState(cpu=not torch.cuda.is_available())


def wait_for_all() -> None:
    """Go on when every process has come here."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 goes through the block before the others, which then find what it wrote. All must come here."""
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield
