"""What happens beside the training steps: metrics go out, checkpoints are sealed, NaN stops the run."""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medgrpo.errors import TrainingRefused
from medgrpo.grpo.checkpoints import seal
from medgrpo.grpo.protocol import PROGRESS, Progress
from medgrpo.tracking import MetricWriter

SHOWN = {"reward": "reward"}
SHOWN |= {f"rewards/{name}/mean": name for name in ("correct", "format", "semantic", "fluency")}
SHOWN |= {"step_time": "seconds"}


class Reporter(TrainerCallback):
    """Sends each step's metrics to MLflow and a progress line to the parent; refuses to go on with NaN."""

    def __init__(self, writer: MetricWriter) -> None:
        self._writer = writer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer after every step."""
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if "train_runtime" in numbers:
            return  # the summary at the end, not a step
        numbers |= _reward_time(numbers)
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._writer.write(finite, state.global_step)
        shown = {label: round(finite[name], 3) for name, label in SHOWN.items() if name in finite}
        done = Progress(step=state.global_step, steps=state.max_steps, figures=shown)
        print(PROGRESS + done.model_dump_json(), flush=True)
        for name in ("loss", "grad_norm"):
            if name in numbers and name not in finite:
                raise TrainingRefused(
                    f"{name} is {numbers[name]} at step {state.global_step}: lower grpo.learning_rate or "
                    "grpo.max_grad_norm, or use policy.dtype = 'float32'"
                )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after the last step."""
        self._writer.flush()


def _reward_time(numbers: dict[str, float]) -> dict[str, float]:
    """What all rewards took of a step: seconds, and share of the step's time; those that waited together count each."""
    times = [value for name, value in numbers.items() if name.startswith("rewards/") and name.endswith("/seconds")]
    if not times or not numbers.get("step_time"):
        return {}
    return {"rewards/seconds": sum(times), "rewards/share_of_step": sum(times) / numbers["step_time"]}


class Sealer(TrainerCallback):
    """Seals each checkpoint once it is written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer when a checkpoint's files are all there."""
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
