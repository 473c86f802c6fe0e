"""What a decision rests on: reports on the same rows, and how two of them compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from medgrpo.statistics import paired_difference, sign_test
from medgrpo.types import EvalReport, Frozen, Interval

if TYPE_CHECKING:
    from medgrpo.config import EvaluationConfig


class Comparison(Frozen):
    """Two policies on the same rows."""

    difference: Interval
    """Challenger's accuracy minus the incumbent's, paired by row."""
    won: int
    """Rows that only the challenger has right."""
    lost: int
    """Rows that only the incumbent has right."""
    p: float
    """Of McNemar's exact test, two-sided."""
    rows: int

    @property
    def figures(self) -> dict[str, float]:
        """By name, for machines."""
        difference = {"difference": self.difference.mean, "low": self.difference.low, "high": self.difference.high}
        return {**difference, "won": self.won, "lost": self.lost, "p": self.p, "rows": self.rows}

    def __str__(self) -> str:
        rows = f"{self.won} won and {self.lost} lost of {self.rows} rows"
        return f"paired difference {self.difference}, {rows}, exact p = {self.p:.2g}"


class Evidence(Frozen):
    """All that the gate knows about a challenger."""

    challenger: EvalReport
    """Of the best checkpoint on the test rows."""
    incumbent: EvalReport
    """Of the champion on the same rows, or of the base model where there is no champion."""
    incumbent_is_base: bool
    benchmarks: tuple[tuple[EvalReport, EvalReport], ...] = ()
    """Challenger and incumbent on each benchmark."""
    majority_accuracy: float = Field(ge=0, le=1)
    """Of always giving the most frequent gold."""
    contaminated_rows: int = Field(ge=0)
    """Test and benchmark rows whose question is among those that the challenger was trained on."""
    audit_passed: bool
    """Whether the rewards that it was trained on pay for no known cheat."""
    train_digest: str
    """Of the rows that the challenger was trained on, from its card."""
    dataset_digest: str
    """Of the train rows of the dataset at hand."""

    @model_validator(mode="after")
    def _same_rows(self) -> Self:
        for challenger, incumbent in ((self.challenger, self.incumbent), *self.benchmarks):
            if challenger.rows_digest != incumbent.rows_digest or len(challenger.correct) != len(incumbent.correct):
                raise ValueError(
                    f"the reports on {challenger.rows_name} and {incumbent.rows_name} are not about the same rows: "
                    "evaluate both policies on one dataset"
                )
        if unplaced := sorted(set(self.challenger.slices) - set(self.challenger.slice_rows)):
            raise ValueError(f"the challenger's report doesn't say which rows are {unplaced}: evaluate it again")
        return self

    @property
    def opponent(self) -> str:
        """What sentences call the incumbent."""
        return "the base model" if self.incumbent_is_base else "the champion"


def compare(
    challenger: EvalReport,
    incumbent: EvalReport,
    evaluation: "EvaluationConfig",
    places: Sequence[int] | None = None,
) -> Comparison:
    """Compare two reports row by row.

    Args:
        places: rows to look at; None: all of them.
    """
    chosen = range(len(challenger.correct)) if places is None else places
    first, second = ([report.correct[place] for place in chosen] for report in (challenger, incumbent))
    difference = paired_difference(first, second, evaluation.confidence, evaluation.resamples)
    won, lost, p = sign_test(first, second)
    return Comparison(difference=difference, won=won, lost=lost, p=p, rows=len(first))
