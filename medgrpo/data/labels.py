"""Labels: how a column names the right option, by letter, number (from 0 or 1) or text, seen from all its rows."""

import re
from collections.abc import Mapping
from typing import Literal

from medgrpo.data.patient_data import shown

LETTERS = "ABCDEFGHIJ"
_LETTER_SET = frozenset(LETTERS)
_NUMBER = re.compile(r"(-?\d{1,9})(?:\.0+)?")  # a column with gaps comes as 1.0


class Labels:
    """What the golds of choice questions look like: first `see` every row, then `settle`; `letter` then reads them."""

    def __init__(self, base: Literal[0, 1] | None) -> None:
        """Start without a row.

        Args:
            base: number of the first option, where it is stated: golds are then numbers.
        """
        self._stated = base
        self._base: int = base or 0
        self._rows = 0
        self._letters = self._numbers = self._texts = self._absent = True
        self._zero = self._last = ""

    def see(self, place: str, gold: str, options: Mapping[str, str]) -> None:
        """Take note of a row's gold; an empty one tells nothing."""
        if not gold:
            return
        self._rows += 1
        self._letters = self._letters and gold.upper() in _LETTER_SET
        self._texts = self._texts and list(options.values()).count(gold) == 1
        number = _read_number(gold) if self._numbers else None
        self._numbers = number is not None
        self._absent = self._absent and number == -1
        if number == 0:
            self._zero = self._zero or place
        elif number is not None and number == _count(options):
            self._last = self._last or place

    @property
    def is_open(self) -> bool:
        """Whether more rows are needed to know what the golds mean."""
        return self.are_numbers and self._stated is None and not self._zero and not self._last and not self._absent

    @property
    def are_numbers(self) -> bool:
        """Whether golds are option numbers."""
        # Numbers that are an option's text in every single row (1, 2, 3 joints) are texts.
        return self._stated is not None or (self._rows > 0 and self._numbers and not self._texts)

    def settle(self) -> None:
        """Decide, after the last row, what the first option is called where golds are numbers.

        Raises:
            ValueError: the rows contradict one another, or don't tell.
        """
        if self.are_numbers:
            self._base = self._find_base()

    def _find_base(self) -> int:
        if self._rows and self._numbers and self._absent:
            raise ValueError("every gold is -1: this split has no golds; choose another split or file")
        if self._stated is not None:
            return self._stated
        if self._zero and self._last:
            raise ValueError(
                f"golds are numbered from 0 in {self._zero}, and from 1 in {self._last} (it is the number of options)"
            )
        if not self._zero and not self._last:
            raise ValueError(
                "no gold is 0 and none is the number of options, so the first option may be called 0 or 1: "
                "set data.source.columns.label_base (source kinds file and hub)"
            )
        return 0 if self._zero else 1

    def letter(self, gold: str, options: Mapping[str, str]) -> str:
        """The option letter that a gold means; empty for an empty gold.

        A letter that the row has no option for stays as it is: validation names such rows.

        Raises:
            ValueError: the gold names no option.
        """
        if not gold or (self._letters and self._stated is None):
            return gold.upper()
        if self.are_numbers:
            return self._numbered(gold, options)
        named = [letter for letter, text in options.items() if text == gold]
        if len(named) == 1:
            return named[0]
        if not named and gold.upper() in _LETTER_SET:
            return gold.upper()
        what = "the text of several options" if named else "neither a letter from A to J nor an option's text"
        raise ValueError(f"gold {shown(gold)!r} is {what}")

    def _numbered(self, gold: str, options: Mapping[str, str]) -> str:
        base, count = self._base, _count(options)
        number = _read_number(gold)
        if number is None or not base <= number < base + count:
            raise ValueError(
                f"gold {shown(gold)!r} is no number from {base} to {base + count - 1}: "
                f"there are {len(options)} options, and the first is called {base}"
            )
        letter = LETTERS[number - base]
        if letter not in options:
            raise ValueError(
                f"gold {shown(gold)!r} is option {letter}, but there are only {', '.join(sorted(options))}"
            )
        return letter


def _count(options: Mapping[str, str]) -> int:
    """How many options there are up to the last one, those without a text included: they have their numbers too."""
    return LETTERS.index(max(options)) + 1 if options else 0


def _read_number(gold: str) -> int | None:
    if gold.isdecimal() and gold.isascii() and len(gold) < 10:
        return int(gold)
    match = _NUMBER.fullmatch(gold)
    return int(match[1]) if match else None
