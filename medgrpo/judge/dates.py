"""Dates: the day that an answer names."""

import re
from datetime import date, datetime

from medgrpo.judge.disguise import is_disguised
from medgrpo.judge.phrases import without_lead
from medgrpo.types import Example

_FORMATS = (
    *("%m/%d/%Y", "%Y-%m-%d", "%Y/%m/%d", "%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y", "%Y %B %d"),
    *("%m-%d-%Y", "%d-%b-%Y", "%d-%B-%Y", "%b-%d-%Y", "%B-%d-%Y"),
)
_ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\b( of\b)?", re.IGNORECASE)
_WEEKDAY = re.compile(r"(?:on )?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day\b,? ?)?(?:the )?", re.IGNORECASE)
_LONGEST = 60


def read_date(answer: str, example: Example) -> date | None:
    """The one day that an answer names, as month/day/year, year-month-day or with the month's English name."""
    if len(answer) > _LONGEST or is_disguised(answer, (example.gold,)):
        return None
    return _read(without_lead(answer))


def is_right_date(day: date, example: Example) -> bool:
    """Whether a day is the gold's."""
    return day == _read(example.gold)


def _read(text: str) -> date | None:
    text = _ORDINAL.sub("", text.strip(" ."))
    start = _WEEKDAY.match(text)
    text = text[start.end() :] if start else text
    text = " ".join(text.replace(",", " ").replace(".", " ").split())
    text = re.sub(r"\bsept\b", "sep", text, flags=re.IGNORECASE)
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None
