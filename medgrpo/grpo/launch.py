"""Start a training in a process of its own, follow it, and bring back its checkpoints."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from medgrpo.config import Config
from medgrpo.errors import TrainingCrashed, TrainingRefused
from medgrpo.grpo.checkpoints import export, verified
from medgrpo.grpo.protocol import EXIT_REFUSED, PROGRESS, Job, Progress
from medgrpo.progress import bar
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, RunRef, TrainingRef

log = logging.getLogger(__name__)

LAST_LINES = 15
GRACE_S = 20
"""How long the training process may take to end after SIGTERM, in seconds."""


def train(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings) -> TrainingRef:
    """Train to the last step and export every checkpoint's adapter; a finished training is found again.

    Raises:
        TrainingRefused: a retry would end the same way: the config, the memory, a reward, NaN.
        TrainingCrashed: anything else; a retry goes on from the newest checkpoint that verifies.
    """
    output = settings.training(run.key)
    output.mkdir(parents=True, exist_ok=True)
    if not is_finished(output, config):
        job = Job(config=config, base=base, dataset=dataset, run_id=run.run_id, output=str(output), settings=settings)
        _run_process(job, output)
    checkpoints = [export(step, folder, run.key, settings) for step, folder in verified(output)]
    return TrainingRef(key=run.key, run_id=run.run_id, checkpoints=tuple(checkpoints))


def is_finished(output: Path, config: Config) -> bool:
    """Whether a training's last checkpoint is there and verifies."""
    checkpoints = verified(output)
    return bool(checkpoints) and checkpoints[-1][0] >= config.grpo.steps


def _run_process(job: Job, output: Path) -> None:
    """Run the training process to its end, showing its progress."""
    order = output / "job.json"
    order.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    log_path = output / "train.log"
    with log_path.open("ab") as errors, _started([sys.executable, "-m", "medgrpo.grpo", str(order)], errors) as process:
        timer = threading.Timer(job.settings.train_timeout_s, _stop, [process])
        timer.start()
        try:
            _follow(process)
            code = process.wait()
        finally:
            timer.cancel()
    if code == 0:
        return
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == EXIT_REFUSED:
        raise TrainingRefused(lines[-1] if lines else f"no reason in {log_path}")
    cause = f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise TrainingCrashed(f"training ended by {cause}; see {log_path}:\n" + "\n".join(lines[-LAST_LINES:]))


@contextmanager
def _started(command: list[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """A process in its own session that can't outlive us: it dies when its standard input closes, or here."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """End the process and its children, gently first."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        pass


def _follow(process: subprocess.Popen[str]) -> None:
    """Turn the process's progress lines into a bar and log lines, until it closes its output."""
    assert process.stdout is not None
    with bar() as display:
        task = display.add_task("train", total=None)
        for line in process.stdout:
            if not line.startswith(PROGRESS):
                continue
            done = Progress.model_validate_json(line.removeprefix(PROGRESS))
            display.update(task, completed=done.step, total=done.steps)
            figures = " ".join(f"{name} {value:g}" for name, value in done.figures.items())
            log.info("step %d/%d %s", done.step, done.steps, figures)
