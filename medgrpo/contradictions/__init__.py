"""Contradictions: what makes two answers exclude each other although a sentence encoder finds them alike."""

import math
from collections import Counter
from functools import lru_cache
from typing import Literal

from medgrpo.contradictions.comparisons import bounds_differ
from medgrpo.contradictions.drugs import name_different_drugs
from medgrpo.contradictions.names import Names, find_lettered_names
from medgrpo.contradictions.negation import contrasted
from medgrpo.contradictions.numerals import find_numbered_names, with_digits, with_fractions
from medgrpo.contradictions.opposites import find_opposite
from medgrpo.contradictions.tokens import read_tokens
from medgrpo.judge.quantities import Quantity, find_quantities, same_quantity

Family = Literal["negation", "number", "unit", "side", "opposite", "drug"]
MAX_CHARACTERS = 2000
"""Characters of a text that are compared: as many as the semantic reward encodes. They bound time and memory."""
_MOST_QUANTITIES = 64
"""Distinct quantities of a text that are compared: each with each of the other's."""


def find_contradiction(answer: str, gold: str) -> Family | None:
    """The first family in which two texts exclude each other; None where none is found.

    Symmetric in the two texts; never raises. What follows the first `MAX_CHARACTERS` of a text isn't compared. Apart
    from a negated word, each text must have something that the other lacks: an answer that says more than the gold
    isn't contradicted by it.
    """
    return _compare(_cut(answer), _cut(gold))


def _cut(text: str) -> str:
    """The text with single spaces, as many whole words as fit."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rsplit(" ", 1)[0]


@lru_cache(maxsize=4096)
def _compare(answer: str, gold: str) -> Family | None:
    one, other = read_tokens(answer), read_tokens(gold)
    if contrasted(one, other):
        return "negation"
    here, there = with_digits(answer), with_digits(gold)
    if family := _compare_numbers(here, there):
        return family
    if bounds_differ(here, there):
        return "opposite"
    if side := find_opposite(one, other):
        return side
    if _names_differ(find_lettered_names(here), find_lettered_names(there)):
        return "number"
    return "drug" if name_different_drugs(answer, gold) else None


def _compare_numbers(one: str, other: str) -> Literal["number", "unit"] | None:
    """Whether each text has a number that the other lacks, or the same number with a unit of another size."""
    (here, names), (there, other_names) = find_numbered_names(one), find_numbered_names(other)
    if _names_differ(names, other_names):
        return "number"
    return _compare_quantities(here, there) and _compare_quantities(with_fractions(here), with_fractions(there))


def _names_differ(one: Names, other: Names) -> bool:
    """Whether each text has a form of the same name that the other lacks."""
    return any(one[name] - other[name] and other[name] - one[name] for name in one.keys() & other.keys())


def _compare_quantities(one: str, other: str) -> Literal["number", "unit"] | None:
    counts, other_counts = Counter(find_quantities(one)), Counter(find_quantities(other))
    lacking, missing = _unmatched(counts - other_counts, other_counts - counts)
    if not lacking or not missing:
        return None
    return "unit" if any(math.isclose(a.value, b.value) for a in lacking for b in missing) else "number"


def _unmatched(one: Counter[Quantity], other: Counter[Quantity]) -> tuple[list[Quantity], list[Quantity]]:
    """The quantities of each side that are no quantity of the other in any unit."""
    here, there = list(one)[:_MOST_QUANTITIES], list(other)[:_MOST_QUANTITIES]
    pairs = [(a, b) for a in here for b in there if same_quantity(a, b) or _differ_in_case(a, b)]
    matched, matched_there = {a for a, _ in pairs}, {b for _, b in pairs}
    return [a for a in here if a not in matched], [b for b in there if b not in matched_there]


def _differ_in_case(a: Quantity, b: Quantity) -> bool:
    """Whether only the unit's case differs: a text in capitals, or in lower case, says mM and mm alike."""
    return a.value == b.value and a.unit.lower() == b.unit.lower()
