"""Phrases around an answer: leads that say nothing (`the answer is`), and words that deny, hedge or list."""

import re
from itertools import pairwise

from medgrpo.judge.units import read_unit

_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?"
    r"(?:(?:(?:the|my) )?(?:(?:most likely|most probable|correct|right|best|final) ){0,2}"
    r"(?:answer|option|choice|diagnosis)(?: is(?!\w) ?:?|:|=)|it(?: is|'s|’s)(?!\w)) ?",
    re.IGNORECASE,
)
_LISTING = (" or ", " and/or ", " either ", " / ", ";", " vs ", " vs. ", " versus ")
# What says that it doesn't say; a transverse lie, a nonsense mutation and an unknown primary are answers.
_DOUBT = re.compile(
    r"\b(?:a lie\b|lies? (?:that|to)\b|(?:can(?:no| no|')t|could(?: not|n't)) (?:tell|say|know|decide)\b"
    r"|no (?:idea|clue)\b|(?:don't|do not) know\b|not sure\b|who knows\b"
    r"|(?:hard|impossible|difficult) to (?:say|tell)\b"
    r"|(?:false|wrong|incorrect|untrue|absurd|ridiculous) (?:that|to say)\b|a (?:joke|myth)\b|(?:doubt|doubtful)\b"
    r"|nonsense\b(?![- ](?:mutation|codon|variant|suppress|mediated)))"
    r"|^(?:unknown|unclear|uncertain|undetermined)\b(?! (?:primary|origin|cause|a?etiology|significance))"
)
_DENYING = {"not", "never", "neither", "nor", "except", "isn't", "isn’t", "aren't", "wasn't", "cannot", "can't"}
_HEDGING = {"maybe", "perhaps", "possibly", "probably", "presumably", "likely", "might", "may", "could"} | {
    *("unsure", "guess", "think")
}
_NAME = re.compile(r"[A-Za-z][A-Za-z' ]{0,60}(?:[=:] ?| )(?=[-+~≈]?[.0-9])", re.ASCII)
_JOINING = {"the", "a", "an", "is", "was", "of", "his", "her", "about", "approximately", "around", "roughly"}
_NAMES = (
    "ph gcs score bmi result value total level count rate dose gap anion map gfr egfr index number sodium temperature"
    " pulse age weight height estimated"
)
_COMPARING = (
    "no less more than least most up to over under above below between or and from greater fewer lower higher within"
    " exceed exceeds exceeding minus plus without after before half twice double every wrong incorrect false"
)
_AROUND = " .,;:!\"'"
_OPENING = 4
"""Words in which a text says that it denies or hedges what follows."""


def comparable(text: str) -> str:
    """Text for comparison: case, white space, punctuation around it don't count; but .5 isn't 5, nor 5"."""
    text = " ".join(text.casefold().split())
    inner = text.strip(_AROUND)
    start = text[: text.find(inner)] if inner else text
    tail = text[len(start) + len(inner) :]
    if inner[-1:].isdigit() and tail[:1] in {'"', "'"} and not set(start) & {'"', "'"}:
        inner += tail[0]
    is_fraction = inner[:1].isdigit() and start.endswith(".")
    return f".{inner}" if is_fraction else inner


def without_lead(text: str) -> str:
    """The text in one line, without up to two leads such as `the answer is`, and without `most likely`."""
    text = " ".join(text.split())
    for _ in range(2):
        lead = _LEAD.match(text)
        text = text[lead.end() :].lstrip() if lead else text
    return _without_most_likely(text)


def without_name(text: str, question: str) -> str:
    """The text without the quantity's name before its number: `pH 7.30`, `The score is 15`.

    A name has words that quantities are called by or that the question has, and none that compares or denies.
    """
    name = _NAME.match(text)
    words = set(re.findall(r"[a-z']+", name[0].casefold())) - _JOINING if name else set()
    if name is None or not words or words & (_DENYING | _HEDGING | set(_COMPARING.split())):
        return text
    known = set(_NAMES.split()) | set(re.findall(r"[a-z]{2,}", question.casefold()))
    return text[name.end() :] if words <= known else text


def _without_most_likely(text: str) -> str:
    """The text without `most likely` before or after it, as many questions ask for it: no hedge."""
    folded = text.casefold()
    for phrase in ("most likely", "most probably"):
        if folded.startswith(f"{phrase} "):
            return text[len(phrase) :].lstrip()
        if folded.rstrip(".").endswith(f", {phrase}"):
            return text.rstrip(".")[: -len(phrase)].rstrip(", ")
    return text


def is_evasive(text: str, known: str) -> bool:
    """Whether a text denies, hedges or lists alternatives.

    Args:
        known: the texts that count as right: words and signs that they have themselves are allowed.
    """
    known_words = set(known.casefold().split())
    opening = {word.strip(",.:;()\"'") for word in text[:200].casefold().split()[:_OPENING]}
    if opening & (_DENYING | _HEDGING) - known_words or text.casefold().startswith(("anything but ", "all but ")):
        return True
    if ("?" in text and "?" not in known) or _doubts(text, known.casefold()):
        return True
    listed = f" {text.strip().casefold()} "
    known = f" {known.casefold()} "
    return any(sign in listed and sign not in known for sign in _LISTING) or ("/" not in known and _has_slashes(text))


def _doubts(text: str, known: str) -> bool:
    """Whether a text says that it can't tell, or mocks what it says, in words that the known ones haven't."""
    text = text.casefold().replace("’", "'").lstrip(_AROUND)
    return any(found[0] not in known for found in _DOUBT.finditer(text))


def _has_slashes(text: str) -> bool:
    """Whether a slash stands between two words that aren't a unit: `virus/bacteria`, but not `beats/min`."""
    for before, after in pairwise(text.split("/")):
        left, right = before[-40:].split()[-1:], after[:40].split()[:1]
        if left and right and _is_word(left[0]) and _is_word(right[0]) and not read_unit(f"{left[0]}/{right[0]}"):
            return True
    return False


def _is_word(text: str) -> bool:
    return sum(character.isalpha() for character in text) > 2
