"""Durations of several parts: `17 weeks, 4 days`."""

import re
from functools import lru_cache

from medgrpo.judge.quantities import NUMBER, Quantity, convert, read_power
from medgrpo.judge.units import read_unit

_PART = re.compile(rf"({NUMBER}) ?-?([A-Za-z]{{1,10}})(?:,? and |, ?| |$)", re.ASCII)
_LONGEST = 100
_UNITS = ("y", "mo", "wk", "d", "h", "min", "s")
"""From the longest on: the order in which a duration names them, each once at most."""


def read_duration(text: str) -> Quantity | None:
    """The length of a duration of several parts, in the unit of the last; None where the text is anything else."""
    return _read(" ".join(text.strip(" .()").split())) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _read(text: str) -> Quantity | None:
    parts, place = [], 0
    while match := _PART.match(text, place):
        parts.append((read_power(match[1]), read_unit(match[2])))
        place = match.end()
    if place < len(text) or len(parts) < 2:
        return None
    return _sum([Quantity(value or 0.0, unit.name if unit else "") for value, unit in parts])


def _sum(parts: list[Quantity]) -> Quantity | None:
    if any(part.unit not in _UNITS for part in parts):
        return None
    places = [_UNITS.index(part.unit) for part in parts]
    if places != sorted(set(places)):
        return None
    unit = parts[-1].unit
    return Quantity(sum(convert(part, unit) or 0.0 for part in parts), unit)
