"""Doing finished stages again: which stages there are to start from, and a note of what a forced run has done so far.

A run that was told to start at a stage, and is retried after a failure, must not throw away once more what it has made
since: the notes under `<home>/redo/` say what it has begun and what it has finished.
"""

from typing import Literal, get_args

from medgrpo.fingerprint import digest
from medgrpo.settings import Settings

StageName = Literal["prepare", "validate", "audit", "train", "evaluate", "register", "promote"]
"""The stages that `--from` names, in order; each stands for what the command of this name does."""
STAGES: tuple[StageName, ...] = get_args(StageName)


def is_from(start: StageName | None, stage: StageName) -> bool:
    """Whether a run that starts at `start` does this stage again, finished or not."""
    return start is not None and STAGES.index(stage) >= STAGES.index(start)


class Redo:
    """What a forced run has done of one piece of work."""

    def __init__(self, run: str, work: object, settings: Settings) -> None:
        """Look for the notes of this work.

        Args:
            run: id of the flow run that is forced.
            work: name and inputs of the work.
        """
        self._folder = settings.root / "redo" / run
        self._name = digest(work)

    @property
    def is_finished(self) -> bool:
        """Whether this run has done the work already: a retry finds it."""
        return (self._folder / f"{self._name}.finished").is_file()

    def begin(self) -> bool:
        """Note that the work begins; whether this is the first time, so that older results are to be thrown away."""
        note = self._folder / f"{self._name}.begun"
        if note.is_file():
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        note.touch()
        return True

    def finish(self) -> None:
        """Note that the work is done."""
        (self._folder / f"{self._name}.finished").touch()
