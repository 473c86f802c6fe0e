"""Tokens: a text as words and punctuation marks, and the stem that inflected and British forms of a word share."""

import re
import unicodedata
from functools import lru_cache

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*|[,;:.!?()\[\]\n/]")
_WORD_START = re.compile(r"\w")
_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "‘": "'", "`": "'"})
_DASH = re.compile(r"\s[-‐-―]+\s|—")
_CONTRACTED = (
    (re.compile(r"\b(ca|wo|sha|ai)n't\b"), r"\1 not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should)nt\b"), r"\1 not"),
    (re.compile(r"\bcan(?:not|t)\b"), "can not"),
    (re.compile(r"\bwont\b"), "will not"),
    (re.compile(r"\bw/o\b"), "without"),
)
_SPELLINGS = (("ae", "e"), ("oe", "e"), ("our", "or"), ("ph", "f"), ("ys", "yz"), ("isa", "iza"), ("ll", "l"))
_SUFFIXES = (
    *("ization", "ations", "ation", "ically", "ility", "ivity", "ments", "ment", "ness", "ion", "ical", "ities"),
    *("ity", "ism", "ist", "ive", "ous", "ably", "ible", "able", "ing", "ied", "ies", "ize", "ise", "ia", "ic", "al"),
    *("er", "or", "ed", "es", "ly", "us", "um", "is", "a", "e", "y"),
)


def plain(text: str) -> str:
    """The text in lower case, without accents, with one kind of apostrophe."""
    folded = unicodedata.normalize("NFD", text.translate(_APOSTROPHES).casefold())
    return folded if folded.isascii() else "".join(mark for mark in folded if not unicodedata.combining(mark))


def read_tokens(text: str) -> list[str]:
    """Words, numbers and punctuation marks in order; a contracted not stands alone. Takes linear time."""
    text = _DASH.sub(" ; ", plain(text))
    for pattern, replacement in _CONTRACTED:
        text = pattern.sub(replacement, text)
    return _TOKEN.findall(text)


def is_word(token: str) -> bool:
    """Whether a token is a word or a number, and no punctuation mark."""
    return _WORD_START.match(token) is not None


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """What `reverses`, `reversed` and `reversible`, `oedema` and `edema` share. Crude: to compare, never to show."""
    for british, american in _SPELLINGS:
        word = word.replace(british, american)
    if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word
