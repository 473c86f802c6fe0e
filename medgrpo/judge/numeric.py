"""Numbers and ranges: what an answer says, and whether it is near enough to the gold after conversion."""

import re
from typing import NamedTuple

from medgrpo.judge.characters import spelled_fractions
from medgrpo.judge.disguise import is_disguised
from medgrpo.judge.durations import read_duration
from medgrpo.judge.phrases import comparable, without_lead, without_name
from medgrpo.judge.quantities import NUMBER, NUMERAL, Quantity, convert, read_power
from medgrpo.judge.units import plain, read_unit
from medgrpo.types import Example

_SLACK = 1e-9
_FLOAT_ERROR = 1e-12
"""What conversion may be off by, relative."""
_SIGNED = rf"[-+]?{NUMERAL}"
_ABOUT = re.compile(r"(?:(?:about|approximately|approx\.?|around|roughly|circa)(?= )|[~≈≃=]) ?", re.IGNORECASE)
_QUANTITY = re.compile(rf"({_SIGNED})(.*)", re.DOTALL | re.ASCII)
_FRACTION = re.compile(r"([-+]?)(?:([0-9]{1,4}) )?([1-9])/([234568]|10)(?![0-9])(.*)", re.DOTALL | re.ASCII)
_COUNT_WORD = re.compile(r"\s?-?(thousand|million|billion)s?\b", re.IGNORECASE)
_COUNTS = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_GOLD = re.compile(rf"[-+]?{NUMBER}(?:[eE][-+]?[0-9]{{1,3}})?", re.ASCII)
# The unit of the first end is short, and has no digit in front: else where it ends and the range begins is unclear.
_RANGE = re.compile(
    rf"(?:(between )|(from ))?({_SIGNED})([^0-9]{{0,30}}?) ?(-|to|and) ?({_SIGNED})(.*)", re.DOTALL | re.ASCII
)


class Range(NamedTuple):
    """Two ends, each with its unit as far as it has one that we know."""

    low: Quantity
    high: Quantity


def read_numeric(answer: str, example: Example) -> Quantity | None:
    """The one number of an answer; None where it has none, or anything besides it but a unit.

    A range, a comparison (`>14`), a denial and two numbers are none. A duration of several parts is one number. The
    gold's own unit is known also where no unit of that name is: `points`.
    """
    text = _core(answer, example)
    match = _QUANTITY.fullmatch(text)
    value = read_power(match[1]) if match else None
    if match is None or value is None:
        return None
    return _scaled(value, match[2], example) or _read_fraction(text, example) or read_duration(text)


def is_right_numeric(quantity: Quantity, example: Example) -> bool:
    """Whether a quantity is within the gold's limits, or else its tolerance, in its unit; a missing unit is that.

    Raises:
        ValueError: the gold is no number.
    """
    gold = read_number(example.gold)
    lowest, highest = example.limits or (gold - example.tolerance, gold + example.tolerance)
    value = in_unit(quantity, example.unit)
    return value is not None and lowest - _slack(lowest) <= value <= highest + _slack(highest)


def read_range(answer: str, example: Example) -> Range | None:
    """The two ends of a range such as `3.5-5.0 mmol/L` or `between 3.5 and 5.0`; None for any other answer.

    A unit after the last end alone is the first end's too.
    """
    match = _RANGE.fullmatch(_core(answer, example))
    if match is None or (match[5] == "and") != bool(match[1]):
        return None
    values = read_power(match[3]), read_power(match[6])
    units = _unit(match[4], example), _unit(match[7], example)
    if values[0] is None or values[1] is None or units[0] is None or units[1] is None:
        return None
    return Range(Quantity(values[0], units[0] or units[1]), Quantity(values[1], units[1]))


def is_right_range(found: Range, example: Example) -> bool:
    """Whether both ends are the gold's, within its tolerance."""
    gold = read_range(example.gold, example)
    return gold is not None and all(
        _is_near(in_unit(end, example.unit), gold_end.value, example.tolerance)
        for end, gold_end in zip(found, gold, strict=True)
    )


def is_number(text: str) -> bool:
    """Whether a text is a number, alone, as a numeric gold must be; thousands may have commas."""
    return _GOLD.fullmatch(text) is not None


def read_number(text: str) -> float:
    """The number that a numeric gold is."""
    return float(text.replace(",", ""))


def is_range(text: str) -> bool:
    """Whether a text is a range of two numbers, the lower first, without a unit, as a gold of that kind must be."""
    match = _RANGE.fullmatch(plain(text.strip()))
    if match is None or match[4] or match[7] or match[5] == "and":
        return False
    low, high = read_power(match[3]), read_power(match[6])
    return low is not None and high is not None and low <= high


def _core(answer: str, example: Example) -> str:
    """The answer without what says nothing: leads, `about`, a closing period; empty where it is disguised."""
    if is_disguised(answer, (example.gold, example.unit)):
        return ""
    text = without_name(plain(without_lead(spelled_fractions(answer))), example.question)
    for _ in range(2):
        about = _ABOUT.match(text)
        text = text[about.end() :] if about else text
    text = text.rstrip(" .")
    return text[1:-1].strip() if text[:1] == "(" and text.find(")") == len(text) - 1 else text


def _read_fraction(text: str, example: Example) -> Quantity | None:
    """A half or the like, also after a whole number; but 14/15 is a score, and 120/80 a pressure."""
    match = _FRACTION.fullmatch(text)
    if match is None or int(match[3]) >= int(match[4]):
        return None
    unit = _unit(match[5], example)
    value = int(match[2] or 0) + int(match[3]) / int(match[4])
    return None if unit is None else Quantity(-value if match[1] == "-" else value, unit)


def _scaled(value: float, rest: str, example: Example) -> Quantity | None:
    """A number with its unit; a gold without `million` in its unit takes 1.5 million as 1500000."""
    unit = _unit(rest, example)
    word = _COUNT_WORD.match(rest)
    if word is None or (unit and (unit == example.unit or convert(Quantity(value, unit), example.unit) is not None)):
        return None if unit is None else Quantity(value, unit)
    unit = _unit(rest[word.end() :], example)
    return None if unit is None else Quantity(value * _COUNTS[word[1].lower()], unit)


def _unit(text: str, example: Example) -> str | None:
    """The unit after a number: the gold's, or one that we know; empty where there is none, None for any other text.

    Names of units are compared, so that mM isn't mm; case doesn't count for a gold's unit that we don't know.
    """
    text = text.strip(" .,;:!")
    if not text:
        return ""
    unit, wanted = read_unit(text), read_unit(example.unit)
    if text == plain(example.unit) or not (unit or wanted or comparable(text) != comparable(plain(example.unit))):
        return example.unit
    if unit and wanted and unit.name == "degrees" and wanted.name in ("°C", "°F"):
        return example.unit
    return unit.name if unit else None


def in_unit(quantity: Quantity, unit: str) -> float | None:
    """The value in the gold's unit, which is that of a quantity without one.

    A gold without a unit may be points, but is no percentage: 10% isn't 0.1, since who wrote the gold may mean either.
    """
    if not unit and quantity.unit == "points":
        return quantity.value
    return convert(quantity, unit) if quantity.unit else quantity.value


def _is_near(value: float | None, gold: float, tolerance: float) -> bool:
    return value is not None and abs(value - gold) <= max(tolerance + _slack(gold), _SLACK * abs(gold))


def _slack(bound: float) -> float:
    return max(_SLACK, _FLOAT_ERROR * abs(bound))
