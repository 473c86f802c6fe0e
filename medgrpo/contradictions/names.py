"""Names: those that a letter or a sign tells apart (vitamin K, T cell, IgA, CD4+), and the levels of the spine."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from medgrpo.contradictions.tokens import plain

Names = dict[str, Counter[str]]
"""A name without what tells it apart → the letters, signs or numbers that do."""

_NOUNS = "blood group|blood type|vitamin|vit|hepatitis|hep|influenza|flu|type|group|class|stage|grade|factor|protein"
_NOUNS += "|immunoglobulin|hemoglobin|haemoglobin|hemophilia|haemophilia|toxin|child-pugh|coxsackie|personality|cluster"
_HOLDERS = "cell|lymphocyte|wave|fiber|fibre|chromosome|linked|hormone"
_SAME = {"vit": "vitamin", "hep": "hepatitis", "flu": "influenza", "blood type": "blood", "blood group": "blood"}
_SAME |= {"lymphocyte": "cell", "fibre": "fiber", "immunoglobulin": "ig", "haemophilia": "hemophilia"}
_SAME |= {"hb": "hemoglobin", "haemoglobin": "hemoglobin"}
_LINK = r"(?:\s?[,/&]\s?|\s(?:and|or)\s)"
_BEFORE, _END = r"(?<![\w'])", r"(?![\w'])"
# 'hepatitis B', 'vitamins A, D and K', 'vitamin B12', 'blood group AB'.
_NOUN_LETTER = re.compile(
    rf"{_BEFORE}(?P<name>{_NOUNS})s?[.]?[\s-]{{1,2}}"
    rf"(?P<mark>(?:ab|[a-z])(?=\d{{0,2}}{_END})(?:{_LINK}(?:ab|[a-z]){_END}){{0,9}})"
)
# 'B cell', 'T and B lymphocytes', 'X-linked'; 'a cell' has an article.
_LETTER_NOUN = re.compile(
    rf"{_BEFORE}(?P<mark>(?:(?:nk|[b-z]){_LINK}){{0,9}}(?:nk|[b-z]))[\s-](?P<name>{_HOLDERS})s?{_END}"
)
_GLUED_LETTER = re.compile(rf"{_BEFORE}(?P<name>ig|hb)[\s-]?(?P<mark>[acdefgms])(?![^\W\d_])")
_VIRUS = re.compile(rf"{_BEFORE}h(?P<mark>[a-e])v{_END}")
_HYPHENED = re.compile(rf"{_BEFORE}(?P<name>[^\W\d_]{{2,12}})-(?P<mark>[a-z])(?![\w'-])")
_NUMBER_LETTER = re.compile(rf"{_BEFORE}(?P<name>\d{{1,2}})(?P<mark>[abc])(?![\w'])")
_SIGNED = re.compile(
    rf"{_BEFORE}(?P<name>[^\W\d_]\w{{0,7}})"
    rf"(?:\s?\((?P<round>[-+])\)|(?P<mark>[-+])\+*(?![\w(+])|[\s-](?P<word>positive|negative){_END})"
)
_SIGNS = {"positive": "+", "negative": "-"}
_VERTEBRA = re.compile(r"(?<![^\W_])(?P<part>[ctls])(?P<one>\d{1,2})(?:[-/](?P<other>\d{1,2}))?(?!\w|\.\d)")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–−", "-"))


def find_lettered_names(text: str) -> Names:
    """The names of a text that a letter, a sign or a vertebra's number tells apart; each of those counts once."""
    names: Names = defaultdict(Counter)
    for name, mark in _read(plain(text).translate(_DASHES)):
        names[name][mark] = 1
    return names


def _read(text: str) -> Iterator[tuple[str, str]]:
    for pattern in (_NOUN_LETTER, _LETTER_NOUN, _GLUED_LETTER, _HYPHENED, _NUMBER_LETTER):
        for match in pattern.finditer(text):
            name = _SAME.get(match["name"], match["name"])
            yield from ((f"{name} letter", mark) for mark in re.split(_LINK, match["mark"]))
    yield from (("hepatitis letter", match["mark"]) for match in _VIRUS.finditer(text))
    for match in _SIGNED.finditer(text):
        word = match["word"]
        yield f"{match['name']} sign", _SIGNS[word] if word else match["round"] or match["mark"]
    for match in _VERTEBRA.finditer(text):
        yield from (("vertebra", match["part"] + number) for number in (match["one"], match["other"]) if number)
