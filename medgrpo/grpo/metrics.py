"""A training's metrics: written beside the checkpoints first, then sent to MLflow, each once."""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medgrpo.settings import Settings
from medgrpo.tracking import connect, log_step, metric_steps
from medgrpo.types import Frozen

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
"""File in the training's folder with every step's metrics, one line each."""


class Entry(Frozen):
    """What was logged at a step."""

    attempt: int
    step: int
    time_ms: int
    """When, in milliseconds since 1970."""
    metrics: dict[str, float]

    @property
    def key(self) -> tuple[str, int]:
        """A metric that stands for all, since they are sent together: one that every step has; and the step."""
        return "learning_rate" if "learning_rate" in self.metrics else min(self.metrics), self.step


class MetricWriter:
    """Writes a training's metrics step by step to a file, and sends to MLflow what it doesn't have yet.

    A step that a resumed training makes again isn't written again. What MLflow doesn't take is sent with a later step,
    by a later process, or after the training: MLflow itself is asked what has arrived, so nothing is lost or doubled,
    whenever a process dies.
    """

    def __init__(self, settings: Settings, run_id: str, output: Path, attempt: int = 0) -> None:
        """Read what an earlier process has written.

        Args:
            client: MLflow's, of `tracking.connect`.
            output: the training's folder.
            attempt: how often the training was rolled back: then the same steps are made anew, and logged again.
        """
        self._settings = settings
        self._client = connect(settings)
        self._run_id = run_id
        self._path = output / FILE
        self._attempt = attempt
        self._written: set[tuple[int, tuple[str, int]]] = set()
        self._times: Counter[tuple[str, int]] = Counter()
        self._pending: list[tuple[int, Entry]] = []
        self._arrived: dict[str, Counter[int]] = {}
        for entry in _read(self._path):
            self._add(entry)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of one step under `train/`, unless this step was logged before."""
        entry = Entry(attempt=self._attempt, step=step, time_ms=int(time.time() * 1000), metrics=dict(metrics))
        if not metrics or (entry.attempt, entry.key) in self._written:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that makes this step final
        self._add(entry)
        self.flush()

    def _add(self, entry: Entry) -> None:
        self._pending.append((self._times[entry.key], entry))
        self._times[entry.key] += 1
        self._written.add((entry.attempt, entry.key))

    def flush(self) -> bool:
        """Send what is pending, in order; returns whether everything arrived."""
        try:
            while self._pending:
                before, entry = self._pending[0]
                if not self._has(entry, before):
                    log_step(self._client, self._run_id, entry.metrics, entry.step, entry.time_ms)
                self._pending.pop(0)
        except Exception as error:  # tracking must never end a training: keep the metrics and go on
            told = self._settings.without_secrets(str(error))
            log.warning("MLflow did not take the metrics of %d steps, kept for later: %s", len(self._pending), told)
            self._arrived.clear()  # the last one may have arrived all the same
            return False
        return True

    def _has(self, entry: Entry, before: int) -> bool:
        """Whether MLflow had this entry when it was last asked.

        Args:
            before: how often the same step was logged before this entry.
        """
        name, step = entry.key
        if name not in self._arrived:
            self._arrived[name] = Counter(metric_steps(self._client, self._run_id, name))
        return self._arrived[name][step] > before


def _read(path: Path) -> list[Entry]:
    """What the file holds; a last line that a dying process left unfinished is cut off."""
    if not path.is_file():
        return []
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        os.truncate(path, len(whole + newline))
    return [Entry.model_validate_json(line) for line in whole.splitlines()]
