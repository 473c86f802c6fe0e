"""Start a training in a process of its own, follow it, and bring back its checkpoints."""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.progress import TaskID

from medgrpo.config import Config
from medgrpo.data.store import read_prompt_tokens
from medgrpo.errors import TrainingCrashed, TrainingError, TrainingRefused, TrainingStopped
from medgrpo.grpo.checkpoints import adapters, export, is_full, newest
from medgrpo.grpo.command import training_command, training_environment
from medgrpo.grpo.protocol import EXIT_FULL, GRACE_S, PROGRESS, REFUSAL, STOPPED, Job, Progress
from medgrpo.grpo.publish import publish
from medgrpo.grpo.refusals import refuse_early
from medgrpo.grpo.warm_start import finished
from medgrpo.processes import end_group, started_by
from medgrpo.progress import bar
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, RunRef, TrainingRef

log = logging.getLogger(__name__)

LAST_LINES = 15


def train(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings) -> TrainingRef:
    """Train to the last step and export every checkpoint's adapter; a finished training is found again.

    Raises:
        TrainingRefused: a retry would end the same way: the config, the memory, a reward, NaN.
        TrainingCrashed: anything else; a retry goes on from the newest checkpoint that verifies.
    """
    output = settings.training(run.key)
    output.mkdir(parents=True, exist_ok=True)
    with _sole_use(output) as lock:
        try:
            _train_once(config, base, dataset, run, settings, output, lock)
        except OSError as error:
            if is_full(error, output):
                raise TrainingRefused(_no_room(output)) from error
            raise
        except TrainingRefused:
            publish(output, run.run_id, settings)  # what the policy said at the end is what one wants to see then
            raise
        publish(output, run.run_id, settings)
    # One that was saved because somebody ended the training isn't evaluated: it would not be there without that.
    wanted = [(step, folder) for step, folder in adapters(output) if step in config.grpo.checkpoint_steps]
    started = [(0, folder) for folder in finished(output)]
    checkpoints = [export(step, folder, run.key, settings) for step, folder in (*started, *wanted)]
    return TrainingRef(key=run.key, run_id=run.run_id, checkpoints=tuple(checkpoints))


@contextmanager
def _sole_use(output: Path) -> Iterator[int]:
    """Wait until no other process trains in this folder.

    The lock ends with its last holder, however that dies; its descriptor is for the training process to inherit.
    """
    with (output / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is training in %s: waiting for it", output)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


def _train_once(
    config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings, output: Path, lock: int
) -> None:
    if not is_finished(output, config):
        longest = max(read_prompt_tokens(dataset, "train", settings), default=0)
        refuse_early(config, base, dataset.rows["train"], longest, settings.processes)
        job = Job(config=config, base=base, dataset=dataset, run_id=run.run_id, output=str(output), settings=settings)
        _run_process(job, output, lock)


def set_aside(output: Path) -> None:
    """Rename a training's folder, so that it starts from the first step again; one older folder is kept."""
    aside = output.with_name(f"{output.name}.before")
    if output.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        output.rename(aside)


def is_finished(output: Path, config: Config) -> bool:
    """Whether a training's last checkpoint is there and its adapter verifies."""
    checkpoints = adapters(output)
    return bool(checkpoints) and checkpoints[-1][0] >= config.grpo.steps


def _run_process(job: Job, output: Path, lock: int) -> None:
    """Run the training process to its end, showing its progress."""
    if checkpoint := newest(output):
        log.info("training goes on from step %d", checkpoint[0])
    order = output / "job.json"
    order.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    for note in (REFUSAL, STOPPED):
        (output / note).unlink(missing_ok=True)
    log_path = output / "train.log"
    timed_out = threading.Event()
    command = training_command(job.config, job.settings, order)
    with log_path.open("ab") as errors, _started(command, job.settings, errors, lock) as process:

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
    if (output / REFUSAL).is_file():  # whatever the code: with several processes it is their launcher's
        return TrainingRefused((output / REFUSAL).read_text(encoding="utf-8"))
    if (output / STOPPED).is_file():
        told = (output / STOPPED).read_text(encoding="utf-8")
        return TrainingStopped(f"training ended: {told}; a rerun goes on from the newest checkpoint")
    if code == EXIT_FULL:
        return TrainingRefused(_no_room(output))
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    cause = f"killed by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return TrainingCrashed(f"training ended by {cause}; see {log_path}:\n" + "\n".join(lines[-LAST_LINES:]))


def _no_room(output: Path) -> str:
    return f"no space left on the disk of {output}: make room; a rerun goes on from the newest checkpoint"


@contextmanager
def _started(command: list[str], settings: Settings, errors: IO[bytes], lock: int) -> Iterator[subprocess.Popen[str]]:
    """A process in its own session that can't outlive us: it dies when its standard input closes, or here."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env=os.environ | training_environment(settings) | started_by(settings),
        pass_fds=(lock,),
    )
    try:
        yield process
    except KeyboardInterrupt:
        end_group(process, 0)  # a person waits; the steps since the last checkpoint are made again
        raise
    finally:
        end_group(process, GRACE_S)


def _follow(process: subprocess.Popen[str]) -> None:
    """Turn the process's progress lines into a bar and log lines, until it closes its output."""
    assert process.stdout is not None
    with bar() as display:
        tasks: dict[str, TaskID] = {}
        for line in process.stdout:
            if not line.startswith(PROGRESS):
                continue
            done = Progress.model_validate_json(line.removeprefix(PROGRESS))
            if done.stage not in tasks:
                tasks[done.stage] = display.add_task(done.stage, total=done.steps)
            display.update(tasks[done.stage], completed=done.step, total=done.steps)
            figures = " ".join(f"{name} {value:g}" for name, value in done.figures.items())
            log.info("%s: step %d/%d %s", done.stage, done.step, done.steps, figures)
