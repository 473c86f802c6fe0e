"""Reasonings that are worth nothing: what a language model finds likely, and what nobody would."""

from collections.abc import Sequence
from random import Random
from string import ascii_lowercase

from medgrpo.audit.honest import Row

DRAWN_WORDS = 24
"""Words of the question that are drawn for a text without sense, at most."""

MONTHS = (
    "January, February, March, April, May, June, July, August, September, October, November, December. "
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."
)
MEMORISED = (
    " ".join(map(str, range(1, 101))),
    " ".join(ascii_lowercase),
    MONTHS,
    "To be, or not to be, that is the question, and the quick brown fox jumps over the lazy dog.",
)
"""What a base model knows by heart, and so finds more likely than any reasoning."""


def _random_letters(words: int = 24) -> str:
    """Words of random letters, the same ones always: one text costs one pass of the scorer, however many rows."""
    draw = Random(0)
    return " ".join("".join(draw.choices(ascii_lowercase, k=draw.randint(3, 9))) for _ in range(words))


RANDOM_LETTERS = _random_letters()


def fluent(row: Row) -> tuple[str, str]:
    """The most fluent reasonings there are, neither of which is about the row: a memorised one and another row's."""
    return MONTHS, row.borrowed


def gibberish(row: Row) -> list[str]:
    """Texts without sense: random letters, the row's reasoning out of order, words drawn from its question."""
    shuffled = _drawn(row.reasoning.split())
    drawn = _drawn(row.example.question.split())[:DRAWN_WORDS]
    made = (RANDOM_LETTERS, " ".join(shuffled), " ".join(drawn))
    return [text for text in made if text != row.reasoning]


def _drawn(words: Sequence[str]) -> list[str]:
    """The words in another order, the same one always."""
    return Random(0).sample(words, len(words))
