"""One real step, measured and remembered, so that plans on this machine go by it."""

import os
import platform
import tempfile
from pathlib import Path

from medgrpo.config import Config
from medgrpo.fingerprint import digest, write_whole
from medgrpo.plan.memory import Memory
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen

STEPS = 2
"""The first step also warms everything up, and checks the fast path; the second is what is measured."""
SHARED = ("base_models", "datasets", "bands")
"""Folders of the home that a measurement reads, and may add to."""


class Measurement(Frozen):
    """What one step took, and what had been expected of it."""

    seconds: float
    peak: float
    """Bytes of the training process at its peak."""
    expected_seconds: float
    expected: Memory

    @property
    def seconds_factor(self) -> float:
        """Multiply an estimate of seconds by this."""
        return self.seconds / self.expected_seconds

    def corrected(self, memory: Memory) -> float:
        """Bytes at the peak of another training: what goes with a step's size is scaled as it was off here."""
        known = self.expected.peak - self.expected.fixed
        scale = max(0.0, self.peak - self.expected.fixed) / known if known else 1.0
        return memory.fixed + (memory.peak - memory.fixed) * scale


def read_measurement(config: Config, base: BaseRef, settings: Settings) -> Measurement | None:
    """What was measured of this base model on this machine, if something was."""
    path = _path(config, base, settings)
    return Measurement.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def measure(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, expected_seconds: float, expected: Memory
) -> Measurement:
    """Make real steps in a training process, in a home folder and a tracking store that are gone afterwards.

    Raises:
        TrainingError: the process refused or crashed; the message says why.
    """
    from medgrpo.grpo.launch import train
    from medgrpo.tracking import history, open_run

    grpo = config.grpo.model_copy(update={"steps": STEPS, "checkpoints": 1})
    short = config.model_copy(update={"grpo": grpo, "warm_start": None})
    with tempfile.TemporaryDirectory(dir=settings.root, prefix=".measure-") as folder:
        for name in SHARED:
            (settings.root / name).mkdir(exist_ok=True)
            (Path(folder) / name).symlink_to(settings.root / name)
        own = Settings.model_validate(settings.model_dump() | {"home": Path(folder), "tracking_uri": ""})
        run = open_run(short, dataset, "measure", own, {})
        train(short, base, dataset, run, own)
        found = {name: history(run.run_id, f"train/{name}", own)[-1][1] for name in ("step_time", "peak_memory_gib")}
    measurement = Measurement(
        seconds=found["step_time"],
        peak=found["peak_memory_gib"] * 2**30,
        expected_seconds=expected_seconds,
        expected=expected,
    )
    path = _path(config, base, settings)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, measurement.model_dump_json(indent=1))
    return measurement


def _path(config: Config, base: BaseRef, settings: Settings) -> Path:
    """Where a measurement is kept: one for each base model, way to run it, and machine."""
    policy, grpo = config.policy, config.grpo
    way = [policy.dtype, policy.load_in_4bit, grpo.fast_path, grpo.rollouts, settings.processes]
    return settings.root / "calibration" / f"{digest([base.digest, way, _machine()])}.json"


def _machine() -> list[str | int | None]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return [gpu, platform.machine(), os.cpu_count(), torch.get_num_threads()]
