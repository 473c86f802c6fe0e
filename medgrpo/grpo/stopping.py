"""SIGTERM: end a training at the next point where a save is exact, or at once where that point is too far away."""

import logging
import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medgrpo.fingerprint import write_whole
from medgrpo.grpo.prompt_order import ends_block, steps_to_block_end
from medgrpo.grpo.protocol import EXIT_STOPPED, GRACE_S, STOPPED
from medgrpo.grpo.ranks import is_main, world_size

log = logging.getLogger(__name__)


class Stopper(TrainerCallback):
    """Lets a training that is told to end save first, if that can be done before it is killed.

    After SIGTERM the steps of the running block of completions are finished, a checkpoint is saved, and training stops.
    If that would take longer than the grace, the process ends at once: the steps since the last checkpoint are made
    again, to the same numbers.
    """

    def __init__(self, output: Path, grace_s: float = GRACE_S) -> None:
        """Nothing happens before `listen`.

        Args:
            output: the training's folder.
            grace_s: how long after SIGTERM this process is left alone, in seconds.
        """
        self.asked = False
        """Whether the training is to end."""
        self._output = output
        self._grace_s = grace_s
        self._seconds: deque[float] = deque(maxlen=1)
        self._save_seconds = 0.0
        self._started = 0.0
        self._left = 1
        self._saving = False

    def listen(self) -> None:
        """React to SIGTERM from now on; in the main thread."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True
        if self._seconds_to_save() > self._grace_s:
            leave_note(self._output, "it was asked to end, and the next exact save was too far away")
            os._exit(EXIT_STOPPED)  # nothing else ends a process that is deep in a matrix product

    def _seconds_to_save(self) -> float:
        """How long it takes until a checkpoint is written, judged by the slowest step of the last block."""
        if self._saving:
            return 0
        if not self._seconds:
            return float("inf")  # no step is finished: nothing would be saved
        elapsed = time.monotonic() - self._started
        return max(0.0, self._left * max(self._seconds) - elapsed) + self._save_seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer before the first step."""
        self._seconds = deque(maxlen=args.num_iterations)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer before each optimiser step."""
        self._saving = False
        self._left = 1 + steps_to_block_end(args, state.global_step + 1)
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after each optimiser step; all processes agree on what follows."""
        now = time.monotonic()
        self._seconds.append(now - self._started)
        if self._agreed() and ends_block(args, state.global_step):
            log.warning("asked to end: saving after step %d", state.global_step)
            control.should_save = control.should_training_stop = True
        self._saving = control.should_save
        self._started = now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer when a checkpoint is written: whoever asked meanwhile needs no other."""
        self._save_seconds = time.monotonic() - self._started
        if self._agreed():
            control.should_training_stop = True

    def _agreed(self) -> bool:
        """Whether any process was asked: a signal reaches them at different steps, and they stop together or never."""
        if world_size() > 1:
            import torch
            from accelerate import PartialState
            from accelerate.utils import reduce

            asked = torch.tensor(float(self.asked), device=PartialState().device)
            self.asked = bool(reduce(asked, "sum").item())
        return self.asked


def leave_note(output: Path, reason: str) -> None:
    """Leave for the parent why the training ended: a launcher between us may hide the exit code."""
    if is_main():
        write_whole(output / STOPPED, reason)
