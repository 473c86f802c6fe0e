"""Whether a text is in the language that the questions are expected in."""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Languages that questions are written in. Offering all 140 would let rare ones win where names of drugs stand in a
# row; Latin is offered so that it takes the terms, and is never reported: 'Foramen ovale, foramen magnum' is English
# medicine.
_LANGUAGES = str.split(
    "ar bg bn cs da de el en es et fa fi fr he hi hr hu id it ja ko la lt lv ms nl no pl pt ro ru sk sl sv ta te "
    "th tr uk ur vi zh"
)
_LATIN = "la"
# Words of English alone, and words that it shares with others ('of' is Dutch, 'was' German, 'are' Romanian, 'on'
# French).
_ENGLISH = frozenset(
    str.split(
        "the which with and following following: what from this that these been his year-old who without woman "
        "presents shows because were she it not would should used does between"
    )
)
_SHARED = frozenset(
    str.split("of in is a an are for to was has her he by at on or as be true all can most patient except")
)
_MIN_WORDS = 6
_MIN_LETTERS = 8
"""Instead of words, in scripts without spaces."""
_HEAD = 400
"""Characters that are looked at: a text's beginning tells its language, and reading all of it takes longer."""
# Measured on 5,007 English questions and option lists and questions in ten languages: the first stay under 0.8 for
# every language but Latin, the others are above 0.97.
_SURE = 0.9


def find_foreign(text: str, expected: str) -> str:
    """The text's language (ISO 639-1) if it surely isn't `expected`; empty if it is, or there is too little to tell."""
    head = text[:_HEAD]
    expected = expected.partition("-")[0].lower()
    if (expected == "en" and _reads_english(head)) or not _can_tell(head):
        return ""
    found, probability = _identifier(expected).classify(head)
    return "" if found in {expected, _LATIN} or probability < _SURE else str(found)


def _reads_english(text: str) -> bool:
    """Whether at least a tenth of the words, and two different ones, are function words of English, not all shared."""
    words = text.lower().split()
    english = [word for word in words if word in _ENGLISH]
    shared = [word for word in words if word in _SHARED]
    return bool(english) and 10 * (len(english) + len(shared)) >= len(words) and len({*english, *shared}) >= 2


def _can_tell(text: str) -> bool:
    return len(_WORD.findall(text)) >= _MIN_WORDS or len(_UNSPACED.findall(text)) >= _MIN_LETTERS


_WORD = re.compile(r"[^\W\d_]{2,}")
# Thai, Lao, Burmese, Khmer, kana, Chinese characters
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@cache
def _identifier(expected: str) -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([*_LANGUAGES, *({expected} & {*identifier.labels})])
    return identifier
