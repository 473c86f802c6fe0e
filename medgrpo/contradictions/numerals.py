"""Numerals: number words and Roman numerals as digits, and the numbers that are part of a name (B12, CYP3A4)."""

import re
from collections import Counter, defaultdict

_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
_ONES += "eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_VALUES = {word: value for value, word in enumerate(_ONES.split(), 1)} | {"zero": 0, "hundred": 100, "once": 1}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)} | {"twice": 2, "thrice": 3}
_VALUES |= {word: value for value, word in enumerate(_ORDINALS.split(), 1)}
_WORD = re.compile(
    rf"\b(?:(?P<tens>{_TENS.replace(' ', '|')})[\s-](?P<ones>{'|'.join(_ONES.split()[:9])})"
    rf"|(?P<hundreds>{'|'.join(_ONES.split()[:9])})\s(?:hundred|(?P<thousand>thousand))"
    rf"|(?P<word>{'|'.join(_VALUES)}))\b",
    re.IGNORECASE,
)
_SECONDS = re.compile(r"(\d(?:\.\d+)?[\s-])second\b", re.IGNORECASE)  # '5 second' is a time
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_ROMANS = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10, "xi": 11}
_ROMANS |= {"xii": 12, "xiii": 13}
_COUNTED = "type|factor|class|stage|grade|group|nerve|phase|angiotensin|lead|level|collagen|part|zone|degree|category"
_COUNTED += "|cn|nyha|mobitz|killip|bipolar|tanner|gustilo|figo|antithrombin|le fort|salter-harris"
# After a word that is counted any numeral; elsewhere only those that are no word and no abbreviation (IV, I, V, X).
_ANY_ROMAN = "|".join(sorted(_ROMANS, key=len, reverse=True))
_ROMAN = re.compile(
    rf"(?<=[^\W\d_])(?P<space>[\s-])(?P<alone>ii|iii|vi|vii|viii|ix|xi|xii|xiii)\b"
    rf"|\b(?P<counted>(?:{_COUNTED})s?[.\s-]{{1,2}})(?P<any>{_ANY_ROMAN})(?P<part>[ab]?)\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(?<![^\W_])(?P<glued>[^\W\d_]{1,8})(?P<number>\d[^\W_]*(?:\.\d+)?)"
    r"|(?<![^\W_])(?P<hyphened>[^\W\d_]{1,3})-(?P<joined>\d[^\W_]*)"
    r"|(?<=\d)(?P<after>[^\W\d_]{2,8})(?P<last>\d+)"
)
_SIGNS = {"½": "1/2", "¼": "1/4", "¾": "3/4"}
_SIGN = re.compile("[½¼¾]")
_FRACTION = re.compile(
    r"(?<![\w./-])(?:(?P<whole>\d{1,3})\s{1,2})?(?P<above>\d{1,2})[/⁄](?P<below>\d{1,2})(?![\w/⁄]|\.\d)", re.ASCII
)
_UNITS = frozenset({"m", "cm", "mm", "km", "cmh", "cmH", "CMH", "x"})


def with_digits(text: str) -> str:
    """The text with digits for number words, ordinals and Roman numerals: 'grade II' is 'grade 2'."""
    text = _SECONDS.sub(r"\1s", text)
    text = _WORD.sub(_read_word, _ROMAN.sub(_read_roman, text))
    return _ORDINAL.sub("", text)


def find_numbered_names(text: str) -> tuple[str, dict[str, Counter[str]]]:
    """The text without names that have a number, and each name's letters → the numbers that stand after them."""
    names: dict[str, Counter[str]] = defaultdict(Counter)

    def take(match: re.Match[str]) -> str:
        letters = match["glued"] or match["hyphened"] or match["after"]
        if letters in _UNITS:
            return match[0]
        names[letters.lower()][(match["number"] or match["joined"] or match["last"]).lower()] += 1
        return " "

    return _NAME.sub(take, text), names


def with_fractions(text: str) -> str:
    """The text with decimals for fractions of at most one: '1/2' and '½' are '0.5', '1 1/2' is '1.5'."""
    return _FRACTION.sub(_read_fraction, _SIGN.sub(lambda sign: f" {_SIGNS[sign[0]]}", text))


def _read_fraction(match: re.Match[str]) -> str:
    above, below = int(match["above"]), int(match["below"])
    return f"{int(match['whole'] or 0) + above / below:.6g}" if 0 < above <= below else match[0]


def _read_word(match: re.Match[str]) -> str:
    value = {name: _VALUES.get(word.lower(), 1000) for name, word in match.groupdict().items() if word}
    if "tens" in value:
        return str(value["tens"] + value["ones"])
    return str(value["word"] if "word" in value else value["hundreds"] * value.get("thousand", 100))


def _read_roman(match: re.Match[str]) -> str:
    value = _ROMANS[(match["alone"] or match["any"]).lower()]
    return f"{match['space']}{value}" if match["alone"] else f"{match['counted']}{value}{match['part']}"
