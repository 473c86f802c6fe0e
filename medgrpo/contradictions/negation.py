"""Negation: which of some words a text negates, by cues and their scope (after NegEx, Chapman 2001, without a parser).

A cue negates the words of interest ahead of it in its clause, or, where it is of a kind that may stand after what it
negates ('X is absent'), those behind it. Two negations of a word cancel each other. What the two readings of a text,
with its punctuation and without, don't agree on counts as neither negated nor asserted.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from itertools import accumulate

from medgrpo.contradictions.cues import PHRASES, Cue, find_cues
from medgrpo.contradictions.tokens import is_word, stem

_OPENERS = frozenset({"no", "without", "nor", "neither"})
_JOINTS = frozenset({"and", "or", "but", "then"})
_TURNS = frozenset(
    {"but", "however", "although", "though", "because", "since", "which", "who", "whose", "whereas", "while", "yet"}
    | {"therefore", "hence", "thus", "nevertheless", "nonetheless", "instead", "albeit", "where", "when"}
)
# 'Stop aspirin and start heparin': the second verb ends the scope of the first.
_FRESH_VERBS = frozenset({"start", "begin", "give", "initiate", "administer", "continue", "switch", "use", "add"})
_AUXILIARIES = """
is are was were be been being am do does did has have had can could will would shall should may might must need ca wo
sha ai seems seem appears appear remains
"""
_STOP_WORDS = """
a an the of to in on at by for with and or it its this that these those as from there he she they his her their i we you
my our your s so than then into any all such also
"""
_FRAME_WORDS = """
case true answer answers diagnosis present seen found here option choice correct right likely evidence cause possible
possibility indicated needed required recommended applicable involved responsible appropriate observed detected
identified noted considered expected reason explanation statement claim certainly definitely clearly probably surely
most really actually longer fact what one believe think supported view opinion however sign signs patient entirely
altogether completely quite confirmed
"""
AUXILIARIES = frozenset(_AUXILIARIES.split())
STOP_WORDS = AUXILIARIES | frozenset(_STOP_WORDS.split())
# Words that say nothing of their own: a clause made of them and a cue speaks of the clause before or after it.
_FRAME = STOP_WORDS | frozenset(_FRAME_WORDS.split())
_CUE_STEMS = frozenset(stem(phrase[0]) for phrase in PHRASES if len(phrase) == 1)
_STOP_STEMS = frozenset(map(stem, STOP_WORDS))
# Prefixes that negate, with the letters that the rest must have: only 'a' and 'an' start many other words too.
_PREFIXES = (
    ("non", 4),
    ("dis", 5),
    ("un", 4),
    ("in", 5),
    ("im", 5),
    ("ir", 5),
    ("il", 5),
    ("de", 7),
    ("an", 5),
    ("a", 5),
)
_ADJECTIVE_ENDINGS = ("ic", "al", "ar", "ile", "ous", "ible", "able", "ive", "ed", "ia")
_NOT_PREFIXED = frozenset({"inpatient", "inpatients", "inside", "another", "inform", "informed", "intense"})
# Words that only look prefixed, whatever their ending: a disorder is no lack of order.
_NEVER_PREFIXED = ("disinfect", "disorder", "discharg", "displac", "dislocat", "infiltrat")


def contrasted(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a word that both texts (as tokens) have is negated in one and not in the other.

    In a long text a word is often both denied and asserted: there it must say the same with one more negation.
    """
    if _differ_by_a_cue(one, other):
        return True
    stems = [list(map(stem, tokens)) for tokens in (one, other)]
    first, second = _rooted(one, stems[0], stems[1]), _rooted(other, stems[1], stems[0])
    shared = _shared({root for root, _ in first}, {root for root, _ in second})
    if not shared:
        return False
    here, there = _definite(one, first, shared), _definite(other, second, shared)
    by_prefix = {root for root, has_prefix in (*first, *second) if has_prefix}
    if any(here.get(root) is True is there.get(root) for root in by_prefix):
        return False  # 'irreversible damage' is 'damage that is not reversible'
    return any(there.get(word, sign) != sign for word, sign in here.items())


def _differ_by_a_cue(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two texts have the same words, and an odd number of negations more in one of them."""
    (words, cues), (other_words, other_cues) = _apart(one), _apart(other)
    return (cues - other_cues) % 2 == 1 and len(words) > 0 and words == other_words


def _apart(tokens: Sequence[str]) -> tuple[Counter[str], int]:
    """The stems of a text's words that say something, and how many negations it has beside them."""
    cues = find_cues(tokens)
    inside = {place for cue in cues for place in range(cue.start, cue.end)}
    said = (token for place, token in enumerate(tokens) if place not in inside and is_word(token))
    return Counter(stem(token) for token in said if token not in _FRAME), len(cues)


def negated_places(tokens: Sequence[str], of_interest: Sequence[bool], by_punctuation: bool = True) -> list[bool]:
    """For each token, whether an odd number of cues negates it.

    Args:
        tokens: words and punctuation marks.
        of_interest: for each token, whether its negation is asked for: cues look for such words.
        by_punctuation: whether punctuation ends a scope.
    """
    cues = find_cues(tokens)
    clauses = _Clauses(tokens, of_interest, cues, by_punctuation)
    turns = [0] * (len(tokens) + 1)
    for cue in cues:
        start, end = clauses.scope(cue)
        turns[start] += 1
        turns[end] -= 1
    return [depth % 2 == 1 for depth in accumulate(turns[:-1])]


class _Clauses:
    """A text's clauses, and where a cue's scope lies among them. Every question takes constant time."""

    def __init__(self, tokens: Sequence[str], of_interest: Sequence[bool], cues: Sequence[Cue], stops: bool) -> None:
        self.tokens, size = tokens, len(tokens)
        inside = {place for cue in cues for place in range(cue.start, cue.end)}
        starts = _starts(tokens, {cue.start: cue for cue in cues}, inside, stops)
        self.start = list(accumulate((p if first else -1 for p, first in enumerate(starts)), max))
        self.end = [0] * size
        for place in range(size - 1, -1, -1):
            is_last = place == size - 1 or starts[place + 1]
            self.end[place] = place + 1 if is_last else self.end[place + 1]
        self.hits = _counts(of_interest)
        self.foreign = _counts([is_word(t) and t not in _FRAME and p not in inside for p, t in enumerate(tokens)])
        self.auxiliaries = _counts([token in AUXILIARIES for token in tokens])
        self.after_that = list(accumulate((p + 1 if t == "that" else 0 for p, t in enumerate(tokens)), max))
        self.last_hit = list(accumulate((p if hit else -1 for p, hit in enumerate(of_interest)), max))
        self.next_hit = [size] * (size + 1)
        for place in range(size - 1, -1, -1):
            self.next_hit[place] = place if of_interest[place] else self.next_hit[place + 1]

    def scope(self, cue: Cue) -> tuple[int, int]:
        """The tokens that a cue negates, as start and end (exclusive); an empty span where it negates nothing."""
        start, end = self.start[cue.start], self.end[cue.end - 1]
        if cue.direction == "next":
            place = self.next_hit[cue.end]
            return (place, place + 1) if place < end and not self._any(self.foreign, cue.end, place) else (0, 0)
        last = self.last_hit[cue.start - 1] if cue.start else -1
        if cue.direction == "previous":
            return (last, last + 1) if start <= last and self._is_near(last, cue.start) else (0, 0)
        if self._any(self.hits, cue.end, end):
            return cue.end, end
        behind = max(start, self.after_that[cue.start])
        if self._looks_back(cue, start, end) and self._any(self.hits, behind, cue.start):
            return behind, cue.start
        if not self._any(self.foreign, start, end) and not self._any(self.hits, start, end):
            return self._neighbour(start, end)
        return 0, 0

    def _looks_back(self, cue: Cue, start: int, end: int) -> bool:
        """Whether a cue may stand after what it negates: 'X is not due to Y' denies X, 'X, not due to Y' doesn't."""
        if cue.direction == "ahead":
            return False
        return (
            cue.direction == "either"
            or self._any(self.auxiliaries, start, cue.start)
            or not self._any(self.foreign, cue.end, end)
        )

    def _is_near(self, last: int, cue_start: int) -> bool:
        """Whether only auxiliaries stand between a word and the 'negative' or 'free' that goes with it."""
        return self.auxiliaries[cue_start] - self.auxiliaries[last + 1] == cue_start - last - 1

    def _neighbour(self, start: int, end: int) -> tuple[int, int]:
        """The nearest clause with a word of interest, the one before first: 'X. That is false', 'Not so: X'."""
        before = self.last_hit[start - 1] if start else -1
        place = before if before >= 0 else self.next_hit[end]
        return (self.start[place], self.end[place]) if place < len(self.tokens) else (0, 0)

    @staticmethod
    def _any(counts: Sequence[int], start: int, end: int) -> bool:
        return end > start and counts[end] > counts[start]


def _starts(tokens: Sequence[str], cues: dict[int, Cue], inside: set[int], stops: bool) -> list[bool]:
    """For each token, whether a clause starts with it."""
    starts = [True] * len(tokens)
    for place in range(1, len(tokens)):
        before, token = tokens[place - 1], tokens[place]
        turns = (before in _TURNS and place - 1 not in inside) or (token in _TURNS and place not in inside)
        marks = stops and not (is_word(before) and is_word(token))
        opens = place in cues and (
            (token in _OPENERS and cues[place].direction == "ahead" and place - 1 not in inside)
            or (before in _JOINTS and place - 1 not in inside)
        )
        starts[place] = turns or marks or opens or (before in _JOINTS and token in _FRESH_VERBS)
    return starts


def _counts(flags: Sequence[bool]) -> list[int]:
    """Running totals, one longer than the flags."""
    return list(accumulate(flags, initial=0))


def _rooted(tokens: Sequence[str], stems: Sequence[str], others: Sequence[str]) -> list[tuple[str, bool]]:
    """Each token's stem, and whether a prefix negates it: where only the other text has reversible, irreversible."""
    known = frozenset(others)
    return [
        (root, True) if word not in known and (root := _root(token, known)) else (word, False)
        for token, word in zip(tokens, stems, strict=True)
    ]


def _root(token: str, known: Set[str]) -> str:
    """The stem that a negating prefix stands before; empty where there is none that the other text has."""
    if token not in _NOT_PREFIXED and not token.startswith(_NEVER_PREFIXED):
        for prefix, shortest in _PREFIXES:
            if prefix == "dis" and token.endswith(("ion", "ions")):
                continue  # what is done, as dissection and distraction: no lack of a section or of traction
            if token.startswith(prefix) and len(token) >= len(prefix) + shortest:
                root = stem(token[len(prefix) :])
                if root in known and (len(prefix) > 1 or token.endswith(_ADJECTIVE_ENDINGS)):
                    return root
    return ""


def _shared(one: Set[str], other: Set[str]) -> Set[str]:
    """Stems that both texts have; of stop words only where there is nothing else."""
    words = {word for word in one & other if is_word(word)} - _CUE_STEMS
    return words - _STOP_STEMS or words


def _definite(tokens: Sequence[str], rooted: Sequence[tuple[str, bool]], shared: Set[str]) -> dict[str, bool]:
    """Shared stem → whether the text negates it; without those on which its mentions or readings differ."""
    wanted = [root in shared for root, _ in rooted]
    signs: dict[str, set[bool]] = defaultdict(set)
    for by_punctuation in (True, False):
        places = negated_places(tokens, wanted, by_punctuation)
        for (root, by_prefix), negated in zip(rooted, places, strict=True):
            if root in shared:
                signs[root].add(negated != by_prefix)
    return {root: seen.pop() for root, seen in signs.items() if len(seen) == 1}
