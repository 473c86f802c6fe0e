"""The fixed vocabulary of medical units, and the reader of a unit's text: nothing else ever reaches pint."""

import re
from functools import lru_cache
from typing import NamedTuple

LONGEST_UNIT = 40
"""Characters of the longest text that is read as a unit."""
_LARGEST_EXPONENT = 15

# Spelling that we write → pint's name of it (empty: a mere count), and the other spellings. A pint name with a
# trailing * is one that `medgrpo.judge.quantities` defines. Case counts only where one spelling differs by it (mM, mm).
_ATOMS: dict[str, tuple[str, str]] = {
    # mass
    "kg": ("kilogram", "kgs|kilogram|kilograms|kilo|kilos"),
    "g": ("gram", "gm|gms|gram|grams"),
    "mg": ("milligram", "mgs|milligram|milligrams"),
    "µg": ("microgram", "ug|mcg|microgram|micrograms"),
    "ng": ("nanogram", "nanogram|nanograms"),
    "pg": ("picogram", "picogram|picograms"),
    "lb": ("pound", "lbs|pound|pounds"),
    "oz": ("ounce", "ounce|ounces"),
    # volume
    "L": ("liter", "l|lt|liter|liters|litre|litres"),
    "dL": ("deciliter", "deciliter|deciliters|decilitre|decilitres"),
    "mL": ("milliliter", "mls|cc|ccs|milliliter|milliliters|millilitre|millilitres"),
    "µL": ("microliter", "ul|mcl|microliter|microliters|microlitre|microlitres"),
    "nL": ("nanoliter", ""),
    "fL": ("femtoliter", "femtoliter|femtoliters"),
    "fl oz": ("fluid_ounce", ""),
    # length
    "m": ("meter", "meter|meters|metre|metres"),
    "km": ("kilometer", "kilometer|kilometers|kilometre|kilometres"),
    "cm": ("centimeter", "cms|centimeter|centimeters|centimetre|centimetres"),
    "mm": ("millimeter", "mms|millimeter|millimeters|millimetre|millimetres"),
    "µm": ("micrometer", "um|micron|microns|micrometer|micrometers|micrometre|micrometres"),
    "nm": ("nanometer", "nanometer|nanometers"),
    "inch": ("inch", "inches"),
    "ft": ("foot", "foot|feet"),
    # time
    "ms": ("millisecond", "msec|msecs|millisecond|milliseconds"),
    "s": ("second", "sec|secs|second|seconds"),
    "min": ("minute", "mins|minute|minutes"),
    "h": ("hour", "hr|hrs|hour|hours"),
    "d": ("day", "day|days"),
    "wk": ("week", "w|wks|week|weeks"),
    "mo": ("month", "mos|month|months"),
    "y": ("year", "yr|yrs|year|years|year old|years old"),
    # substance; equivalents, osmoles and units of activity have no fixed relation to moles
    "mol": ("mole", "mole|moles"),
    "mmol": ("millimole", "mmols|millimole|millimoles"),
    "µmol": ("micromole", "umol|mcmol|micromole|micromoles"),
    "nmol": ("nanomole", "nanomole|nanomoles"),
    "pmol": ("picomole", "picomole|picomoles"),
    "M": ("molar", ""),
    "mM": ("millimolar", "millimolar"),
    "µM": ("micromolar", "uM|micromolar"),
    "nM": ("nanomolar", "nanomolar"),
    "Eq": ("equivalent*", ""),
    "mEq": ("milliequivalent*", "meqs|mval|milliequivalent|milliequivalents"),
    "µEq": ("microequivalent*", "ueq"),
    "Osm": ("osmole*", "osmol"),
    "mOsm": ("milliosmole*", "mosmol|milliosmole|milliosmoles|milliosmol"),
    "U": ("activity*", "iu|unit|units|international unit|international units"),
    "kU": ("kiloactivity*", "kiu"),
    "mU": ("milliactivity*", "miu"),
    "µU": ("microactivity*", "uu|uiu|µiu|mciu"),
    # pressure, temperature
    "mmHg": ("mmHg", "mm hg|torr|millimeters of mercury|millimetres of mercury"),
    "cmH2O": ("cmH2O", "cm h2o|cmh₂o|cm h₂o|cm of water"),
    "kPa": ("kilopascal", ""),
    "Pa": ("pascal", ""),
    "°C": ("degC", "C|° c|℃|degc|deg c|celsius|degree celsius|degrees celsius|degrees c"),
    "°F": ("degF", "F|° f|℉|degf|deg f|fahrenheit|degree fahrenheit|degrees fahrenheit|degrees f"),
    "K": ("kilocount*", "thousand|thousands"),  # K/µL is a thousand cells; no one gives a patient's kelvins
    # energy, electricity, resistance, radiation, frequency
    "kcal": ("kilocalorie", "kilocalorie|kilocalories"),
    "kJ": ("kilojoule", ""),
    "J": ("joule", "joule|joules"),
    "mV": ("millivolt", "millivolt|millivolts"),
    "mA": ("milliampere", ""),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", ""),
    "dyn": ("dyne", "dyne|dynes"),
    "Gy": ("gray", ""),
    "mGy": ("milligray", ""),
    "mSv": ("millisievert", ""),
    "MBq": ("megabecquerel", ""),
    # counts
    "%": ("percent", "％|percent|per cent|pct"),
    "million": ("megacount*", "millions"),
    "cells": ("", "cell"),
    "copies": ("", "copy"),
    "beats": ("", "beat"),
    "breaths": ("", "breath"),
    "bpm": ("1/minute", ""),
    "points": ("score_point*", "point|pts"),
    "drops": ("drop_count*", "drop|gtt|gtts"),
    "degrees": ("angle_degree*", "degree|°|deg"),
    "pack-years": ("pack_year*", "pack year|pack years|pack-year"),
}


def _spellings() -> dict[str, str]:
    """Every spelling → ours: as the table has it, and in lower case where no other unit is written so."""
    exact = {other: name for name, (_, others) in _ATOMS.items() for other in (name, *others.split("|")) if other}
    folded: dict[str, str] = {}
    for spelling, name in exact.items():
        if spelling not in {"C", "F", "M", "K"}:  # one letter that is another unit's, or no unit's, in lower case
            folded.setdefault(spelling.lower(), name)
    return folded | {spelling.lower(): exact[spelling] for spelling in exact if spelling.islower()} | exact


_SPELLINGS = _spellings()
_OTHER_UNITS = {"MU", "MIU", "mS", "MS", "G", "MM", "NM", "MV", "MA", "pA", "mBq"}
"""Spellings that mean other units than the one of that spelling in lower case, or could mean two."""
_ATOM = "|".join(
    re.escape(spelling).replace(r"\ ", r"\s?") for spelling in sorted(_SPELLINGS, key=lambda text: (-len(text), text))
)
_TERM = rf"(?:{_ATOM})(?:(?:\^|\*\*)?[2-5])?"
_FACTOR = r"(?:[x×*·]\s?)?10(?:\^|\*\*?|e)[-+]?[0-9]{1,2}"
_DIVIDED = rf"\s?(?:/|\bper\b|[·⋅*])\s?(?:1\.73\s?)?{_TERM}"
UNIT = re.compile(
    rf"(?:{_FACTOR}\s?)?(?:{_TERM}|(?=/|per\b))(?:{_DIVIDED}){{0,4}}(?![A-Za-z0-9_µ])", re.IGNORECASE | re.ASCII
)
"""A unit's text; it may also match nothing. Written for texts that went through `plain`."""
_PIECE = re.compile(
    rf"(?P<factor>{_FACTOR})|(?P<skin>1\.73)|(?P<atom>{_ATOM})(?:(?:\^|\*\*)?(?P<power>[2-5]))?|(?P<by>/|\bper\b|[·⋅*])",
    re.IGNORECASE | re.ASCII,
)
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPTS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_PER_DAY = re.compile(
    r"(?<=/)\s?24\s?(?:h|hrs?|hours?)\b|(?<=\bper )24\s?(?:h|hrs?|hours?)\b", re.IGNORECASE | re.ASCII
)
_PLAIN = str.maketrans(
    {
        "μ": "µ",
        "−": "-",
        "–": "-",
        "—": "-",
        "‐": "-",
        "‑": "-",
        "∕": "/",
        "⁄": "/",
        "／": "/",
        "\u00a0": " ",
        "\u202f": " ",
    }
)


class Unit(NamedTuple):
    """A unit that was read: `scale` times pint's units."""

    name: str
    """Our spelling of it."""
    scale: float
    parts: tuple[tuple[str, int], ...]
    """Pint's names with their exponents."""


def plain(text: str) -> str:
    """The text with one spelling each of minus, micro and slash, exponents as `^9`, and a day for each 24 hours."""
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text).translate(_PLAIN)
    return _PER_DAY.sub("d", text)


def read_unit(text: str) -> Unit | None:
    """The unit that a text is, alone; None where it is none that we know."""
    # What is cached is short, so that hostile texts fill no memory.
    return _read(text) if 0 < len(text) <= LONGEST_UNIT else None


@lru_cache(maxsize=4096)
def _read(text: str) -> Unit | None:
    text = plain(text).strip()
    if not text or not UNIT.fullmatch(text):
        return None
    names, scale, parts, sign = [], 1.0, [], 1
    for piece in _PIECE.finditer(text):
        if piece["factor"]:
            exponent = int(re.split(r"\^|\*+|e", piece["factor"].lower().lstrip("x×*· "))[1])
            if abs(exponent) > _LARGEST_EXPONENT:
                return None
            scale *= 10.0**exponent
            names.append(f"10^{exponent}" + ("" if text[piece.end() :].lstrip()[:1] == "/" else " "))
        elif piece["by"]:
            sign = 1 if piece["by"] in "·⋅*" else -1
            names.append("·" if sign == 1 else "/")
        elif piece["skin"]:
            scale *= 1.73**sign
            names.append("1.73 ")
        elif piece["atom"]:
            name = _known(piece["atom"])
            if name is None:
                return None
            power = int(piece["power"] or 1)
            names.append(name + (f"^{power}" if power > 1 else ""))
            if _ATOMS[name][0]:
                parts.append((_ATOMS[name][0], power * sign))
    return Unit("".join(names), scale, tuple(parts))


def _known(atom: str) -> str | None:
    """Our spelling of one atom; the case counts first."""
    atom = " ".join(atom.split())
    if atom in _OTHER_UNITS:
        return None
    for spelling in (atom, atom.lower(), atom.lower().replace(" ", "")):
        if spelling in _SPELLINGS:
            return _SPELLINGS[spelling]
    return None
