"""Spelling: forms of a text that are the same words in British or American spelling, with or without hyphens."""

import re
from functools import lru_cache

from medgrpo.judge.amounts import has_same_units, read_amount, same_amount
from medgrpo.judge.characters import folded
from medgrpo.judge.phrases import comparable

# Applied to both sides, so that a word which only looks like a pair (four, disease) is changed on both alike.
_PAIRS = (
    (re.compile(r"o-?oe(?=dem|soph|str)"), "oe"),  # gastro-oesophageal
    (re.compile(r"ae(?=m[aiou])|(?<=\bh)ae(?=m\b)|ae(?=sth)|\bae(?=ti)|(?<=gyn)ae"), "e"),  # anaemia, anaesthesia
    (re.compile(r"(?<=p)ae(?=d)|(?<=c)ae(?=[cs]|ru)|(?<=f)ae(?=c)|(?<=[nr])ae(?=v)|(?<=ph)ae(?=o)"), "e"),  # caecum
    (re.compile(r"(?<=ch)ae(?=t)|oe(?=dem|soph|str)|(?<=f)oe(?=t)|(?<=c)oe(?=li)|(?<=am)oe(?=b)"), "e"),  # foetus
    (re.compile(r"(?<=rrh|hom)oe|(?<=pn)oe(?=[ai])|(?<=man)oe(?=uv)"), "e"),  # diarrhoea, dyspnoea
    (re.compile(r"uvre"), "uver"),
    (re.compile(r"(tum|col|lab|hum|fav|rig|vap|behavi|flav|\bod)our"), r"\1or"),
    (re.compile(r"is(?=e[sdr]?\b|ing\b|ations?\b)"), "iz"),
    (re.compile(r"lys(?=e[sdr]?\b|ing\b)"), "lyz"),  # analyse, paralysed
    (re.compile(r"(cent|fib|lit|met|tit|calib|goit)re(?=[sd]?\b)"), r"\1er"),
    (re.compile(r"sulph"), "sulf"),
    (re.compile(r"leuco"), "leuko"),
    (re.compile(r"ll(?=ed\b|ing\b)"), "l"),  # labelled
    (re.compile(r"aluminium"), "aluminum"),
    (re.compile(r"\bgrey"), "gray"),
    (re.compile(r"\bmould"), "mold"),
)
_SPACING = (
    (re.compile(r"(?<=\w)'s\b|(?<=s)'(?= )"), ""),  # Crohn's, Graves' disease
    (re.compile(r"(?<![\w.])\.(?=[0-9])"), "0."),
    (re.compile(r"(?<=[0-9]) ?per ?cent\b"), " %"),
    (re.compile(r"\bmm hg\b"), "mmhg"),
    (re.compile(r"(?<![a-z])([0-9]) ?(?=[a-zµμ%°])"), r"\1 "),  # 5mg, 10%
    (re.compile(r"(?<=[0-9]) ?/ ?(?=[0-9])"), "/"),
    (re.compile(r"([<>]=?) (?=[0-9])"), r"\1"),
)
_ROMAN = re.compile(
    r"\b(types?|stage|grade|class|factor|phase)[ -](viii|vii|vi|iv|ix|v|iii|ii|i|xiii|xii|xi|x)([abc]?)\b"
)
_INITIAL = re.compile(r"(?<![\w.])([a-z])\. ?(?=[a-z]{2})")  # E. coli
_SUBTYPE = re.compile(r"([0-9]) ?(?=[abc]\b)")
_NUMERALS = "i ii iii iv v vi vii viii ix x xi xii xiii"
# Not between two digits: 10-15 is neither 1015 nor 10 15.
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=\w)|(?<=\w)-(?=[^\W\d_])")
# A single A is a name more often than an article: hepatitis A, A antigen (which would need `an`), A and B, a wave.
_ARTICLES = re.compile(
    r"(?:^|(?<=\s))(?:the|an) (?=\w)"
    r"|(?:^|(?<=\b(?:of|in|to|by) )|(?<=\b(?:for|and) )|(?<=\b(?:with|from) ))"
    r"a (?!(?:waves?|fib(?:er|re)s?|bands?|lines?|cells?|subunits?|chains?|toxins?|delta|beta)\b)"
    r"(?=[b-df-hj-np-tv-z]\w{2})"
)

_LONGER, _LONGER_BY = 4, 100
"""How much longer one of two texts of the same words can't be."""
_LONGEST_CACHED = 1000


def same_text(one: str, other: str) -> bool:
    """Whether two texts say the same: the same amount, or the same words; the case of units counts."""
    one, other = " ".join(one.split()), " ".join(other.split())
    if len(one) > _LONGER * len(other) + _LONGER_BY or len(other) > _LONGER * len(one) + _LONGER_BY:
        return False
    amounts = read_amount(one), read_amount(other)
    if amounts[0] and amounts[1]:
        return same_amount(amounts[0], amounts[1])
    return bool(forms(one) & forms(other)) and has_same_units(folded(one), folded(other))


def forms(text: str) -> frozenset[str]:
    """The text in one spelling, with its hyphens as spaces and without them: equal texts have a form in common."""
    return _cached_forms(text) if len(text) <= _LONGEST_CACHED else _forms(text)


@lru_cache(maxsize=4096)
def _cached_forms(text: str) -> frozenset[str]:
    """A step judges many answers against one gold."""
    return _forms(text)


def _forms(text: str) -> frozenset[str]:
    text = comparable(folded(text))
    for pattern, other in _PAIRS + _SPACING:
        text = pattern.sub(other, text)
    text = _ROMAN.sub(lambda found: f"{found[1]} {_NUMERALS.split().index(found[2]) + 1}{found[3]}", text)
    text = _SUBTYPE.sub(r"\1 ", text)
    texts = [_ARTICLES.sub("", _HYPHEN.sub(joint, text)) for joint in (" ", "")]
    return frozenset(_INITIAL.sub(r"\1 ", text) for text in texts)  # after the articles: `A. high` isn't `high`
