"""Characters: one way of writing each: without accents, indices on the line, plain quotes and hyphens."""

import re
import unicodedata
from functools import lru_cache

_ACCENTS = re.compile(r"(?<=[^\W\d_])[\u0300-\u036f]+")  # of letters alone: a stroke through = says `not`
_EXPONENT = re.compile("(?<=[0-9])[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_EXPONENTS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_FRACTION = re.compile("([0-9]?) ?([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_SIGNS = str.maketrans(
    {"æ": "ae", "œ": "oe", "Æ": "Ae", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"’": "'", "‘": "'", "“": '"', "”": '"', "≥": ">=", "≤": "<=", "⩾": ">=", "⩽": "<=", "⁄": "/"}
    | dict.fromkeys("‐‑‒–—−", "-")
)
# Letters in another shape are look-alikes, not another way of writing the same.
_SHAPES = ("<font>", "<circle>", "<wide>", "<narrow>", "<square>")


def folded(text: str) -> str:
    """The text without accents and with plain signs: CO₂ is CO2, ½ is 1/2, and composed is decomposed."""
    if text.isascii():
        return text
    text = _EXPONENT.sub(lambda found: "^" + found[0].translate(_EXPONENTS), spelled_fractions(text))
    return "".join(map(_plain, _ACCENTS.sub("", text.translate(_SIGNS))))


def spelled_fractions(text: str) -> str:
    """The text with `1/2` for ½, and `2 1/2` for 2½."""
    return _FRACTION.sub(lambda found: f"{found[1]} {_digits(found[2])}".lstrip(), text)


def _digits(sign: str) -> str:
    return unicodedata.normalize("NFKD", sign).replace("⁄", "/")


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """One at a time: to sort a long run of marks takes quadratic time."""
    if character.isascii() or unicodedata.decomposition(character).startswith(_SHAPES):
        return character
    parts = unicodedata.normalize("NFKD", character).translate(_SIGNS)
    return _ACCENTS.sub("", parts)
