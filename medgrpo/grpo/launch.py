"""Start a training in a process of its own, follow it, and bring back its checkpoints."""

import fcntl
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
from medgrpo.errors import TrainingCrashed, TrainingError, TrainingRefused
from medgrpo.grpo.checkpoints import export, verified
from medgrpo.grpo.protocol import EXIT_REFUSED, PROGRESS, REFUSAL, Job, Progress
from medgrpo.grpo.rollouts import publish
from medgrpo.processes import end_group
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
    with _sole_use(output):
        _train_once(config, base, dataset, run, settings, output)
        publish(output, run.run_id, settings)
    checkpoints = [export(step, folder, run.key, settings) for step, folder in verified(output)]
    return TrainingRef(key=run.key, run_id=run.run_id, checkpoints=tuple(checkpoints))


@contextmanager
def _sole_use(output: Path) -> Iterator[None]:
    """Wait until no other process trains in this folder. The lock ends with its holder, however that dies."""
    with (output / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is training in %s: waiting for it", output)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _train_once(
    config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings, output: Path
) -> None:
    if not is_finished(output, config):
        job = Job(config=config, base=base, dataset=dataset, run_id=run.run_id, output=str(output), settings=settings)
        _run_process(job, output)


def is_finished(output: Path, config: Config) -> bool:
    """Whether a training's last checkpoint is there and verifies."""
    checkpoints = verified(output)
    return bool(checkpoints) and checkpoints[-1][0] >= config.grpo.steps


def _run_process(job: Job, output: Path) -> None:
    """Run the training process to its end, showing its progress."""
    order = output / "job.json"
    order.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    (output / REFUSAL).unlink(missing_ok=True)
    log_path = output / "train.log"
    timed_out = threading.Event()
    with log_path.open("ab") as errors, _started([sys.executable, "-m", "medgrpo.grpo", str(order)], errors) as process:

        def expire() -> None:
            timed_out.set()
            end_group(process, GRACE_S)

        timer = threading.Timer(job.settings.train_timeout_s, expire)
        timer.start()
        try:
            _follow(process)
            code = process.wait()
        finally:
            timer.cancel()
    if timed_out.is_set():
        limit = f"{job.settings.train_timeout_s:g} s"
        raise TrainingRefused(f"training took longer than {limit}: raise MEDGRPO_TRAIN_TIMEOUT_S; a rerun goes on")
    if code != 0 or not is_finished(output, job.config):
        raise _failure(code, output, log_path)


def _failure(code: int, output: Path, log_path: Path) -> TrainingError:
    """What an exit code other than 0 means."""
    if code == EXIT_REFUSED:
        return TrainingRefused((output / REFUSAL).read_text(encoding="utf-8"))
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    cause = f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return TrainingCrashed(f"training ended by {cause}; see {log_path}:\n" + "\n".join(lines[-LAST_LINES:]))


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
        end_group(process, GRACE_S)


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
