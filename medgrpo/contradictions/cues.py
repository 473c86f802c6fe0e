"""Cues: the phrases that negate, each with the direction in which it does."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Direction = Literal["ahead", "either", "verb", "next", "previous", "none"]


class Cue(NamedTuple):
    """A negating phrase at tokens `start` to `end` (exclusive)."""

    start: int
    end: int
    direction: Direction


_CUES: dict[Direction, str] = {
    # Cues that negate what comes after them.
    "ahead": """no|without|neither|nor|none|nothing|nobody|nowhere|nil|denies|deny|denied|denying|
        free of|free from|devoid of|rather than|instead of|in place of|as opposed to|opposed to|other than|except|
        except for|excepting|apart from|opposite of|reverse of|anything but|everything but|all but|far from|
        contrary to|negative for|least likely|least|unless|in the absence of|no evidence of|no sign of|no signs of|
        with the exception of|
        minus|sans|nope|no way|in no way""",
    # Cues that stand before or after what they negate.
    "either": """rule out|rules out|ruled out|ruling out|exclude|excludes|excluded|excluding|exclusion|absent|absence|
        lack|lacks|lacked|lacking|unlikely|improbable|implausible|impossible|contraindicated|contraindication|wrong|
        wrongly|incorrect|incorrectly|false|falsely|untrue|mistaken|mistake|erroneous|erroneously|inaccurate|
        inappropriate|refute|refutes|refuted|refuting|disprove|disproves|disproved|disproven|reject|rejects|rejected|
        rejecting|dismiss|dismissed|disputed|doubt|doubtful|dubious|questionable|avoid|avoids|avoided|avoiding|
        avoidance|discontinue|discontinued|discontinuing|discontinuation|discontinuance|withhold|withholds|withheld|
        withholding|stop|stops|stopped|stopping|cease|ceased|cessation|withdraw|withdrawal|omit|omitted|omitting|
        omission|eliminated|missing|inconsistent|incompatible|unsupported|unwarranted|unnecessary|unrelated|
        undetected|undetectable|unproven|unfounded|unjustified|nonexistent|ineffective|unsuitable|inadvisable|
        inapplicable|irrelevant|forbidden|prohibited|against|misdiagnosis|discard|discarded|discarding|eliminate|
        eliminates|eliminating|fails to|fail to|failed to|failing to|failure to|unable to|inability to|
        out of the question|a lie|nonsense|never|hardly|scarcely|barely|rarely|seldom|no longer|by no means""",
    # What goes with a verb: behind it is the subject, which it denies where it denies the whole clause.
    "verb": "not",
    "next": "non",
    "previous": "negative|free",
    # Phrases that only look like cues.
    "none": """not only|not just|not merely|not solely|not simply|not to mention|not uncommon|not uncommonly|
        not unusual|not surprisingly|nothing but|none other than|no other than|whether or not|if not|no question|
        false positive|false negative|
        false positives|false negatives|needless to say|wrong side|inappropriate antidiuretic|inappropriate adh|
        inappropriate secretion|nonsense mutation|nonsense mutations|nonsense codon|nonsense codons|
        nonsense mediated|no more than|not more than|no less than|not less than|no fewer than|not fewer than""",
}
PHRASES: dict[tuple[str, ...], Direction] = {
    tuple(phrase.split()): direction for direction, phrases in _CUES.items() for phrase in phrases.split("|")
}
_LONGEST = max(map(len, PHRASES))


def find_cues(tokens: Sequence[str]) -> list[Cue]:
    """The negating phrases of a text, the longest at each place."""
    found, place = [], 0
    while place < len(tokens):
        length, direction = _phrase_at(tokens, place)
        if length and direction != "none":
            found.append(Cue(place, place + length, direction))
        place += length or 1
    return found


def _phrase_at(tokens: Sequence[str], place: int) -> tuple[int, Direction]:
    for length in range(min(_LONGEST, len(tokens) - place), 0, -1):
        if direction := PHRASES.get(tuple(tokens[place : place + length])):
            return length, direction
    return 0, "none"
