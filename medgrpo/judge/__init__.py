"""The judge of a parsed answer: whether it is one answer in the form that its question's kind asks for, and right.

Reading comes first, judging second, and what can't be read is never right: so nothing is found inside of an answer
that says more than one thing. Takes linear time, and never raises because of an answer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from medgrpo.judge.choice import is_right_choice, read_choice
from medgrpo.judge.dates import is_right_date, read_date
from medgrpo.judge.numeric import (
    is_number,
    is_range,
    is_right_numeric,
    is_right_range,
    read_number,
    read_numeric,
    read_range,
)
from medgrpo.judge.phrases import comparable
from medgrpo.judge.text import is_right_text, read_text
from medgrpo.types import Example, Kind

__all__ = ["comparable", "is_correct", "is_number", "is_range", "is_readable", "read_number"]


class _Judge(NamedTuple):
    """How the answers of one kind are read and judged."""

    read: Callable[[str, Example], Any]
    """The answer as its kind needs it; None where it is unreadable."""
    is_right: Callable[[Any, Example], bool]


_JUDGES: dict[Kind, _Judge] = {
    "choice": _Judge(read_choice, is_right_choice),
    "numeric": _Judge(read_numeric, is_right_numeric),
    "range": _Judge(read_range, is_right_range),
    "date": _Judge(read_date, is_right_date),
    "text": _Judge(read_text, is_right_text),
}


def is_correct(answer: str | None, example: Example) -> bool:
    """Whether a parsed answer is right. Rewards and evaluation both ask here, so they can't disagree.

    Raises:
        ValueError: the gold of a numeric question is no number, which the checks of a dataset find first.
    """
    judge = _JUDGES[example.kind]
    found = None if answer is None else judge.read(answer, example)
    return found is not None and judge.is_right(found, example)


def is_readable(answer: str | None, example: Example) -> bool:
    """Whether an answer is one answer in the form that the kind asks for, right or wrong.

    A hedge, a denial, several answers, markup around the answer, look-alike letters and an option's letter with
    another option's text aren't.
    """
    return answer is not None and _JUDGES[example.kind].read(answer, example) is not None
