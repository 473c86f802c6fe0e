"""Opposites: whether two texts stand at different poles of an axis: left and right, increase and decrease."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Literal, NamedTuple

from medgrpo.contradictions.negation import STOP_WORDS, negated_places
from medgrpo.contradictions.tokens import is_word, stem

# An axis a line, its poles between bars. A word with * stands for all that start so; a word may be on several axes.
_SIDES = """
left leftward leftwards lt llq luq lv lvh lbbb | right rightward rightwards rt rlq ruq rv rvh rbbb | bilateral*
unilateral* | bilateral*
ipsilateral* homolateral | contralateral*
upper uppermost luq ruq | lower lowermost llq rlq
superior superiorly | inferior inferiorly
anterior anteriorly anteriormost | posterior posteriorly posteriormost
medial medially | lateral laterally
mesial mesially | distal distally
proximal proximally | distal distally
dorsal dorsally | ventral ventrally | lateral laterally
volar palmar plantar | dorsal dorsum
cranial cephalad cephalic rostral | caudal caudally caudad
internal internally inner inside | external externally outer outside
superficial superficially | deep deeply
central centrally | peripheral* peripherally
above | below | beneath
maxillary maxilla | mandibular mandible
buccal labial | lingual palatal
supine | prone
horizontal* | vertical*
front | back behind
top | bottom
radial | ulnar
tibial | fibular peroneal
"""
_OPPOSITES = """
increas* elevat* rais* rise rises rising rose high higher highest upregul* \
    augment* enhanc* more greater \
    | decreas* reduc* low lower lowers lowered lowering lowest declin* diminish* fall falls falling fell \
    downregul* less lesser depress* suppress* | unchanged
positive positively positivity | negative negatively negativity
benign | malignant malignancy malignancies
agonist agonists | antagonist antagonists blocker blockers blockade
polyuri* | oliguri* | anuri*
amenorrh* | oligomenorrh* | polymenorrh* menorrhagi*
afferent afferents | efferent efferents
systol* | diastol*
acidosis acidotic acidemia | alkalosis alkalotic alkalemia
acid acidic | alkaline basic
before prior preceding precedes | after following subsequent* later
acute acutely | chronic* | subacute
male males man men boy boys masculin* | female females woman women girl girls feminin*
mother maternal* | father paternal*
dilat* | constrict*
vasodilat* | vasoconstrict*
bronchodilat* | bronchoconstrict*
relax* | contract*
flexion flexor* flexes flex | extension extensor* extends extend
adduct* | abduct*
supinat* | pronat*
inversion | eversion
inspir* inhal* | expir* exhal*
sensory | motor
activat* stimulat* promot* facilitat* | inhibit* block* suppress* inactivat* deactivat*
dominant | recessive
mild mildly | moderate moderately | severe severely
rapid rapidly fast faster quick quickly | slow slowly slower
large larger largest big bigger | small smaller smallest
long longer longest prolong* | short shorter shortest shorten*
wide wider widen* widest | narrow* constricted
thick thicker thicken* | thin thinner thinning
strong stronger strongest | weak weaker weakest weaken*
maximum maximal* maximiz* | minimum minimal* minimiz*
early earlier earliest | late later latest
primary primarily | secondary secondarily | tertiary
arterial artery arteries arteriol* | venous vein veins venul*
hot warm heat | cold cool
open opens opened opening | closed closes closing close
gain gains gained | loss lose loses lost
start starts begin begins initiat* continu* | stop stops cease ceases discontinu* terminat*
always | never
true | false
correct | incorrect
yes | no | maybe
all every | none
normal normally | abnormal*
alive living | dead
congenital* inherited hereditary | acquired
hemorrhagic haemorrhagic | ischemic ischaemic
obstructive | restrictive
anterograde antegrade orthograde | retrograde
sympathetic | parasympathetic
aerob* | anaerob*
single | double doubl* | triple
homozygous homozygo* | heterozygous heterozygo*
inpatient | outpatient
soluble | insoluble
oxidat* oxidiz* oxidis* | reduction reduced reducing
absor* | secret* excret*
anabol* | catabol*
major | minor
first | last
exudat* | transudat*
solid | liquid | gas gaseous
worsen* worse deteriorat* aggravat* exacerbat* | improv* better ameliorat* alleviat*
same equal | different unequal
direct directly | indirect*
"""
_PREFIXES = """
hyper | hypo | eu normo iso
tachy | brady
macro | micro | normo
intra | extra
pre ante | post
endo | exo
supra | infra
homo | hetero
mono uni | bi di | tri | poly multi | oligo
over | under
up | down
pro | anti
ante antero | retro | postero
leuko leuco | erythro
"""
_ANSWERS = frozenset({"answer", "answers", "choice", "option", "diagnosis", "response", "one", "statement"})
# Before these words a pole is none: 'the right answer' says nothing of a side, 'basic metabolic panel' of acids.
_FRAMED = dict.fromkeys(("right", "correct", "true", "first", "last"), _ANSWERS) | {
    "basic": frozenset({"metabolic", "life", "trauma", "science", "sciences", "care", "panel", "principle"})
    | {"principles", "laboratory", "labs", "test", "tests", "needs", "skills", "knowledge", "cardiac"},
}
_ENDS = frozenset({"and", "or", "but", "with", "while", "whereas", "vs", "versus"})
_REACH = 4
"""Words between a pole and the word that it belongs to, at most."""
Family = Literal["side", "opposite"]


class Pole(NamedTuple):
    """An end of an axis: two ends of one axis exclude each other."""

    axis: str
    family: Family
    end: str


def find_opposite(one: Sequence[str], other: Sequence[str]) -> Family | None:
    """The family in which two texts, as tokens, stand at different poles; None where they don't.

    They do when each has a pole of an axis more often than the other, or when the same word has different poles of it
    ('left atrium, right ventricle', 'right atrium, left ventricle'). Negated poles are compared with negated ones.
    """
    first, second = _find_poles(one), _find_poles(other)
    here, there = _by_axis(first), _by_axis(second)
    opposed = {axis for axis in here.keys() & there.keys() if here[axis] - there[axis] and there[axis] - here[axis]}
    bound, bound_there = _by_word(one, first), _by_word(other, second)
    opposed |= {key[0] for key in bound.keys() & bound_there.keys() if not bound[key] & bound_there[key]}
    families = {pole.family for _, pole in first if pole.axis in opposed}
    return "side" if "side" in families else "opposite" if families else None


def _find_poles(tokens: Sequence[str]) -> list[tuple[int, Pole]]:
    """Place and pole of each word that has one; a negated pole is on an axis of its own."""
    places = [_poles_at(tokens, place) for place in range(len(tokens))]
    negated = negated_places(tokens, [bool(poles) for poles in places])
    return [
        (place, pole._replace(axis=f"not {pole.axis}") if negated[place] else pole)
        for place, poles in enumerate(places)
        for pole in poles
    ]


def _poles_at(tokens: Sequence[str], place: int) -> list[Pole]:
    token = tokens[place]
    following = tokens[place + 1] if place + 1 < len(tokens) else ""
    if not is_word(token) or following in _FRAMED.get(token, ()):
        return []
    return _poles_of_word(token) + _poles_of_prefix(token, following)


def _poles_of_word(word: str) -> list[Pole]:
    found = list(_EXACT.get(word, ()))
    for length in range(_SHORTEST, min(len(word), _LONGEST) + 1):
        found += _STARTS.get(word[:length], ())
    return found


def _poles_of_prefix(word: str, following: str) -> list[Pole]:
    """Poles by prefix; the axis is the rest of the word, so that hyperkalaemia opposes hypokalaemia alone."""
    found = []
    for length in range(_SHORTEST_PREFIX, min(len(word), _LONGEST_PREFIX) + 1):
        rest = word[length:] or following
        if len(rest) >= 3:
            found += [
                Pole(f"{pole.axis} {stem(rest)}", pole.family, pole.end) for pole in _BY_PREFIX.get(word[:length], ())
            ]
    return found


def _by_axis(poles: Sequence[tuple[int, Pole]]) -> dict[str, Counter[str]]:
    """Axis → the ends of it that a text has, and how often."""
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for _, pole in poles:
        ends[pole.axis][pole.end] += 1
    return ends


def _by_word(tokens: Sequence[str], poles: Sequence[tuple[int, Pole]]) -> dict[tuple[str, str], set[str]]:
    """(Axis, the word that a pole belongs to) → the ends of the axis that go with it."""
    ends: dict[tuple[str, str], set[str]] = defaultdict(set)
    for place, pole in poles:
        if pole.axis.removeprefix("not ") in _WORD_AXES and (anchor := _anchor(tokens, place)):
            ends[pole.axis, stem(anchor)].add(pole.end)
    return ends


def _anchor(tokens: Sequence[str], place: int) -> str:
    """The nearest word after a pole in its phrase that isn't a stop word, else the nearest before it."""
    for step in (1, -1):
        for near in range(place + step, place + step * _REACH, step):
            if not 0 <= near < len(tokens) or not is_word(tokens[near]) or tokens[near] in _ENDS:
                break
            if tokens[near] not in STOP_WORDS:
                return tokens[near]
    return ""


def _read(table: str, family: Family) -> dict[str, list[Pole]]:
    """Word, or start of words with its star → the poles that it stands for."""
    poles: dict[str, list[Pole]] = defaultdict(list)
    for line in table.strip().splitlines():
        for end, words in enumerate(line.split("|")):
            for word in words.split():
                poles[word].append(Pole(line, family, str(end)))
    return dict(poles)


def _merged(*tables: Mapping[str, list[Pole]]) -> dict[str, list[Pole]]:
    words: Set[str] = {word for table in tables for word in table}
    return {word: [pole for table in tables for pole in table.get(word, ())] for word in words}


_TABLE = _merged(_read(_SIDES, "side"), _read(_OPPOSITES, "opposite"))
_EXACT = {word: poles for word, poles in _TABLE.items() if not word.endswith("*")}
_STARTS = {word[:-1]: poles for word, poles in _TABLE.items() if word.endswith("*")}
_SHORTEST, _LONGEST = min(map(len, _STARTS)), max(map(len, _STARTS))
_BY_PREFIX = _read(_PREFIXES, "opposite")
_SHORTEST_PREFIX, _LONGEST_PREFIX = min(map(len, _BY_PREFIX)), max(map(len, _BY_PREFIX))
_WORD_AXES = frozenset(pole.axis for poles in _TABLE.values() for pole in poles)
