"""Changed golds: texts that look like a gold and mean something else, for measuring whether a reward sees the change.

Written apart from what the rewards look for: a list that both shared would measure nothing.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Literal, get_args

from medgrpo.data.words import is_generic, joined_words, stable_hash
from medgrpo.judge.numeric import read_number, read_range
from medgrpo.types import Example

Change = Literal["negation", "number", "unit", "side", "opposite", "drug"]
CHANGES: tuple[Change, ...] = get_args(Change)
"""What can be changed: the truth, a number, its unit, the side or place, the direction, the drug."""

LONGEST_PHRASE = 12
"""Words of the longest gold that is put into another sentence; a longer one is a sentence itself."""

# Each says that X isn't so. They are different constructions on purpose, not one with other words.
_DENIALS = (
    *("not {x}", "it is not {x}", "it isn't {x}", "this can't be {x}", "no, not {x}"),
    *("anything but {x}", "something other than {x}", "everything except {x}", "the opposite of {x}"),
    *("{x} is ruled out", "{x} has been excluded", "{x} is wrong", "{x} is incorrect", "{x}: false"),
    *("{x} is very unlikely", "it is not true that it is {x}", "nobody would call this {x}"),
    *("it is neither {x} nor anything like it", "I doubt that it is {x}", "{x}? No."),
)
# These deny a finding or a thing: of a gold that is a sentence or a deed they'd deny nothing.
_ABSENCES = ("no evidence of {x}", "absence of {x}", "negative for {x}", "without {x}", "lack of {x}", "never {x}")
_NEGATED = re.compile(
    r"\b(?:no|not|non|none|never|neither|nor|nothing|without|cannot|except|absen\w+|lack\w*|un\w+|false|incorrect)\b"
    r"|n['’]t\b|\bnon-?\w",
    re.IGNORECASE,
)
_PLAIN_NOT = re.compile(
    r"\b(?:is|are|was|were|does|do|did|can|will|should|has|have|may)( not)\b|^(not )", re.IGNORECASE
)
_VERB = re.compile(r"\b(?:is|are|was|were|can|will|should|must|may)\b(?! not\b)")

# No times of day (4:01) and no fractions' halves (2/3); 2nd is an ordinal.
_NUMBER = re.compile(r"(?<![\w.,:/])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d,.]*\d|:|/\d|(?:st|nd|rd|th)\b)")
_QUANTITY = re.compile(r"[\d.,]+\s?[^\d\s-]{0,12}(?: (?!and\b|or\b|to\b)[^\d\s]{1,12})?")
_CODE = re.compile(r"\b[A-Za-z]{1,4}-?(\d{1,2})\b")
_NUMBER_WORDS = str.split("one two three four five six seven eight nine ten eleven twelve")
_ORDINALS = str.split("first second third fourth fifth sixth seventh eighth ninth tenth")
_SHORT_ORDINALS = str.split("1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th")

_UNITS = {
    **{"mg": "g", "g": "mg", "µg": "mg", "μg": "mg", "mcg": "mg", "ng": "mg", "kg": "g", "ug": "mg"},
    **{"ml": "L", "mL": "L", "dl": "mL", "l": "mL", "L": "mL", "cc": "L", "litres": "mL", "liters": "mL"},
    **{"mmol": "mol", "µmol": "mmol", "nmol": "mmol", "mEq": "Eq", "mOsm": "Osm", "IU": "mIU", "units": "milliunits"},
    **{"mm": "cm", "cm": "mm", "m": "cm", "nm": "mm", "inches": "feet", "feet": "inches"},
    **{"seconds": "minutes", "second": "hour", "sec": "min", "minutes": "hours", "minute": "hour", "min": "h"},
    **{"hours": "days", "hour": "day", "hrs": "days", "h": "days", "days": "weeks", "day": "week"},
    **{"weeks": "months", "week": "month", "months": "years", "month": "year", "years": "months", "year": "month"},
    **{"mmHg": "kPa", "kcal": "cal", "Hz": "kHz", "mV": "V", "Gy": "mGy", "kDa": "Da", "°C": "°F", "calories": "kJ"},
}
_UNIT_NAMES = "|".join(sorted(_UNITS, key=lambda unit: -len(unit)))
_UNIT = re.compile(rf"(?:\d|\b(?:{'|'.join(_NUMBER_WORDS)}))[\s-]?({_UNIT_NAMES})(?![A-Za-z])")

_SIDES = (
    *("left/right", "bilateral/unilateral", "medial/lateral", "anterior/posterior", "superior/inferior"),
    *("proximal/distal", "ventral/dorsal", "ipsilateral/contralateral", "cranial/caudal", "medially/laterally"),
    *("anteriorly/posteriorly", "upper/lower", "superficial/deep", "internal/external", "above/below"),
)
# 'Right' as 'correct', 'left' as 'gone', 'lower' and 'deep' as what happens to pressure and breath are no sides.
_NO_SIDE = re.compile(
    r"\b(?:(?:all|the|is|are) right(?= answer| choice| to\b|\.?$)|right(?= away|-to)|(?:is|are|was|were|be|been) left\b"
    r"|left(?= untreated| alone| over)|lower(?=s|ed| than| the| (?:blood|risk|rate|level|cost|serum|intra|mean|dose))"
    r"|deep(?= breath| sleep| partial)|(?:above|below)(?= \d)|(?:of the|the) above)",
    re.IGNORECASE,
)
_OPPOSITES = (
    *("increase/decrease", "increased/decreased", "increases/decreases", "increasing/decreasing", "elevated/reduced"),
    *("high/low", "higher/lower", "more/less", "greater/smaller", "positive/negative", "benign/malignant"),
    *("acute/chronic", "active/passive", "systolic/diastolic", "agonist/antagonist", "dilation/constriction"),
    *("vasodilation/vasoconstriction", "inhibition/stimulation", "inhibits/stimulates", "inhibit/stimulate"),
    *("sympathetic/parasympathetic", "arterial/venous", "dominant/recessive", "primary/secondary", "early/late"),
    *("tachycardia/bradycardia", "acidosis/alkalosis", "flexion/extension", "abduction/adduction", "before/after"),
    *("afferent/efferent", "maximum/minimum", "gain/loss", "male/female", "men/women", "faster/slower"),
    *("microcytic/macrocytic", "restrictive/obstructive", "gram-positive/gram-negative", "sensitive/resistant"),
)
_PREFIX = re.compile(r"\b(hyper|hypo)(?=-?[a-z]{4})", re.IGNORECASE)
# Nothing is called by the other prefix, or it names something else that is no opposite.
_NO_PREFIX = re.compile(r"\bhypo(?:thalam|phys|chond|derm|spad|gastr|gloss|pharyn|campus)\w*", re.IGNORECASE)

# One of a class each, so that any other one is another answer.
_DRUGS = str.split(
    "acetaminophen acyclovir albuterol allopurinol amiodarone amlodipine amoxicillin amphotericin aspirin atenolol "
    "atorvastatin atropine azathioprine azithromycin bleomycin carbamazepine ceftriaxone ciprofloxacin cisplatin "
    "clindamycin clonidine clopidogrel clozapine colchicine cyclophosphamide cyclosporine dexamethasone diazepam "
    "digoxin diltiazem dobutamine dopamine doxorubicin doxycycline enalapril epinephrine erythromycin ethambutol "
    "fentanyl fluconazole fluoxetine furosemide gentamicin haloperidol halothane heparin hydralazine "
    "hydrochlorothiazide hydrocortisone ibuprofen imipramine indomethacin insulin isoniazid ketamine ketoconazole "
    "levodopa levothyroxine lidocaine lisinopril lithium losartan mannitol metformin methotrexate metoprolol "
    "metronidazole morphine naloxone neostigmine nifedipine nitroglycerin norepinephrine omeprazole ondansetron "
    "oxytocin penicillin phenobarbital phenytoin prednisone propofol propranolol pyrazinamide quinine rifampin "
    "rituximab sertraline sildenafil spironolactone streptomycin succinylcholine sumatriptan tamoxifen tetracycline "
    "thiopental trazodone valproate vancomycin verapamil vincristine warfarin zidovudine"
)
_DRUG = re.compile(rf"\b(?:{'|'.join(_DRUGS)})\b", re.IGNORECASE)


def changed(text: str, change: Change) -> list[str]:
    """All changes of one kind to a gold's text, the same ones always; none where it has nothing of that kind."""
    plain = " ".join(text.split()).rstrip(" .")
    made = dict.fromkeys(_CHANGES[change](plain)) if plain else {}
    same = joined_words(plain)
    return [other for other in made if joined_words(other) != same or change == "number"]


def changed_answers(example: Example) -> dict[str, list[str]]:
    """Wrong answers near the gold of a numeric question, a range or a date: what differs → answers."""
    if example.kind == "numeric":
        return _other_numbers(example)
    if example.kind == "range":
        return _other_ranges(example)
    return _other_dates(example.gold) if example.kind == "date" else {}


def _other_numbers(example: Example) -> dict[str, list[str]]:
    gold = read_number(example.gold)
    low, high = example.limits or (gold - example.tolerance, gold + example.tolerance)
    others = {
        "off by ten": (gold * 10, gold / 10, gold * 100),
        "another sign": (-gold,),
        "another number": (high + abs(high - gold) + 1, gold * 2, gold * 1.5 + 3),
    }
    found = {
        name: [f"{number:.10g} {example.unit}".strip() for number in numbers if not low <= number <= high]
        for name, numbers in others.items()
    }
    return found | {"another unit": [f"{example.gold} {unit}" for unit in _other_units(example.unit) if gold]}


def _other_ranges(example: Example) -> dict[str, list[str]]:
    gold = read_range(example.gold, example)
    if gold is None:  # the data's own check tells of it
        return {}
    low, high = gold.low.value, gold.high.value
    step = max(high - low, 1.0) + 2 * example.tolerance
    others = {
        "off by ten": [(low * factor, high * factor) for factor in (10, 0.1) if high],
        "another number": [(low, high + step), (low - step, high), (low + step, high + step)],
    }
    found = {
        name: [f"{one:.10g}-{other:.10g} {example.unit}".strip() for one, other in ends]
        for name, ends in others.items()
    }
    return found | {"another unit": [f"{example.gold} {unit}" for unit in _other_units(example.unit)]}


def _other_units(unit: str) -> list[str]:
    return [text.removeprefix("1 ") for text in changed(f"1 {unit}", "unit")] if unit else []


def _other_dates(gold: str) -> dict[str, list[str]]:
    try:
        month, day, year = (int(part) for part in gold.split("/"))
        right = date(year, month, day)
    except ValueError:  # the data's own check tells of it
        return {}
    days = {"another day": 1, "another month": 31, "another year": 366}
    return {name: [f"{right + timedelta(days=count):%m/%d/%Y}"] for name, count in days.items()}


def reworded(text: str) -> list[str]:
    """The gold's text in other words that leave its meaning as it is."""
    plain = " ".join(text.split()).rstrip(" .")
    if len(plain.split()) > LONGEST_PHRASE or _VERB.search(plain):
        return [f"The answer is: {plain}.", f"{plain}.", f"Answer: {plain}"]
    forms = ["It is {x}.", "{x}, most likely", "The answer is {x}", "This is {x}.", "Most likely {x}.", "Answer: {x}"]
    lowered = plain.lower() if re.fullmatch(r"[A-Z]?[a-z][a-z ,'-]*", plain) else plain
    return [form.format(x=plain) for form in forms] + ([lowered] if lowered != plain else [])


def _negations(text: str) -> Iterator[str]:
    """Denials of a text; of one that is negative already, the text without its 'not': denying it twice affirms it."""
    if is_generic(joined_words(text)):
        return
    if _NEGATED.search(text):
        if len(_NEGATED.findall(text)) == 1 and (found := _PLAIN_NOT.search(text)):
            group = 1 if found[1] else 2
            yield text[: found.start(group)] + text[found.end(group) :]
        return
    if verbs := list(_VERB.finditer(text)):
        if len(verbs) == 1:
            yield f"{text[: verbs[0].end()]} not{text[verbs[0].end() :]}"
        yield f"It is not true that {_begun_small(text)}"
        yield f"False: {text}"
    elif len(text.split()) <= LONGEST_PHRASE:
        phrase = _begun_small(text)
        forms = _DENIALS if re.search(r"\d", text) else (*_DENIALS, *_ABSENCES)
        yield from (form.format(x=phrase) for form in forms)


def _begun_small(text: str) -> str:
    """The text as the middle of a sentence; abbreviations and names like T3 keep their capitals."""
    return text[0].lower() + text[1:] if re.match(r"[A-Z][a-z]+\b", text) else text


def _numbers(text: str) -> Iterator[str]:
    for found in _NUMBER.finditer(text):
        value = float(found[0].replace(",", ""))
        others = (value * 10, value / 10, _near(value), float(_other_digit(found[0]).replace(",", "")))
        for other in dict.fromkeys(others):
            if other != value:
                yield text[: found.start()] + f"{other:.10g}" + text[found.end() :]
        if value and _QUANTITY.fullmatch(text):  # elsewhere a minus would be a hyphen, a bullet or a range
            yield f"-{text}"
    for found in _CODE.finditer(text):
        yield text[: found.start(1)] + str(int(found[1]) + 1) + text[found.end(1) :]
    for series in (_NUMBER_WORDS, _ORDINALS, _SHORT_ORDINALS):
        yield from _swapped(text, dict(zip(series, [*series[1:], series[0]], strict=True)))


def _near(value: float) -> float:
    """A number close by, and yet another one: a fifth more, at least one of a whole number."""
    return value + max(1.0, round(value / 5)) if value.is_integer() else value * 1.2


def _other_digit(number: str) -> str:
    """The number with its first digit another one."""
    return str(int(number[0]) % 9 + 1) + number[1:]


def _units(text: str) -> Iterator[str]:
    for found in _UNIT.finditer(text):
        yield text[: found.start(1)] + _UNITS[found[1]] + text[found.end(1) :]


def _sides(text: str) -> Iterator[str]:
    spared = [found.span() for found in _NO_SIDE.finditer(text)]
    if not spared:
        yield from _swapped(text, _both_ways(_SIDES))


def _opposites(text: str) -> Iterator[str]:
    if "lower" not in text.lower() or "higher" in text.lower():
        yield from _swapped(text, _both_ways(_OPPOSITES))
    if not _NO_PREFIX.search(text) and (found := _PREFIX.search(text)):
        other = "hypo" if found[1].lower() == "hyper" else "hyper"
        yield text[: found.start()] + _cased(other, found[1]) + text[found.end() :]


def _drugs(text: str) -> Iterator[str]:
    named = {found[0].lower() for found in _DRUG.finditer(text)}
    for found in _DRUG.finditer(text):
        start = int.from_bytes(stable_hash(text)[:4]) % len(_DRUGS)
        others = [drug for drug in (*_DRUGS[start:], *_DRUGS[:start]) if drug not in named]
        yield from (text[: found.start()] + _cased(other, found[0]) + text[found.end() :] for other in others[:3])


def _both_ways(pairs: tuple[str, ...]) -> dict[str, str]:
    halves = [tuple(pair.split("/")) for pair in pairs]
    return {one: other for a, b in halves for one, other in ((a, b), (b, a))}


def _swapped(text: str, others: dict[str, str]) -> Iterator[str]:
    """The text with one word exchanged, for each word that has another."""
    for found in re.finditer(rf"(?<![\w-])(?:{'|'.join(map(re.escape, others))})(?![\w-])", text, re.IGNORECASE):
        other = _cased(others[found[0].lower()], found[0])
        rest = text[: found.start()] + text[found.end() :]
        if not re.search(rf"\b{re.escape(other)}\b", rest, re.IGNORECASE):  # 'from left to right' would be a riddle
            yield text[: found.start()] + other + text[found.end() :]


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


_CHANGES: dict[Change, Callable[[str], Iterator[str]]] = {
    "negation": _negations,
    "number": _numbers,
    "unit": _units,
    "side": _sides,
    "opposite": _opposites,
    "drug": _drugs,
}
