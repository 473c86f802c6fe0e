"""The training process as its parent sees it: how it ends, what that means, and that it never outlives its lock."""

import errno
import fcntl
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.errors import TrainingCrashed, TrainingError, TrainingRefused, TrainingStopped
from medgrpo.grpo.checkpoints import is_full, newest
from medgrpo.grpo.launch import _failure, _sole_use, _started, train
from medgrpo.grpo.metrics import FILE
from medgrpo.grpo.protocol import EXIT_FULL, EXIT_REFUSED, EXIT_STOPPED, GRACE_S, REFUSAL, STOPPED
from medgrpo.keys import train_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


@pytest.mark.parametrize(
    ("code", "notes", "kind", "said"),
    [
        (EXIT_REFUSED, {REFUSAL: "no rows"}, TrainingRefused, "no rows"),
        (1, {REFUSAL: "no rows"}, TrainingRefused, "no rows"),  # accelerate's launcher ends with 1 whatever happened
        (EXIT_STOPPED, {STOPPED: "it was asked to"}, TrainingStopped, "it was asked to; a rerun goes on"),
        (1, {STOPPED: "it was asked to"}, TrainingStopped, "it was asked to; a rerun goes on"),
        (EXIT_FULL, {}, TrainingRefused, "no space left on the disk of"),
        (-signal.SIGKILL, {}, TrainingCrashed, "SIGKILL"),
        (-signal.SIGTERM, {}, TrainingCrashed, "SIGTERM"),
        (7, {}, TrainingCrashed, "exit code 7"),
    ],
)
def test_how_a_training_ended_says_whether_a_retry_helps(
    tmp_path: Path, code: int, notes: dict[str, str], kind: type[TrainingError], said: str
) -> None:
    (tmp_path / "train.log").write_text("last words", encoding="utf-8")
    for name, text in notes.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    error = _failure(code, tmp_path, tmp_path / "train.log")
    assert type(error) is kind
    assert said in str(error)


def test_a_person_who_interrupts_does_not_wait(settings: Settings, tmp_path: Path) -> None:
    with _sole_use(tmp_path) as lock, (tmp_path / "log").open("wb") as errors:
        began = time.monotonic()
        with (
            pytest.raises(KeyboardInterrupt),
            _started([sys.executable, "-c", STUBBORN], settings, errors, lock) as process,
        ):
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < GRACE_S / 2


def test_nobody_trains_in_a_folder_whose_training_process_still_lives(settings: Settings, tmp_path: Path) -> None:
    with ExitStack() as stack, (tmp_path / "log").open("wb") as errors, (tmp_path / ".lock").open("a") as other:
        with _sole_use(tmp_path) as lock:
            stack.enter_context(_started([sys.executable, "-c", "input()"], settings, errors, lock))
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stack.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
def test_sigterm_saves_and_a_rerun_goes_on(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    grpo = config.grpo.model_copy(update={"steps": 30, "checkpoints": 1, "max_completion_tokens": 8})
    changed = config.model_copy(update={"seed": 21, "grpo": grpo})
    key = train_key(changed, dataset, base)
    run = tracking.open_run(changed, dataset, key, settings, {})
    output = settings.training(key)
    watcher = threading.Thread(target=_terminate_after_a_step, args=(output,), daemon=True)
    watcher.start()
    with pytest.raises(TrainingStopped, match=r"saved after step \d+; a rerun goes on"):
        train(changed, base, dataset, run, settings)
    watcher.join()
    saved = newest(output)
    assert saved is not None and 0 < saved[0] < 30
    with caplog.at_level("INFO"):
        training = train(changed, base, dataset, run, settings)
    assert f"training goes on from step {saved[0]}" in caplog.text
    assert [checkpoint.step for checkpoint in training.checkpoints] == [30], "the extra one isn't evaluated"
    steps = [step for step, _ in tracking.history(run.run_id, "train/loss", settings)]
    assert steps == list(range(1, 31))


def _terminate_after_a_step(output: Path) -> None:
    """SIGTERM the training process once a step is on the disk."""
    while not ((output / FILE).is_file() and (output / FILE).read_bytes().endswith(b"\n")):
        time.sleep(0.05)
    for process in psutil.process_iter(["pid", "cmdline"]):
        if str(output / "job.json") in (process.info["cmdline"] or []):
            os.kill(process.info["pid"], signal.SIGTERM)


def failing(cause: Exception) -> Exception:
    """A library's error about another one."""
    error = RuntimeError("could not write")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (failing(OSError(errno.EDQUOT, "quota")), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),  # safetensors has no errno
        (OSError(errno.EACCES, "Permission denied"), False),
        (failing(ValueError("wrong")), False),
    ],
)
def test_a_full_disk_is_known_whoever_tells_of_it(tmp_path: Path, error: Exception, told: bool) -> None:
    assert is_full(error, tmp_path) is told
