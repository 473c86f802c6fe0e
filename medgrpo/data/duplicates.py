"""Rows that repeat another row: exact and near duplicates, of which the first stays, and contradictions, which all go.

Near duplicates (Broder 1997, 'On the resemblance and containment of documents') are found in three steps, each on what
the one before has left: rows with the same numbers, negations and gold; MinHash with locality-sensitive hashing; the
similarity itself.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from medgrpo.data.patient_data import mask, shown
from medgrpo.data.words import (
    joined_words,
    negations,
    numbers,
    option_text,
    option_texts,
    options_agree,
    stable_hash,
    word_ngrams,
    words,
)
from medgrpo.judge import is_correct
from medgrpo.types import Drop, Example

_SHINGLE = 3
_PERMUTATIONS = 128
_SEED = 42


def find_duplicates(examples: Sequence[Example], similarity: float) -> dict[int, Drop]:
    """Which rows to drop because other rows ask the same, by position. The first row of a group of duplicates stays.

    Args:
        similarity: smallest Jaccard similarity of the 3-word shingles that makes a near duplicate, above 0.
    """
    drops: dict[int, Drop] = {}
    for group in _same_question(examples):
        drops |= _judge(group, examples)
    return drops | _near(examples, [row for row in range(len(examples)) if row not in drops], similarity)


def _same_question(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Groups of at least two rows that ask the same."""
    by_words: dict[bytes, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        by_words[stable_hash(f"{example.kind}\n{joined_words(example.question)}")].append(row)
    for rows in by_words.values():
        if len(rows) > 1:
            by_numbers: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for row in rows:
                by_numbers[tuple(numbers(examples[row].question))].append(row)
            for same in by_numbers.values():
                groups = _same_options(same, examples) if examples[same[0]].kind == "choice" else [same]
                yield from (group for group in groups if len(group) > 1)


def _same_options(rows: Sequence[int], examples: Sequence[Example]) -> list[list[int]]:
    """The rows grouped by agreement with the options of the group's first row.

    Lists that agree have at least half of the longer one in common, so they share one of the `len // 2 + 1` rarest
    options of each: only groups found under those are compared.
    """
    options = {row: option_texts(examples[row]) for row in rows}
    counts = Counter(text for texts in options.values() for text in texts)
    groups: list[list[int]] = []
    found_under: dict[str, list[list[int]]] = defaultdict(list)
    for row, texts in options.items():
        rarest = sorted(texts, key=lambda text: (counts[text], text))[: len(texts) // 2 + 1]
        candidates = [group for text in rarest for group in found_under[text]]
        group = next((group for group in candidates if options_agree(texts, options[group[0]])), None)
        if group is None:
            groups.append([row])
            for text in rarest:
                found_under[text].append(groups[-1])
        else:
            group.append(row)
    return groups


def _judge(group: Sequence[int], examples: Sequence[Example]) -> dict[int, Drop]:
    """Why rows of one question are dropped: all of them when two golds exclude each other, else all but the first."""
    rows = [examples[row] for row in group]
    if rows[0].kind == "text":
        return {row: _drop_exact(rows[0]) for row in group[1:]}  # two wordings of one answer exclude nothing
    distinct = {(e.gold, e.unit, e.tolerance, e.limits, tuple(e.options.items())): e for e in reversed(rows)}
    clash = next((pair for pair in combinations(distinct.values(), 2) if _exclude(*pair)), None)
    if clash is None:
        return {row: _drop_exact(examples[group[0]]) for row in group[1:]}
    one, other = clash
    return {row: _drop_contradiction(examples[row], one if _exclude(examples[row], one) else other) for row in group}


def _drop_exact(first: Example) -> Drop:
    return Drop(reason="exact duplicate", detail=f"same question as row '{mask(first.id)}'")


def _drop_contradiction(example: Example, other: Example) -> Drop:
    golds = f"whose gold is '{shown(other.gold_text)}', not '{shown(example.gold_text)}'"
    detail = f"same question as row '{mask(other.id)}', {golds}"
    return Drop(reason="contradiction", detail=detail)


def _exclude(one: Example, other: Example) -> bool:
    """Whether only one of the two golds of one question can be right."""
    if one.kind == "choice":
        gold, other_gold = option_text(one.gold_text), option_text(other.gold_text)
        return gold != other_gold and (gold in _texts(other) or other_gold in _texts(one))
    if one.kind == "text" or joined_words(one.unit) != joined_words(other.unit):
        return False  # two wordings of one answer; amounts in two units
    return _accepts(one, one) and _accepts(other, other) and not _accepts(one, other) and not _accepts(other, one)


def _texts(example: Example) -> set[str]:
    return {option_text(text) for text in example.options.values()}


def _accepts(example: Example, other: Example) -> bool:
    """Whether the other row's gold is right for this one; a gold that can't be read is another check's matter."""
    try:
        return is_correct(other.gold, example)
    except ValueError:
        return False


def _near(examples: Sequence[Example], rows: Sequence[int], similarity: float) -> dict[int, Drop]:
    """Near duplicates among rows of which none are exact ones."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows:
        groups[_signature(examples[row])].append(row)
    shared = [group for group in groups.values() if len(group) > 1]
    drops: dict[int, Drop] = {}
    for group in _with_likely_partner(shared, examples, similarity):
        drops |= _verified(group, examples, similarity)
    return drops


def _text(example: Example) -> list[str]:
    return words("\n".join([example.question, *sorted(example.options.values())]))


def _shingles(example: Example) -> list[str]:
    return list(dict.fromkeys(word_ngrams(_text(example), _SHINGLE)))


def _signature(example: Example) -> bytes:
    """What near duplicates have in common to the letter: numbers, negations and gold."""
    gold = joined_words(example.gold_text) if example.kind in ("choice", "text") else example.gold_text
    figures = numbers("\n".join([example.question, *example.options.values()]))
    return stable_hash("\n".join([example.kind, gold, " ".join(figures), " ".join(negations(_text(example)))]))


def _with_likely_partner(
    groups: Sequence[Sequence[int]], examples: Sequence[Example], similarity: float
) -> Iterator[list[int]]:
    """The groups' rows that MinHash likens to another row of their group."""
    if not groups:
        return
    from rensa import RMinHash, RMinHashLSH

    def marked() -> Iterator[list[str]]:
        """Each row's shingles, marked with its group, so that rows of two groups have nothing in common."""
        for number, group in enumerate(groups):
            for row in group:
                yield word_ngrams(_text(examples[row]), _SHINGLE, mark=str(number))

    matrix = RMinHash.digest_matrix_from_token_sets(marked(), _PERMUTATIONS, _SEED)
    lsh = RMinHashLSH(similarity, _PERMUTATIONS, bands(similarity))
    flags = iter(lsh.query_duplicate_flags_matrix_one_shot(matrix))
    for group in groups:
        likely = [row for row in group if next(flags)]
        if len(likely) > 1:
            yield likely


def bands(similarity: float) -> int:
    """Fewest bands that bring together 99.9 % of the pairs with this similarity; a band is `128 / bands` values."""
    choices = [2**power for power in range(8)]
    return next((b for b in choices if (1 - similarity ** (_PERMUTATIONS // b)) ** b <= 0.001), _PERMUTATIONS)


def _verified(rows: Iterable[int], examples: Sequence[Example], similarity: float) -> dict[int, Drop]:
    """The rows whose shingles are as similar as asked to those of an earlier row that stays.

    Two sets that similar share one of the `len - ceil(similarity * len) + 1` rarest shingles of each (Bayardo, Ma and
    Srikant 2007, 'Scaling up all pairs similarity search'), so that what all rows of a template have brings none
    together.
    """
    numbered: dict[str, int] = {}
    sets = {row: [numbered.setdefault(s, len(numbered)) for s in _shingles(examples[row])] for row in rows}
    counts = Counter(shingle for shingles in sets.values() for shingle in shingles)
    found_under: dict[int, list[int]] = defaultdict(list)
    drops: dict[int, Drop] = {}
    for row, shingles in sets.items():
        rarest = sorted(shingles, key=lambda s: (counts[s], s))
        del rarest[len(rarest) - math.ceil(similarity * len(rarest) - 1e-9) + 1 :]
        candidates = {other for shingle in rarest for other in found_under[shingle]}
        best, other = max(((_jaccard(shingles, sets[o]), -o) for o in candidates), default=(0.0, 0))
        if best >= similarity:
            detail = f"similarity {best:.2f} to row '{mask(examples[-other].id)}'"
            drops[row] = Drop(reason="near duplicate", detail=detail)
        else:
            for shingle in rarest:
                found_under[shingle].append(row)
    return drops


def _jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    common = len(set(one).intersection(other))
    return common / (len(one) + len(other) - common)
