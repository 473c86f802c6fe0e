"""What every clinical topic is made of: grids of exact numbers, pools of them by class, one writer of a question."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from itertools import product
from random import Random

from medgrpo.types import Example, Kind

Numbers = tuple[Decimal, ...]
Steps = Mapping[str, Callable[..., Decimal | str]]
"""Name → intermediate figure of a calculation, computed from the numbers, for use in a template."""


@dataclass(frozen=True)
class Axis:
    """One quantity that a question varies: exact decimals, or codes 0, 1, … that are shown as `words`."""

    name: str
    values: Numbers
    words: tuple[str, ...] = ()

    def show(self, value: Decimal) -> str:
        """The value as the question prints it."""
        return self.words[int(value)] if self.words else str(value)


def span(name: str, low: str, high: str, step: str = "1") -> Axis:
    """The axis `low`, `low + step`, … up to and including `high`."""
    first, last, width = Decimal(low), Decimal(high), Decimal(step)
    return Axis(name, tuple(first + i * width for i in range(int((last - first) / width) + 1)))


def pick(name: str, *words: str) -> Axis:
    """An axis of words, coded by their position."""
    return Axis(name, tuple(Decimal(i) for i in range(len(words))), words)


SEX = pick("sex", "woman", "man")


def grid(axes: Sequence[Axis], where: Callable[..., bool] | None = None) -> list[Numbers]:
    """Every combination of the axes' values for which `where` holds."""
    points = product(*(a.values for a in axes))
    return [p for p in points if where is None or where(*p)]


def fixed(value: Decimal, digits: int) -> str:
    """The value rounded half up to `digits` decimals, all of them shown, never as `-0`."""
    return f"{value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0:f}"


def brief(value: Decimal) -> str:
    """The value with at most four decimals and no zeros at the end."""
    text = fixed(value, 4)
    return text.rstrip("0").rstrip(".")


def listed(words: Sequence[str], last: str = "or") -> str:
    """`a, b or c`; nothing for no words."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


@dataclass(frozen=True, kw_only=True)
class Topic(ABC):
    """One subject of questions. Subclasses are tables' row types: each knows one shape of question."""

    name: str
    citation: str
    kind: Kind

    @abstractmethod
    def pools(self) -> list[list[Numbers]]:
        """The numbers that can be asked about, one list per class of answer (one list where there are no classes)."""

    @abstractmethod
    def write(self, row_id: str, numbers: Numbers, rng: Random) -> Example:
        """The question about these numbers; `rng` decides the order of options that have no natural order."""

    def judged(self, row_id: str, question: str, reasoning: str, labels: Sequence[str], label: str) -> Example:
        """An example whose gold is one of `labels`, shown as options (kind `choice`) or asked for as text."""
        options = {chr(ord("A") + i): text for i, text in enumerate(labels)} if self.kind == "choice" else {}
        gold = next((letter for letter, text in options.items() if text == label), label)
        return Example(
            id=row_id, kind=self.kind, question=question, gold=gold, options=options,
            topic=self.name, reasoning=reasoning, citation=self.citation,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Worked(Topic):
    """A topic over axes, whose question and reasoning are templates over the axes' names and the steps' names."""

    axes: tuple[Axis, ...]
    ask: str
    steps: Steps = field(default_factory=dict)

    def shown(self, numbers: Numbers) -> dict[str, str]:
        """Name → text for the templates."""
        words = {a.name: a.show(v) for a, v in zip(self.axes, numbers, strict=True)}
        for name, step in self.steps.items():
            figure = step(*numbers)
            words[name] = figure if isinstance(figure, str) else brief(figure)
        return words


@dataclass(frozen=True, kw_only=True)
class Formula(Worked):
    """A number computed from the printed numbers, rounded half up to `digits` decimals."""

    kind: Kind = "numeric"
    compute: Callable[..., Decimal]
    work: str
    unit: str
    digits: int = 0
    tolerance: str
    where: Callable[..., bool] | None = None
    """Which numbers make a plausible patient."""

    def pools(self) -> list[list[Numbers]]:
        """All plausible numbers in one pool."""
        return [grid(self.axes, self.where)]

    def write(self, row_id: str, numbers: Numbers, rng: Random) -> Example:
        """Fill in the templates; `{gold}` in `work` is the rounded result."""
        words = self.shown(numbers)
        gold = fixed(self.compute(*numbers), self.digits)
        return Example(
            id=row_id, kind=self.kind, question=self.ask.format_map(words), gold=gold,
            tolerance=float(self.tolerance), unit=self.unit, topic=self.name,
            reasoning=self.work.format_map({**words, "gold": gold}), citation=self.citation,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verdict(Worked):
    """A class decided from several numbers: `classify` gives its place in `labels`, or None for numbers not asked."""

    labels: tuple[str, ...]
    classify: Callable[..., int | None]
    reasons: tuple[str, ...]
    """A template of the reasoning for each label."""
    shuffled: bool = False
    """Whether the options have no natural order."""

    def pools(self) -> list[list[Numbers]]:
        """The numbers by label."""
        pools: list[list[Numbers]] = [[] for _ in self.labels]
        for numbers in grid(self.axes):
            place = self.classify(*numbers)
            if place is not None:
                pools[place].append(numbers)
        return pools

    def write(self, row_id: str, numbers: Numbers, rng: Random) -> Example:
        """Fill in the templates of the label that holds."""
        place = self.classify(*numbers)
        assert place is not None, f"{self.name}: {numbers} is in no pool"
        words = self.shown(numbers)
        labels = list(self.labels)
        if self.shuffled:
            rng.shuffle(labels)
        reasoning = self.reasons[place].format_map(words)
        return self.judged(row_id, self.ask.format_map(words), reasoning, labels, self.labels[place])
