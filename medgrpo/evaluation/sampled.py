"""Several sampled completions per row: pass@k, maj@k, and whether agreement tells how likely the answer is right."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from medgrpo.answer import parse
from medgrpo.judge import comparable, is_correct
from medgrpo.judge.choice import read_choice
from medgrpo.judge.numeric import in_unit, read_numeric
from medgrpo.statistics import calibration_error, pass_at
from medgrpo.types import Example, Interval, SampledFigures

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[Iterable[float]], Interval]
"""From one value per row to their mean with its interval."""


def judge_sampled(examples: Sequence[Example], completions: Sequence[str], samples: int) -> "pd.DataFrame":
    """One line per row and completion.

    Args:
        completions: `samples` of the first example, then as many of the next.
    """
    import pandas as pd

    repeated = [(place, example) for place, example in enumerate(examples) for _ in range(samples)]
    lines = []
    for (place, example), completion in zip(repeated, completions, strict=True):
        answer = parsed.answer if (parsed := parse(completion)).is_strict else None
        vote = "" if answer is None else _vote(answer, example)
        line = {"row": place, "id": example.id, "vote": vote, "correct": is_correct(answer, example)}
        lines.append(line | {"completion": completion})
    return pd.DataFrame(lines)


def _vote(answer: str, example: Example) -> str:
    """What an answer says, so that two ways of saying it are one vote."""
    if example.kind == "choice":
        return read_choice(answer, example) or comparable(answer)
    quantity = read_numeric(answer, example) if example.kind == "numeric" else None
    value = in_unit(quantity, example.unit) if quantity else None
    return comparable(answer) if value is None else f"{value:g}"


def summarize_sampled(table: "pd.DataFrame", samples: int, temperature: float, measure: Measure) -> SampledFigures:
    """All figures over the sampled completions; rows are what is resampled.

    Completions outside the strict grammar give no answer: they never are a majority.
    """
    groups = [group for _, group in table.groupby("row", sort=True)]
    right = [int(group["correct"].sum()) for group in groups]
    majorities = [_majority(group["vote"].tolist(), group["correct"].tolist()) for group in groups]
    agreement, is_right = [share for share, _ in majorities], [correct for _, correct in majorities]
    sizes = [size for power in range(samples.bit_length()) if (size := 2**power) <= samples]
    return SampledFigures(
        samples=samples,
        temperature=temperature,
        accuracy=measure(count / samples for count in right),
        pass_at={size: measure(pass_at(samples, count, size) for count in right) for size in sizes},
        majority=measure(float(correct) for correct in is_right),
        agreement=measure(agreement),
        calibration_error=calibration_error(agreement, is_right),
    )


def _majority(votes: Sequence[str], correct: Sequence[bool]) -> tuple[float, bool]:
    """Share of the completions that give the most frequent answer, and whether it is right; 0 where none answers."""
    counts = Counter(vote for vote in votes if vote)
    if not counts:
        return 0.0, False
    vote, count = counts.most_common(1)[0]  # among equals the one that was given first
    return count / len(votes), bool(correct[votes.index(vote)])
