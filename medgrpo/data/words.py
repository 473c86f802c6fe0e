"""The normalised words of a text: what duplicates and overlaps with benchmarks are compared by."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import repeat
from unicodedata import normalize

from medgrpo.types import Example

_WORD = re.compile(r"\w+")
_MARKS = bytes(code if code > 127 or _WORD.match(chr(code)) else ord(" ") for code in range(256))
_NUMBER = re.compile(r"\d[\d.]*")  # no commas: 15,000 is 15 000
# A sign counts where it can't be a hyphen or a range: base excess -12 isn't base excess 12; 20-30 and 20 -30 are one.
_SIGN = re.compile(r"[<>≤≥]\s*$|(?<![^\s(])(?<!\d\s)[-−]$")
# "t" is what is left of isn't and can't.
_NEGATIONS = frozenset(
    {"cannot", "contraindicated", "except", "exclude", "excludes", "excluding", "false", "inappropriate", "incorrect"}
    | {"incorrectly", "least", "neither", "never", "no", "none", "nor", "not", "t", "unless", "unlikely", "untrue"}
    | {"without", "wrong"}
)
_GENERIC_OPTION = re.compile(
    r"(?:all|any|both|neither|none|nothing)(?: of)?(?: the| these| them)?(?: above| following| options?)?"
    r"|yes|no|maybe|true|false|unknown|[a-h](?: and [a-h])*"
    r"|low|normal|high|mild|moderate|severe|increased?|decreased?|unchanged|no change|positive|negative"
)


def words(text: str) -> list[str]:
    """The text's words: case, punctuation and white space don't count, nor how an accent is encoded."""
    folded = normalize("NFC", text.casefold())
    # a table is several times faster than a regular expression, which is left with what the table doesn't know
    spaced = folded.encode("utf-8", "surrogatepass").translate(_MARKS).decode("utf-8", "surrogatepass").split()
    if folded.isascii():
        return spaced
    return [part for word in spaced for part in ((word,) if word.isascii() else _WORD.findall(word))]


def joined_words(text: str) -> str:
    """The words with one space between them; of a text without any (an option + or -), its characters."""
    return " ".join(words(text)) or "".join(text.split())


def numbers(text: str) -> list[str]:
    """The numbers of a text in ascending order of their characters, each with the sign or comparison before it."""
    found = []
    for number in _NUMBER.finditer(text):
        sign = _SIGN.search(text[max(0, number.start() - 4) : number.start()])
        found.append((sign[0].strip() if sign else "") + number[0].rstrip("."))
    return sorted(found)


def negations(text_words: Iterable[str]) -> list[str]:
    """The words that can turn a question into its opposite, sorted."""
    return sorted(filter(_NEGATIONS.__contains__, text_words))


def word_ngrams(text_words: Sequence[str], n: int, mark: str = "") -> list[str]:
    """Every run of `n` words, after the mark; all the words when there are fewer."""
    marks = [repeat(mark)] if mark else []
    runs = zip(*marks, *(text_words[start:] for start in range(min(n, len(text_words)))), strict=False)
    return list(map(" ".join, runs)) if text_words else []


def is_generic(option: str) -> bool:
    """Whether a normalised option says nothing about the question: 'all of the above', yes, a mere number."""
    return _GENERIC_OPTION.fullmatch(option) is not None or option.replace(" ", "").isdecimal()


def option_text(text: str) -> str:
    """An option for comparison: normalised, and 'decreases in preload' is 'decrease in preload'."""
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in joined_words(text).split())


def option_texts(example: Example) -> frozenset[str]:
    """The option texts for comparison, without those like 'all of the above' that any question may have."""
    texts = frozenset(map(option_text, example.options.values()))
    return frozenset(text for text in texts if not is_generic(text)) or texts


def options_agree(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether at least half of the option texts are common, counted on the longer list."""
    return 2 * len(one & other) >= max(len(one), len(other))


def stable_hash(text: str) -> bytes:
    """16 bytes that stand for a text, the same in every process."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
