"""What the parent and the training process say to each other: the job, the progress lines, the exit codes."""

from medgrpo.config import Config
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen

EXIT_REFUSED = 3
"""The training can't succeed as configured; the file `REFUSAL` in its folder says why. Other codes: a crash."""

REFUSAL = "refused.txt"
"""File in the training's folder with the reason of a refusal."""

PROGRESS = "@progress "
"""Start of the lines on standard output that tell how far the training is, as JSON."""


class Job(Frozen):
    """One training, as the parent process orders it."""

    config: Config
    base: BaseRef
    dataset: DatasetRef
    run_id: str
    output: str
    """Folder of checkpoints and completions."""
    settings: Settings


class Progress(Frozen):
    """One finished step."""

    step: int
    steps: int
    figures: dict[str, float]
    """Short name → figure of this step."""
