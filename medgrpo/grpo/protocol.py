"""What the parent and the training process say to each other: the job, the progress lines, the exit codes."""

from medgrpo.config import Config
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen

EXIT_REFUSED = 3
"""The training can't succeed as configured; the file `REFUSAL` in its folder says why. Other codes: a crash."""

EXIT_STOPPED = 4
"""The training was asked to end, by SIGTERM; the file `STOPPED` in its folder says where. A rerun goes on."""

EXIT_FULL = 5
"""The disk is full: there is no room for a note either. A rerun goes on once there is."""

REFUSAL = "refused.txt"
"""File in the training's folder with the reason of a refusal."""

STOPPED = "stopped.txt"
"""File in the training's folder that says how it was ended on request."""

GRACE_S = 20
"""How long the training process may take to end after SIGTERM, in seconds."""

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

    stage: str = "train"
    """What the steps are of: the warm start or GRPO."""
    step: int
    steps: int
    figures: dict[str, float]
    """Short name → figure of this step."""
