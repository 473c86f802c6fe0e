"""Comparisons: numbers that one text bounds from below and the other from above ('>14', 'at most 14')."""

import re
from collections import Counter, defaultdict

from medgrpo.contradictions.tokens import plain

_ABOVE = "more|greater|higher|longer|older|larger|later"
_BELOW = "less|fewer|lower|shorter|younger|smaller|earlier"
_AT_LEAST = rf"(?:no|not) (?:{_BELOW}) than|at least|>=|≥|⩾|&gt;|>|(?:{_ABOVE}) than|\bover|\babove|exceed(?:s|ing)?"
_AT_MOST = rf"(?:no|not) (?:{_ABOVE}) than|at most|<=|≤|⩽|&lt;|<|(?:{_BELOW}) than|\bbelow|\bunder"
_NUMBER = r"\d{1,12}(?:,\d{3}){0,4}(?:\.\d{1,12})?"
_BEFORE = re.compile(rf"(?:(?P<least>{_AT_LEAST})|{_AT_MOST})(?: or equal to)?\s?(?P<number>{_NUMBER})")
_BEHIND = re.compile(
    rf"(?<![\d.,])(?P<number>{_NUMBER})(?:\s[^\W\d_]{{1,12}})? (?:or|and) "
    rf"(?:(?P<least>above|over|{_ABOVE})|below|under|{_BELOW})\b"
)


def bounds_differ(one: str, other: str) -> bool:
    """Whether the texts, with digits for number words, bound a number from different sides."""
    here, there = _find_bounds(one), _find_bounds(other)
    return any(here[number] - there[number] and there[number] - here[number] for number in here.keys() & there.keys())


def _find_bounds(text: str) -> dict[float, Counter[str]]:
    """Number → the sides that the text bounds it from, each once."""
    bounds: dict[float, Counter[str]] = defaultdict(Counter)
    for pattern in (_BEFORE, _BEHIND):
        for match in pattern.finditer(plain(text)):
            bounds[float(match["number"].replace(",", ""))]["least" if match["least"] else "most"] = 1
    return bounds
