"""State that a resumed training needs and TRL forgets: any part of ours can put JSON into the checkpoint.

How a part joins in: give it the three members of `Carried` and register it with `trainer.carry(part)` before `train()`.

- At each save the main process calls `state()` and writes what it returns into the checkpoint, under the part's name.
  Saves happen at generation boundaries only: no completions wait to be used, the next step samples new ones.
- At a resume every process calls `restore()` with the same value, after JSON, before the first step and before the
  optimiser's state is loaded. A training that starts from nothing never calls it.
- The steps after that checkpoint are then made again, so a part must do at step N what it did the first time: no
  clocks, no unseeded draws. Draws from torch's global generator are fine: its state is in the checkpoint.
- A decision that must outlive a return to an older checkpoint (a lowered learning rate) can't be kept here: that
  checkpoint doesn't know of it. Such a thing belongs in a file of its own in the training's folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

STATE = "medgrpo-state.json"
"""File in a checkpoint: part's name → its state."""


class Carried(Protocol):
    """Something that has state between two steps."""

    @property
    def name(self) -> str:
        """Names the state in the checkpoint; no two parts share one."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on exactly; JSON-ready, the same on every process."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned when the checkpoint was written."""


def write_states(folder: Path, parts: Sequence[Carried]) -> None:
    """Write every part's state into a checkpoint that is being made."""
    states = {part.name: part.state() for part in parts}
    (folder / STATE).write_text(json.dumps(states), encoding="utf-8")


def read_states(folder: Path, parts: Sequence[Carried]) -> None:
    """Give every part its state from a checkpoint.

    Raises:
        KeyError: the checkpoint has no state of a part: it was written by another training.
    """
    states = json.loads((folder / STATE).read_text(encoding="utf-8"))
    for part in parts:
        part.restore(states[part.name])
