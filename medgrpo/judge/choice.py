"""Choices: the one option that an answer names, by its letter, its text, or both."""

import re

from medgrpo.judge.amounts import has_same_units
from medgrpo.judge.disguise import is_disguised
from medgrpo.judge.phrases import comparable, without_lead
from medgrpo.judge.spelling import same_text
from medgrpo.types import Example

_LETTER = re.compile(
    r"(?:(?:the )?(?:option|choice|answer|letter) )?"
    r"[(\[]?([A-Za-z])(?=[ .:)\],;!(–—-]|$)",
    re.IGNORECASE,
)
_PICK = re.compile(
    r"(?:(?:(?:the|my) )?(?:final )?answer ?[-–—] ?|(?:the )?letter "
    r"|i(?: would|'d|’d)? (?:choose|pick|select|go with) )",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"\)? is (?:correct|right|(?:the )?(?:(?:correct|right|best|final) )?(?:answer|option|choice|one))", re.IGNORECASE
)
_LETTER_LAST = re.compile(r"\s*[(\[]([A-Za-z])[)\]]$")
_BRACKETS = re.compile(r"\s*\[([A-Za-z])\]")
_AFTER_LETTER = " .:)],;!–—-"
_LONGEST_VERDICT = 40


def read_choice(answer: str, example: Example) -> str | None:
    """The letter of the option that the answer names; None where it names none, or several, or denies one.

    A bare letter of an option always means that option, also where another one's text is that letter (blood group A).
    The whole answer must be the option, so that nothing before or after it can deny it.
    """
    answer = _BRACKETS.sub(r"(\1)", answer, count=1) if _BRACKETS.match(answer) else answer
    if is_disguised(answer, list(example.options.values())):
        return None
    led = without_lead(answer)
    for text in (" ".join(answer.split()), led, _PICK.sub("", led, count=1) if _PICK.match(led) else led):
        if letter := _bare_letter(text, example) or _by_text(text, example) or _with_text(text, example):
            return letter
    return None


def is_right_choice(letter: str, example: Example) -> bool:
    """Whether an option that was read is the gold, which must be an option."""
    return letter == example.gold and letter in example.options


def _parts(text: str, example: Example) -> tuple[str, str]:
    """The option letter that the text starts with, and what follows it; empty where it starts with none."""
    text = text.strip(" .\"'")
    match = _LETTER.match(text)
    letter = match[1].upper() if match else ""
    return (letter, text[match.end() :]) if match and letter in example.options else ("", "")


def _bare_letter(text: str, example: Example) -> str:
    letter, rest = _parts(text, example)
    return letter if letter and (not rest.strip(_AFTER_LETTER) or _VERDICT.fullmatch(rest.rstrip(" .!"))) else ""


def _by_text(text: str, example: Example) -> str:
    """The option whose text this is, also in other spelling if that is only one's.

    Where several have the very text, which is a defect of the row, the gold.
    """
    if not comparable(text):
        return ""
    letters = [letter for letter, option in example.options.items() if _is_exactly(text, option)]
    if letters or _parts(text, example)[0]:  # `A. high` isn't `a high`
        return example.gold if example.gold in letters else letters[0] if letters else ""
    letters = [letter for letter, option in example.options.items() if same_text(text, option)]
    return letters[0] if len(letters) == 1 else ""


def _is_exactly(text: str, option: str) -> bool:
    return comparable(text) == comparable(option) and has_same_units(text, option)


def _with_text(text: str, example: Example) -> str:
    """The option by its letter and its own text in either order, or by its text and `is correct`.

    A letter with anything else is no answer.
    """
    text = text.strip(" .!\"'")
    letter, rest = _parts(text, example)
    if letter:
        return letter if _is_text_of(letter, rest, example) else ""
    if last := _LETTER_LAST.search(text[-_LONGEST_VERDICT:]):
        letter = last[1].upper()
        return letter if _is_text_of(letter, text[: -len(last[0])], example) else ""
    return _by_verdict(text, example)


def _is_text_of(letter: str, rest: str, example: Example) -> bool:
    """Whether the rest is the text of that letter's option and no other's; `C, A` names two options."""
    listed = rest.strip(" ,;").upper() in example.options and rest.lstrip()[:1] in {",", ";"}
    rest = rest.lstrip(_AFTER_LETTER)
    rest = rest[1:-1] if rest[:1] == "(" and rest[-1:] == ")" else rest
    option = example.options.get(letter)
    if option is None or listed:
        return False
    return _is_exactly(rest, option) or _by_text(rest, example) == letter


def _by_verdict(text: str, example: Example) -> str:
    """The option whose text is said to be right: `high is correct`."""
    start = text.casefold().rfind(" is ")
    said = start >= 0 and len(text) - start < _LONGEST_VERDICT and _VERDICT.fullmatch(text[start:])
    return _by_text(text[:start], example) if said else ""
