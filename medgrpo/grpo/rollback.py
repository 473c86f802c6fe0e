"""Rollbacks: a training that a guard ended goes on from a good checkpoint, with a lower learning rate.

`rollbacks.json` in the training's folder counts them, so that a killed training goes on with the rate that it had.
"""

import json
import logging
import shutil
from pathlib import Path

from medgrpo.config import Config, GrpoConfig, GuardConfig
from medgrpo.errors import TrainingRefused
from medgrpo.fingerprint import write_whole
from medgrpo.grpo.checkpoints import adapters, verified
from medgrpo.grpo.guards import Broken
from medgrpo.grpo.rollouts import step_files
from medgrpo.types import Frozen

log = logging.getLogger(__name__)

RECORD = "rollbacks.json"
ASIDE = "rolled-back"
"""Folder of the checkpoints and completions that were set aside, each named after the rollback and itself."""


class Rollback(Frozen):
    """One rollback."""

    first: int
    """First step of the stretch that broke a guard."""
    step: int
    """The step at which the guard ended it."""
    to: int
    """Step of the checkpoint that training went on from; 0: from the start."""
    reason: str


def read_rollbacks(output: Path) -> list[Rollback]:
    """The rollbacks of a training so far, oldest first."""
    path = output / RECORD
    if not path.is_file():
        return []
    return [Rollback.model_validate(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def after_rollbacks(config: Config, rollbacks: int) -> Config:
    """The config with the learning rate that is left after so many rollbacks."""
    rate = config.grpo.learning_rate * config.grpo.guards.learning_rate_factor**rollbacks
    return config.model_copy(update={"grpo": config.grpo.model_copy(update={"learning_rate": rate})})


def whole_checkpoints(grpo: GrpoConfig) -> int:
    """How many of the newest checkpoints must stay whole: a good one, one more, and those of a broken stretch."""
    if grpo.guards.action == "stop":
        return 2
    return 2 + -(-grpo.guards.patience // grpo.save_every)


def roll_back(output: Path, guards: GuardConfig, broken: Broken) -> None:
    """Set aside what was made since the last good checkpoint, and note the rollback; in all processes.

    The policy at step k is what step k + 1 measures: a checkpoint is good if the step after it broke nothing. The
    start counts as one. Cut off anywhere, the same steps end at the same guard again.

    Raises:
        TrainingRefused: there were too many rollbacks, or the very first step broke the bound.
    """
    from accelerate import PartialState

    done = read_rollbacks(output)
    if len(done) >= guards.max_rollbacks:
        raise TrainingRefused(f"{broken.reason} (after {len(done)} rollbacks: grpo.guards.max_rollbacks)")
    if broken.first < 2:
        raise TrainingRefused(f"{broken.reason} (from the first step on: there is nothing good to go back to)")
    to = max((step for step, _ in verified(output) if step + 1 < broken.first), default=0)
    newer = [(step, folder) for step, folder in adapters(output) if step > to]
    process = PartialState()
    process.wait_for_everyone()
    if process.is_main_process:
        for _, folder in reversed(newer):
            _set_aside(folder, output, len(done) + 1)
        for path in step_files(output, after=to):
            _set_aside(path, output, len(done) + 1)
        entries = [*done, Rollback(first=broken.first, step=broken.step, to=to, reason=broken.reason)]
        write_whole(output / RECORD, json.dumps([entry.model_dump() for entry in entries], indent=1))
    process.wait_for_everyone()
    log.warning("going back to step %d with a lower learning rate: %s", to, broken.reason)


def _set_aside(path: Path, output: Path, rollback: int) -> None:
    target = output / ASIDE / f"{rollback}-{path.name}"
    if target.is_dir():
        shutil.rmtree(target)  # of an attempt at this rollback that was cut off
    target.parent.mkdir(exist_ok=True)
    path.replace(target)
