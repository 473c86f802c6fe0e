"""Amounts: texts that are a quantity and nothing else, compared by what they mean: two weeks are 14 days."""

import math
import re
from functools import lru_cache
from typing import NamedTuple

from medgrpo.judge.characters import folded
from medgrpo.judge.durations import read_duration
from medgrpo.judge.quantities import NUMERAL, Quantity, convert, find_quantities, read_power
from medgrpo.judge.units import plain, read_unit

_AMOUNT = re.compile(
    rf"(>=|<=|[<>])? ?([-+]?{NUMERAL})(?: ?/ ?({NUMERAL}))?(?:-(?=[A-Za-z])| ?)(.*)", re.ASCII | re.DOTALL
)
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_ALSO_NAMES = ("°C", "°F", "K")
"""Units whose one letter is as often a name (stage 3 C), so that its case doesn't tell."""
_LONGEST = 100


class Amount(NamedTuple):
    """A quantity, a pair of them (120/80 mmHg) or a bound (>= 14), with a unit that we know or none."""

    sign: str
    values: tuple[float, ...]
    unit: str


def read_amount(text: str) -> Amount | None:
    """The amount that a whole text is; None where it says anything else."""
    if len(text) > _LONGEST:
        return None
    text = " ".join(text.split()).rstrip(" .,;:!")
    inner = text.lstrip(" .,;:!")
    is_fraction = inner[:1].isdigit() and text[: len(text) - len(inner)].endswith(".")
    return _read(f".{inner}" if is_fraction else inner)


@lru_cache(maxsize=4096)
def _read(text: str) -> Amount | None:
    if duration := read_duration(text):
        return Amount("", (duration.value,), duration.unit)
    match = _AMOUNT.fullmatch(_with_digits(plain(folded(text))))
    if match is None:
        return None
    values = [read_power(number) for number in (match[2], match[3]) if number]
    unit = read_unit(match[4]) if match[4] else None
    if None in values or (match[4] and unit is None):
        return None
    return Amount(match[1] or "", tuple(value or 0.0 for value in values), unit.name if unit else "")


def _with_digits(text: str) -> str:
    word, space, rest = text.partition(" ")
    return _WORDS.get(word.casefold(), word) + space + rest


def same_amount(one: Amount, other: Amount) -> bool:
    """Whether two amounts are equal after conversion; one with a unit is none without."""
    if one.sign != other.sign or len(one.values) != len(other.values) or bool(one.unit) != bool(other.unit):
        return False
    return all(_same(Quantity(a, one.unit), b, other.unit) for a, b in zip(one.values, other.values, strict=True))


def _same(quantity: Quantity, value: float, unit: str) -> bool:
    found = convert(quantity, unit)
    return found is not None and math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-300)


def has_same_units(one: str, other: str) -> bool:
    """Whether two texts that differ in case at most mean the same units: 5 mM isn't 5 mm, nor 5 G 5 g."""
    units, others = _units(one), _units(other)
    if len(units) != len(others):  # type II and type 2
        units, others = list(filter(None, units)), list(filter(None, others))
    return units == others


def _units(text: str) -> list[str]:
    return ["" if found.unit in _ALSO_NAMES else found.unit for found in find_quantities(text)]
