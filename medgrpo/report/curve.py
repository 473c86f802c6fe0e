"""The reward curves of a training, from its MLflow run."""

from pathlib import Path

from medgrpo.settings import Settings
from medgrpo.tracking import history, log_files
from medgrpo.types import RunRef

CURVES = {
    "train/reward": "total reward",
    "train/rewards/correct/mean": "correct",
    "train/rewards/format/mean": "format",
}

Curves = dict[str, dict[int, float]]
"""Label → step → value."""


def read_curves(run: RunRef, settings: Settings) -> Curves:
    """The rewards by step. A step that was made again after a rollback has the value of its last time."""
    found = {label: dict(history(run.run_id, metric, settings)) for metric, label in CURVES.items()}
    return {label: points for label, points in found.items() if points}


def curve_path(run: RunRef, settings: Settings) -> Path:
    """Where the picture of a training's rewards lies, or will lie."""
    return settings.training(run.key) / "reward.png"


def draw_curve(run: RunRef, settings: Settings) -> Path:
    """Draw rewards against steps, from the run's metrics, as a PNG; store it in the run too."""
    from medgrpo.report.plots import draw_curves

    path = curve_path(run, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(read_curves(run, settings), title="Rewards during training").savefig(path, dpi=120)
    log_files(run.run_id, [path], "plots", settings)
    return path
