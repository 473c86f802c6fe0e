"""Stage: draw the reward curve."""

from pathlib import Path

from medgrpo.report import draw_curve
from medgrpo.settings import Settings
from medgrpo.types import RunRef, TrainingRef
from tasks.stage import stage


@stage("report", retries=3)
def report(run: RunRef, training: TrainingRef) -> str:
    """Draw the rewards of a finished training; the picture's path."""
    path: Path = draw_curve(run, Settings())
    return str(path)
