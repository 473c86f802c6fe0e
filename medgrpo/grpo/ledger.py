"""The difficulty ledger: how often each question was asked, and how often the policy was right, visit by visit.

Right is what the judge finds right in the strict grammar, whatever the rewards pay for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Visit(NamedTuple):
    """What a step sampled for one question."""

    step: int
    completions: int
    right: int


class Shares(NamedTuple):
    """Shares of the questions asked so far, each by its newest visit."""

    step: int
    always_right: float
    mixed: float
    always_wrong: float


class Ledger:
    """All visits of a training. Built anew from the completions on disk, so that it needs no state of its own."""

    def __init__(self) -> None:
        self._visits: dict[str, list[Visit]] = {}

    @classmethod
    def of(cls, rows: "pd.DataFrame") -> "Ledger":
        """The ledger of these completions: columns step, example, correct."""
        ledger = cls()
        for _, of_step in rows.groupby("step", sort=True):
            ledger.add(int(of_step["step"].iloc[0]), list(of_step["example"]), list(of_step["correct"]))
        return ledger

    def add(self, step: int, examples: Sequence[str], correct: Sequence[bool]) -> None:
        """Take in one step's completions.

        Args:
            examples: the example's id of each completion.
            correct: whether it is right.
        """
        for example in dict.fromkeys(examples):
            found = [right for name, right in zip(examples, correct, strict=True) if name == example]
            self._visits.setdefault(example, []).append(Visit(step, len(found), sum(map(bool, found))))

    def is_settled(self, example: str) -> bool:
        """Whether the newest visit found a question always right or always wrong: it would teach nothing now."""
        visits = self._visits.get(example, [])
        return any(visit.right in (0, visit.completions) for visit in visits[-1:])

    def table(self) -> "pd.DataFrame":
        """One row per question and visit: example, visit, step, completions, right, pass_rate."""
        import pandas as pd

        rows = [
            {"example": example, "visit": place, **visit._asdict(), "pass_rate": visit.right / visit.completions}
            for example, visits in sorted(self._visits.items())
            for place, visit in enumerate(visits, 1)
        ]
        return pd.DataFrame(rows, columns=["example", "visit", *Visit._fields, "pass_rate"])

    def shares(self) -> list[Shares]:
        """How the questions asked so far divide, after each step."""
        by_step: dict[int, dict[str, Visit]] = {}
        for example, visits in self._visits.items():
            for visit in visits:
                by_step.setdefault(visit.step, {})[example] = visit
        newest: dict[str, Visit] = {}
        counted = []
        for step, visited in sorted(by_step.items()):
            newest |= visited
            right = sum(visit.right == visit.completions for visit in newest.values())
            wrong = sum(visit.right == 0 for visit in newest.values())
            asked = len(newest)
            counted.append(Shares(step, right / asked, (asked - right - wrong) / asked, wrong / asked))
        return counted


def draw_shares(ledger: Ledger, path: Path) -> None:
    """Draw the shares of questions that are always right, mixed and always wrong against steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    steps, right, mixed, wrong = zip(*ledger.shares(), strict=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    labels = ("always right", "mixed", "always wrong")
    axes.stackplot(steps, right, mixed, wrong, labels=labels, colors=("#4c9f70", "#e3c565", "#b5544d"), step="post")
    axes.set(xlabel="step", ylabel="share of the questions asked so far", ylim=(0, 1))
    axes.set_title("What the newest visit of each question found")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=100)
