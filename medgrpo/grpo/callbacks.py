"""What happens beside the training steps: metrics go out, guards look at them."""

import math
import resource
import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from medgrpo.grpo.guards import Guard, GuardBroken
from medgrpo.grpo.metrics import MetricWriter
from medgrpo.grpo.protocol import PROGRESS, Progress

SHOWN = {"reward": "reward"}
SHOWN |= {f"rewards/{name}/mean": name for name in ("correct", "format", "semantic", "fluency")}
SHOWN |= {"step_time": "seconds"}


class Reporter(TrainerCallback):
    """Sends each step's metrics to MLflow and a progress line to the parent."""

    def __init__(self, writer: MetricWriter, rollbacks: int = 0) -> None:
        """Report to this writer.

        Args:
            rollbacks: how many there were before this attempt, for a metric.
        """
        self._writer = writer
        self._rollbacks = rollbacks

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer after every step."""
        numbers = step_figures(logs)
        if not numbers:
            return
        numbers |= _reward_time(numbers) | {"rollbacks": float(self._rollbacks), "peak_memory_gib": _peak_memory_gib()}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._writer.write(finite, state.global_step)
        shown = {label: round(finite[name], 3) for name, label in SHOWN.items() if name in finite}
        done = Progress(step=state.global_step, steps=state.max_steps, figures=shown)
        print(PROGRESS + done.model_dump_json(), flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after the last step."""
        self._writer.flush()


class Watch(TrainerCallback):
    """Asks a guard after every step, in every process alike: all see the same figures, so all end together."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer before the first step, after a checkpoint was read."""
        self._guard.replay([entry for entry in state.log_history if step_figures(entry)])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer after every step, before a checkpoint is written."""
        if broken := self._guard.watch(step_figures(logs), state.global_step):
            raise GuardBroken(broken)


class LearningRate(TrainerCallback):
    """After a rollback: gives the optimiser the lower rate, since a checkpoint brings back its own."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **_: Any
    ) -> None:
        """Called by the trainer before the first step, after a checkpoint was read."""
        scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate wraps some
        before = scheduler.base_lrs[0]
        if before == args.learning_rate:
            return
        scheduler.base_lrs = [args.learning_rate for _ in scheduler.base_lrs]
        scheduler._last_lr = [rate / before * args.learning_rate for rate in scheduler._last_lr]
        for group in optimizer.param_groups:
            group["initial_lr"] = args.learning_rate
            group["lr"] = group["lr"] / before * args.learning_rate


def step_figures(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The figures of one step, as the trainer logs them; empty for the summary at the end."""
    numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
    return numbers if "loss" in numbers else {}


def _peak_memory_gib() -> float:
    """What this process has taken at most: of its GPU, or of the machine's memory where there is none."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved()) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _reward_time(numbers: dict[str, float]) -> dict[str, float]:
    """What all rewards took of a step: seconds, and share of the step's time; those that waited together count each."""
    times = [value for name, value in numbers.items() if name.startswith("rewards/") and name.endswith("/seconds")]
    if not times or not numbers.get("step_time"):
        return {}
    return {"rewards/seconds": sum(times), "rewards/share_of_step": sum(times) / numbers["step_time"]}


class StepPrinter(TrainerCallback):
    """Tells the parent how far a stage is that logs nothing else."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer after every step."""
        if loss := (logs or {}).get("loss"):
            figures = {"loss": round(float(loss), 3)}
            done = Progress(stage=self._stage, step=state.global_step, steps=state.max_steps, figures=figures)
            print(PROGRESS + done.model_dump_json(), flush=True)
