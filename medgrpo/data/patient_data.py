"""Patient data in a text: names, birth dates, ways to reach a person, numbers of records (docs/decisions/0004)."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from medgrpo.data.names import person_names

SpanKind = Literal["name", "birth date", "phone", "e-mail", "record number", "social security number", "address"]
SHOWN_SPANS = 5
_DOT = "•"


class Span(NamedTuple):
    """Where a text tells who somebody is: characters `start` to `end`."""

    kind: SpanKind
    start: int
    end: int


# All quantifiers are bounded, so that hostile texts cost linear time. A look-behind stands after the first character,
# as a pattern that begins with one is tried at every character of a text: several times slower.

# j.doe+x@clinic.example. Doses like 2@8 have no top-level domain. The look-behind starts at a token's first
# character.
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,62}\.)){1,4}[^\W\d_]{2,24}\b")

# (312) 555-0167, 312-555-0167, 312.555.0167, +1 312 555-0167. Without a label or a bracket at least one separator
# must be a hyphen or a point, and no area begins with 0 or 1: rows and ranges of numbers (120 340 1500, 100-200-1000)
# don't count. DOIs, ORCIDs and ISBNs go on with a digit, hyphen, point or slash on one side, which the looks around
# exclude.
_US_PHONE = re.compile(
    r"(?=[(+\d])(?<![\w./+,-])(?:\+?1[-. ]?)?(?:\(\d{3}\)[ -]?\d{3}[-. ]\d{4}|[2-9]\d\d[-.]\d{3}[-.]\d{4}|"
    r"[2-9]\d\d \d{3}-\d{4})(?![\w/-]|[.,]\d)"
)
# +49 30 1234567, +33 6 12 34 56 78. Changes and charges (+10, Na+ 140) have fewer than 9 digits or a letter before.
_WORLD_PHONE = re.compile(r"\+(?<![\w+).]\+)[1-9]\d{0,2}(?:[ -]?(?:\(\d{1,4}\)|\d{1,12})){1,6}(?![\w/]|[.,]\d)")
# 020 7946 0958, 07700 900123, (030) 12345678: national numbers begin with 0, as no count or measure does, and have 10
# or 11 digits.
_TRUNK_PHONE = re.compile(r"(?=[(0])(?<![\w./+,-])\(?0\d{2,4}\)?[ /-]\d{3,8}(?:[ -]\d{3,5})?(?![\w/-]|[.,]\d)")
# Phone: 555 0167, tel. no. 03 1234 5678, reach him at 5550167. 'Red cell: 7000000' and 'reached 1000000' are counts.
_LABELLED_PHONE = re.compile(
    r"\b(?:(?:tele|mobile |cell ?|home )?phone|"
    r"tel|mobile|fax|(?:contact|cell|ph)(?=\.? (?:no\b|number|#|at))|call(?: me| us)?|"
    r"reach(?:ed)?(?: me| him| her| us)?(?= at))"
    r"(?:\.? (?:no\b\.?|number|#)(?: is)?:?|\.?:| (?:is|at|on)|\.)?[ \t]{0,3}"
    r"(\+?(?:\(\d{1,5}\)|\d{1,12})(?:[ .-]{1,2}(?:\(\d{1,5}\)|\d{1,12})){0,6})(?![\w/%]|[.,]\d)",
    re.IGNORECASE,
)
_YEARS = re.compile(r"(?:19|20)\d\d ?- ?(?:19|20)\d\d")

_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = (
    r"(?:\d{1,2} ?[/.-] ?\d{1,2} ?[/.-] ?(?:\d{4}|\d\d)|\d{4}[/.-]\d{1,2}[/.-]\d{1,2}|\d{8}"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? ?\d{{4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{_MONTH}[ ,-]{{1,2}}(?:\d{{4}}|\d\d))(?!\d)"
)
# A date counts only after a word of birth: visits, periods and calculators are full of dates that are nobody's
# birthday. 'Infants born on 1 May 1990' is a cohort: 'born' needs one person before it.
_BIRTH = re.compile(
    r"(?:\b(?:d\.?o\.?b\b\.?|date of birth|birth ?date|birthday)(?: ?\([a-z/ .-]{2,12}\))?(?: is| was| on|"
    r"\s?[:=#-])?\s{0,3}"
    r"|(?:\b(?:was|is|i|he|she|who|patient|man|woman|boy|girl)|[,(]) ?born(?: on)?(?: the)? )"
    rf"({_DATE})",
    re.IGNORECASE,
)

# MRN: 00123456, medical record no. 12-34-56, patient ID AB12345. MRN is also a nucleus and a kind of imaging, so
# without a sign after it ('MRN 2015') five digits are needed; 'patient ID cards' has none.
_RECORD = re.compile(
    r"\b(?:mrn|uhid|(?:medical |hospital |health |patient )(?:record|file|chart|id|identifier|identification|number|"
    r"no\.?)"
    r"|(?:chart|pt|member|insurance|policy|account|accession|nhs|medicare|medicaid|passport)(?= ?(?:no\b|num|id\b|#)))"
    r"(?P<sign>\.?(?: ?(?:number|num\b|no\b|id\b|#|:|"
    r"is\b)[.:]?){0,3}) {0,3}(?P<value>[a-z]{0,4}[ -]?\d[\d-]{2,16}(?: \d{3,8}){0,2})"
    r"(?![\w/%]|[.,]\d)",
    re.IGNORECASE,
)
# 123-45-6789, never given out: 000, 666, 9xx, 00, 0000. CAS numbers end in one digit, telephone numbers have 3-3-4.
_SSN = re.compile(r"\d(?<![\w./-]\d)(?<!9)\d\d(?<!000|666)-(?!00)\d\d-(?!0000)\d{4}(?![\w/-]|[.,]\d)")
_LABELLED_SSN = re.compile(
    r"\b(?:ssn|social security)\b(?: (?:number|no\b\.?|#))?(?: is)?[:#]? {0,2}(\d{3}[ -]?\d\d[ -]?\d{4})\b",
    re.IGNORECASE,
)

_CAPITAL = r"(?:[A-ZÀ-ÖØ-Þ][\w'’-]{1,24}|St\.|Mt\.|Ft\.)"
_CITY = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ'’-]{1,24}"
_STREETS = str.split(
    "Street St Avenue Ave Av Road Rd Lane Ln Drive Dr Boulevard Blvd Court Ct Place Pl Terrace Way Circle Parkway "
    "Pkwy Highway Hwy Square"
)
# 221B Baker Street, London NW1 6XE; 350 5th Ave, Apt 4, New York, NY 10118. The street's kind is capitalised ('drive'
# and 'way' are words of every text), and the number is no size: '5 French' is a catheter.
_ADDRESS = re.compile(
    rf"\d(?<![\w./-]\d)\d{{0,4}}[A-Za-z]?,? (?!(?:French|Fr|Mg|Ml|Units?)\b)(?:[NSEW]\.? )?"
    rf"(?:\d{{1,3}}(?:st|nd|rd|th) |{_CAPITAL} ){{1,3}}?"
    rf"(?:{'|'.join(_STREETS)})\b\.?(?! (?:[Ss]yndrome|[Dd]isease|[Ss]ign|[Tt]est|[Bb]lood)\b)"
    r"(?:,? (?:Apt|Apartment|Unit|Suite|Ste|No|#)\.? ?\w{1,6})?"
    rf"(?:,\s(?!(?:He|She|The|They|His|Her|On|In|At|A|An)\b){_CITY}(?: {_CITY}){{0,2}})?(?:,?\s[A-Z]{{2}}\b)?"
    r"(?:,?\s(?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})\b)?"
    r"|\bP\.? ?O\.? Box \d{1,6}\b"
)


def find(text: str) -> list[Span]:
    """Every place that identifies a person, in the text's order; none overlaps another.

    English labels and titles only. What isn't found is listed in docs/decisions/0004-patient-data.md.
    """
    spans = [*_numbers(text), *_emails(text), *_addresses(text)]
    spans += [Span("name", start, end) for start, end in person_names(text)]
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
        elif span.end > kept[-1].end:  # masked as a whole: cutting either would leave a rest of it
            kept[-1] = kept[-1]._replace(end=span.end)
    return kept


def mask(text: str) -> str:
    """The text with every span masked: what is left tells at most first letters and the last two digits of a number."""
    pieces, at = [], 0
    for span in find(text):
        pieces += [text[at : span.start], _masked(span, text)]
        at = span.end
    return "".join([*pieces, text[at:]])


def shown(text: str, length: int = 60) -> str:
    """The start of a text as messages may show it: masked first, so that no half of a number escapes."""
    return mask(text[: 2 * length])[:length]


def listed(names: Iterable[object], most: int = 30) -> str:
    """Names as messages may list them: of columns, say, which are a patient's data where a file lacks its header."""
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(map(shown, every[:most])) + more


def describe(text: str) -> str:
    """What was found, masked ('phone: (•••) •••-••67; name: J••• S••••'); empty for a text that identifies nobody."""
    found = list(dict.fromkeys(f"{span.kind}: {_masked(span, text)}" for span in find(text)))
    more = [f"{len(found) - SHOWN_SPANS} more"] if len(found) > SHOWN_SPANS else []
    return "; ".join([*found[:SHOWN_SPANS], *more])


def _numbers(text: str) -> Iterator[Span]:
    """Spans that are made of digits. Few texts have so many digits in a row; only those are searched for labels."""
    if any(label in text for label in _BIRTH_LABELS):
        yield from (Span("birth date", *match.span(1)) for match in _BIRTH.finditer(text))
    if not _FOUR_DIGITS.search(text):
        return
    lower = text.lower()
    if any(label in lower for label in _RECORD_LABELS):
        yield from (
            Span("record number", *match.span("value")) for match in _RECORD.finditer(text) if _is_record(match)
        )
    if not _SEVEN_DIGITS.search(text):
        return
    yield from (Span("social security number", *match.span()) for match in _SSN.finditer(text))
    if "ssn" in lower or "social security" in lower:
        yield from (Span("social security number", *match.span(1)) for match in _LABELLED_SSN.finditer(text))
    yield from (Span("phone", *match.span()) for match in _US_PHONE.finditer(text))
    yield from (Span("phone", *match.span()) for match in _TRUNK_PHONE.finditer(text) if _is_phone(match[0], 10, 11))
    yield from (Span("phone", *match.span()) for match in _WORLD_PHONE.finditer(text) if _is_phone(match[0], 9))
    if any(label in lower for label in _PHONE_LABELS):
        yield from (Span("phone", *match.span(1)) for match in _LABELLED_PHONE.finditer(text) if _is_phone(match[1], 7))


_FOUR_DIGITS = re.compile(r"\d(?:[ -]?\d){3}")
_SEVEN_DIGITS = re.compile(r"\d(?:[ ().-]{0,3}\d){6}")
_BIRTH_LABELS = (" born", ",born", "birth", "Birth", "BIRTH", "DOB", "dob", "D.O.B", "d.o.b")
_RECORD_LABELS = (
    *("mrn", "uhid", "record", "file", "chart", "hospital n", "patient n", "health n", " id", "identif"),
    *("member", "insurance", "policy", "account", "accession", "nhs", "medica", "passport"),
)
_PHONE_LABELS = ("phone", "tel", "mobile", "cell", "fax", "contact", "call", "reach", "ph.", "ph ")


def _is_record(match: re.Match[str]) -> bool:
    return sum(map(str.isdigit, match["value"])) >= (4 if match["sign"].strip() else 5)


def _is_phone(number: str, least: int, most: int = 15) -> bool:
    return least <= sum(map(str.isdigit, number)) <= most and not _YEARS.fullmatch(number)


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from (Span("e-mail", *match.span()) for match in _EMAIL.finditer(text))


_STREET_OR_BOX = re.compile(rf"(?:{'|'.join(_STREETS)}|Box)\b")


def _addresses(text: str) -> Iterator[Span]:
    if _STREET_OR_BOX.search(text):
        yield from (Span("address", *match.span()) for match in _ADDRESS.finditer(text))


_WORD_TAIL = re.compile(r"(?<=\S)\w")


def _first_letters(secret: str) -> str:
    """First letter of each word; digits vanish."""
    return re.sub(r"\d", _DOT, _WORD_TAIL.sub(_DOT, secret))


def _last_digits(secret: str) -> str:
    """The last two digits of at least five."""
    digits = sum(map(str.isdigit, secret))
    keep = {i for i, character in enumerate(secret) if character.isdigit()}
    keep = set(sorted(keep)[-2:]) if digits >= 5 else set()
    return "".join(c if i in keep or not c.isalnum() else _DOT for i, c in enumerate(secret))


def _email_ends(secret: str) -> str:
    """First letter and top-level domain."""
    name, _, domain = secret.rpartition("@")
    host, _, top = domain.rpartition(".")
    return f"{name[0]}{_DOT * len(name[1:])}@{re.sub(r'[^.]', _DOT, host)}.{top}"


def _nothing(secret: str) -> str:
    return re.sub(r"\w", _DOT, secret)


_MASKS: dict[SpanKind, Callable[[str], str]] = {
    "name": _first_letters,
    "birth date": _nothing,
    "phone": _last_digits,
    "e-mail": _email_ends,
    "record number": _last_digits,
    "social security number": _last_digits,
    "address": _first_letters,
}


def _masked(span: Span, text: str) -> str:
    return _MASKS[span.kind](text[span.start : span.end])
