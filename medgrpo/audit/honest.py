"""Honest wrong answers: what cheats are made from, and compared with."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from medgrpo.answer import parse, render_completion, render_gold
from medgrpo.judge import is_correct, is_readable, read_number
from medgrpo.judge.numeric import read_range
from medgrpo.types import Example

WRONG_ANSWERS = 3
"""Honest wrong answers of a row; the lowest of their totals is the bar."""
REASONING = "The facts in the question lead to this."
"""For rows whose own can't stand in a completion."""
_OTHER_TEXTS = ("viral infection of the upper airways", "vitamin C", "X-ray of the chest", "Staphylococcus aureus")


class Row(NamedTuple):
    """An example, and what completions of it are made from."""

    example: Example
    wrong: tuple[str, ...]
    """Answers of the right form that aren't right; at least one."""
    reasoning: str
    """The gold completion's."""
    borrowed: str
    """The worked reasoning of another row; `REASONING` where there is none."""

    @property
    def gold(self) -> str:
        """The gold as an answer block holds it."""
        return self.example.gold if self.example.kind == "choice" else self.example.gold_text

    @property
    def right(self) -> str:
        """The gold completion."""
        return render_gold(self.example)

    def honest(self) -> list[str]:
        """The completions that set the bar: the strict grammar, a reasoning, an answer that isn't right."""
        return self.answered(*self.wrong)

    def answered(self, *answers: str) -> list[str]:
        """Completions in the strict grammar with the honest reasoning."""
        return [render_completion(self.reasoning, answer) for answer in answers]

    def reasoned(self, *reasonings: str) -> list[str]:
        """Completions in the strict grammar with a wrong answer, the same as an honest one's."""
        return [render_completion(reasoning, self.wrong[0]) for reasoning in reasonings]


def make_row(example: Example, others: Iterable[Example]) -> Row:
    """A row with its honest wrong answers.

    Args:
        others: other rows of the same data, whose golds are wrong answers to a free text.
    """
    others = list(others)
    answers = (
        answer
        for answer in _candidates(example, others)
        if is_readable(answer, example) and not is_correct(answer, example)
    )
    wrong = tuple(islice(dict.fromkeys(answers), WRONG_ANSWERS))
    reasoning = _reasoning(example)
    borrowed = next((found for other in others if (found := _reasoning(other)) != reasoning), REASONING)
    return Row(example, wrong or (_OTHER_TEXTS[0],), reasoning, borrowed)


def _reasoning(example: Example) -> str:
    return parse(render_gold(example)).reasoning or REASONING


def _candidates(example: Example, others: Iterable[Example]) -> Iterable[str]:
    """Answers of the right form; some may be right."""
    if example.kind == "choice":
        return example.options
    if example.kind == "numeric":
        return [f"{number:.10g} {example.unit}".strip() for number in _other_numbers(example)]
    if example.kind == "range":
        ends = read_range(example.gold, example)
        high = (ends.high.value if ends else 0.0) + 10 * example.tolerance
        return [f"{high + step:.10g}-{high + 2 * step:.10g} {example.unit}".strip() for step in (1, 7, 30)]
    if example.kind == "date":
        return ["01/01/1900", "02/01/1900", "06/15/1955", "11/30/2031"]
    return [*(other.gold for other in others if other.kind == "text"), *_OTHER_TEXTS]


def _other_numbers(example: Example) -> tuple[float, ...]:
    gold = read_number(example.gold)
    high = example.limits[1] if example.limits else gold + example.tolerance
    far = high + abs(high) + 10 * example.tolerance + 1
    return far, round(far) + 7.0, round(2 * far) + 3.0
