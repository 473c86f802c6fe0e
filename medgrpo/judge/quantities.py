"""Quantities: the numbers of a text with their units, and their conversion by pint."""

import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

from medgrpo.judge.units import LONGEST_UNIT, UNIT, Unit, plain, read_unit

# What pint lacks, or has in another meaning: each is a dimension of its own, so that it converts into nothing else.
_DEFINITIONS = (
    *("equivalent_ = [equivalence]", "osmole_ = [osmosis]", "activity_ = [international_activity]"),
    *("score_point_ = [score]", "drop_count_ = [drop]", "angle_degree_ = [plane_angle]", "pack_year_ = [smoking]"),
    *("kilocount_ = 1000", "megacount_ = 1000000"),
)
NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
"""A number without a sign; thousands may have commas."""
_POWER = r"(?:[eE][-+]?[0-9]{1,3}(?![0-9])|\s?(?:[x×*·]|\\times)\s?10(?:\^|\*\*)\s?\{?[-+]?[0-9]{1,2}\}?(?![0-9]))"
NUMERAL = rf"(?:10\^[-+]?[0-9]{{1,2}}(?![0-9])|{NUMBER}{_POWER}?)"
"""A number without a sign, also as a power of ten or times one."""
_QUANTITY = re.compile(rf"(?<![0-9A-Za-z_.])(?:(?<![)\]])[-+])?{NUMERAL}", re.ASCII)
_SEPARATOR = re.compile(r"-|\s{0,2}")
_TEN = re.compile(r"([-+]?)10\^([-+]?[0-9]{1,2})")


class Quantity(NamedTuple):
    """A number with its unit."""

    value: float
    unit: str = ""
    """In our spelling (`mcg` is `µg`); empty: none, or none that we know."""


def find_quantities(text: str) -> list[Quantity]:
    """All numbers of a text, each with the unit that follows it. Never raises; takes linear time."""
    text, found, place = plain(text), [], 0
    while match := _QUANTITY.search(text, place):
        unit, place = _unit_after(text, match.end())
        if (value := read_power(match[0])) is not None:
            found.append(Quantity(value, unit))
    return found


def same_unit(a: str, b: str) -> bool:
    """Whether two texts name the same unit: `mcg` and `µg`, `cc` and `mL`, or any two equal texts."""
    return a == b or _scales(a, b) == (1.0, 0.0)


def convert(quantity: Quantity, unit: str) -> float | None:
    """The value in another unit; None where that can't be: another dimension, an unknown unit, no unit on one side.

    What depends on the substance (mg/dL to mmol/L, mEq to mmol) isn't converted.
    """
    scales = (1.0, 0.0) if quantity.unit == unit else _scales(quantity.unit, unit)
    if scales is None:
        return None
    value = quantity.value * scales[0] + scales[1]
    return value if math.isfinite(value) else None


def same_quantity(a: Quantity, b: Quantity, tolerance: float = 1e-9) -> bool:
    """Whether two quantities are equal within a relative tolerance; a unit that one of them lacks is the other's."""
    value = a.value if not (a.unit and b.unit) else convert(a, b.unit)
    return value is not None and math.isclose(value, b.value, rel_tol=tolerance, abs_tol=1e-300)


def read_power(text: str) -> float | None:
    """The value of a number as this module finds it (`-1,200`, `1.2e3`, `1.2 x 10^3`, `10^9`); None: too large."""
    if ten := _TEN.fullmatch(text):
        return float(f"{ten[1]}1e{ten[2]}")
    mantissa, *exponent = re.split(r"\s?(?:[x×*·]|\\times)\s?10(?:\^|\*\*)\s?", text, maxsplit=1)
    power = f"e{exponent[0].strip('{}')}" if exponent else ""
    value = float(mantissa.replace(",", "") + power)
    return value if math.isfinite(value) else None


def _unit_after(text: str, place: int) -> tuple[str, int]:
    """The unit that starts after at most two spaces or a hyphen, in our spelling, and the place where it ends."""
    separator = _SEPARATOR.match(text, place)
    start = separator.end() if separator else place
    match = UNIT.match(text, start, start + LONGEST_UNIT)
    unit = read_unit(match[0]) if match and match[0] else None
    return (unit.name, match.end()) if match and unit else ("", place)


def _scales(source: str, target: str) -> tuple[float, float] | None:
    """Factor and offset that turn a value in one unit into one in another; None where there are none."""
    one, other = read_unit(source), read_unit(target)
    return _between(one, other) if one and other else None


@lru_cache(maxsize=4096)
def _between(one: Unit, other: Unit) -> tuple[float, float] | None:
    if one.parts == other.parts:  # needs no pint
        return one.scale / other.scale, 0.0
    import pint  # takes a second, and most judgements need none

    try:
        at_zero, at_hundred = (_convert(value, one, other) for value in (0.0, 100.0))
    except (pint.PintError, ArithmeticError):
        return None
    factor = (at_hundred - at_zero) / 100
    return (1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor), at_zero


def _convert(value: float, source: Unit, target: Unit) -> float:
    registry = _registry()
    units = [registry.Unit(registry.UnitsContainer(_container(unit))) for unit in (source, target)]
    return float(registry.Quantity(value * source.scale, units[0]).to(units[1]).magnitude) / target.scale


def _container(unit: Unit) -> dict[str, int]:
    """Pint's names with the sum of their exponents."""
    powers: dict[str, int] = {}
    for part, power in unit.parts:
        name, times = ("minute", -power) if part == "1/minute" else (part.replace("*", "_"), power)
        powers[name] = powers.get(name, 0) + times
    return {name: power for name, power in powers.items() if power}


@lru_cache(maxsize=1)
def _registry() -> Any:
    """Pint's units and ours; made once, since it takes a second."""
    import pint  # as above

    registry: Any = pint.UnitRegistry()
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry
