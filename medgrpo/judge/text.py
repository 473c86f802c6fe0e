"""Texts: the one thing that an answer names, in the words of the gold or of an alias."""

import re
from collections.abc import Iterator

from medgrpo.judge.amounts import read_amount
from medgrpo.judge.disguise import is_disguised
from medgrpo.judge.phrases import comparable, is_evasive, without_lead
from medgrpo.judge.spelling import forms, same_text
from medgrpo.types import Example

_SIGNS = r"[,;/?!|()&\n]|:|\s[-+]+(?=\s)"
_PARTING = re.compile(rf"[\s\"'\])]*(?:{_SIGNS}|\.(?![0-9])|\b(?:or|and|vs|versus|plus)\b)")
_PARTED = re.compile(
    rf"(?:{_SIGNS}|\.|\b(?:or|and|vs\.?|versus|plus)(?!\w))[\s\"'(\[]*"
    r"(?:(?:the|an?|either|also|even|maybe|perhaps|possibly|probably|rather|it|is) ){0,3}[\"'(\[]*$"
)
_DECIMAL = re.compile(r"[0-9][.,/]$")
_NEAR = 40
"""Characters around a right answer in which it is looked for what parts it from the rest."""
_FILLING = "a an the is it this that most more likely probable probably answer diagnosis or and vs plus"
"""Words that say nothing."""
_BEFORE = (
    "a an the is it this that be of to in by with from for as and or no likely acute subacute chronic severe"
    " mild moderate primary secondary left right bilateral recurrent congenital acquired new massive early late"
    " positive negative acquired underlying active stable have has having suggests indicates causes shows"
)
"""Words that may stand before a right answer within a longer one."""
_AFTER = (
    "is are was of to in by with without from for as on at after during and or due because caused causing secondary"
    " associated related complicated leading resulting following that which who disease syndrome disorder deficiency"
    " failure infection toxicity therapy treatment attack crisis vs plus versus likely most patient"
)
"""Words that may stand after it."""
_SHORTEST_QUESTION = 4
_LONGEST_PHRASE = 8
"""Words of a question from which on they are the question, not an answer that it mentions."""


def read_text(answer: str, example: Example) -> str | None:
    """The answer without a lead; None where it is empty or disguised, denies, hedges, lists or asks the question.

    What a gold or an alias says itself is allowed: `not dangerous`, `warfarin or heparin`.
    """
    known = (example.gold, *example.aliases)
    if not comparable(answer) or is_disguised(answer, known):
        return None
    if _is_one_of(answer, known):
        return answer
    text = without_lead(answer)
    if not comparable(text):
        return None
    if _is_one_of(text, known) or read_amount(text):
        return text
    if is_evasive(text, "\n".join(known)) or _is_list(answer, text, known) or _is_question(text, example.question):
        return None
    return text


def is_right_text(text: str, example: Example) -> bool:
    """Whether a text is the gold or an alias; case, British or American spelling, hyphens, articles don't count."""
    return _is_one_of(text, (example.gold, *example.aliases))


def _is_one_of(text: str, known: tuple[str, ...]) -> bool:
    return any(same_text(text, other) for other in known)


def _is_list(answer: str, text: str, known: tuple[str, ...]) -> bool:
    """Whether the answer has several lines, where no gold has, or something else beside a right answer."""
    if "\n" in answer.strip() and not any("\n" in text for text in known):
        return True
    rights = {right for other in known for right in forms(other) if right}
    return any(_has_another(form, right) for form in forms(text) for right in rights)


def _has_another(text: str, right: str) -> bool:
    """Whether a right answer stands in a text, and a sign or a word such as `and` parts it from the rest."""
    return any(_is_parted(text, start, start + len(right)) for start in _places(text, right))


def _places(text: str, right: str) -> Iterator[int]:
    """Where the right answer stands as whole words."""
    start = text.find(right)
    while start >= 0:
        end = start + len(right)
        if not (text[start - 1 : start].isalnum() and right[0].isalnum()) and not text[end : end + 1].isalnum():
            yield start
        start = text.find(right, end)


def _is_parted(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - _NEAR) : start], text[end : end + _NEAR]
    parted = _PARTED.search(before) is not None and not _DECIMAL.search(before)
    if _runs_on(before, after):
        return True
    return (parted and _says_something(before)) or (_PARTING.match(after) is not None and _says_something(after))


def _runs_on(before: str, after: str) -> bool:
    """Whether a right answer stands between two words that neither qualify it nor are joined to it: `asthma X gout`."""
    words = re.search(r"(\w+) $", before), re.match(r" (\w+)", after)
    return bool(words[0] and words[1] and words[0][1] not in _BEFORE.split() and words[1][1] not in _AFTER.split())


def _says_something(text: str) -> bool:
    return bool(set(re.findall(r"\w+", text)) - set(_FILLING.split()))


def _is_question(text: str, question: str) -> bool:
    """Whether the text is the question, has it, or is a long part of it."""
    asked, said = (comparable(other).rstrip(" ?") for other in (question, text))
    return bool(asked) and (
        said == asked
        or (len(asked.split()) >= _SHORTEST_QUESTION and asked in said)
        or (len(said) < len(asked) and len(said.split()) >= _LONGEST_PHRASE and said in asked)
    )
