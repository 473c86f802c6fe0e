"""Ranking: how often a reward set pays a right answer more than a wrong one that looks like it, per kind of difference.

The pairs are made of the user's own rows: a gold against each other option, a gold against a changed gold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from medgrpo.answer import parse, render_completion
from medgrpo.audit.honest import REASONING
from medgrpo.audit.perturb import CHANGES, changed, changed_answers, reworded
from medgrpo.data.words import is_generic, joined_words, stable_hash
from medgrpo.judge import is_number
from medgrpo.rewards.scoring import RewardSet
from medgrpo.statistics import wilson_interval
from medgrpo.types import Example, Frozen, Interval, Rollout

Encode = Callable[[Sequence[str]], Any]
"""Texts to an array of vectors of length 1."""
PAIRS = 200
"""Pairs of each family that the audit asks about."""
CONFIDENCE = 0.95
"""Level of the intervals."""
LONGEST_GOLD = 60
"""Words of the longest gold that a pair is made of: one word changed in a page says little."""
_TINY = 1e-9
_SAME_COSINE = 1e-6
"""Equal texts differ by this much in 32 bits."""


class Pair(NamedTuple):
    """A right answer, and a wrong one to the same question."""

    family: str
    example: Example
    right: str
    wrong: str

    @property
    def is_text(self) -> bool:
        """Whether it is about a text, whatever the question: the same text in two rows is one pair."""
        return self.example.kind == "text"


class RankingRow(Frozen):
    """How often the right answer of a family's pairs earned more than the wrong one; a tie counts against it."""

    family: str
    pairs: int
    accuracy: Interval
    """Of the reward set's total."""
    plain: Interval | None
    """Of plain similarity between answer and gold on the same pairs; None where no encoder is at hand."""


def make_pairs(examples: Sequence[Example], most: int = PAIRS) -> dict[str, list[Pair]]:
    """Pairs by family, at most `most` of each, spread over the rows; the same ones for the same rows."""
    families: dict[str, dict[str, Pair]] = {}
    for example in examples:
        for pair in _pairs_of(example):
            rows = families.setdefault(pair.family, {})
            rows.setdefault("\n".join((pair.example.gold if pair.is_text else example.id, *pair[2:])), pair)
    return {name: [pairs[key] for key in sorted(pairs, key=stable_hash)[:most]] for name, pairs in families.items()}


def rank(rewards: RewardSet, pairs: Mapping[str, Sequence[Pair]], encode: Encode | None) -> tuple[RankingRow, ...]:
    """The reward set's ranking accuracy per family with Wilson's interval, and plain similarity's beside it."""
    return tuple(
        RankingRow(
            family=family,
            pairs=len(found),
            accuracy=_share(_ranked(rewards, found)),
            plain=_share(_ranked_by(encode, found)) if encode else None,
        )
        for family, found in sorted(pairs.items())
        if found
    )


def _share(are_ranked: Sequence[bool]) -> Interval:
    return wilson_interval(sum(are_ranked), len(are_ranked), CONFIDENCE)


def misranked(rewards: RewardSet, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose right answer doesn't earn more."""
    return [pair for pair, is_ranked in zip(pairs, _ranked(rewards, pairs), strict=True) if not is_ranked]


def _ranked(rewards: RewardSet, pairs: Sequence[Pair]) -> list[bool]:
    right, wrong = (
        rewards.totals([_rollout(pair.example, answer) for pair, answer in zip(pairs, answers, strict=True)])
        for answers in ([pair.right for pair in pairs], [pair.wrong for pair in pairs])
    )
    return [one > other + _TINY for one, other in zip(right, wrong, strict=True)]


def _ranked_by(encode: Encode, pairs: Sequence[Pair]) -> list[bool]:
    """The same by the cosine of answer and gold, as most rewards for similarity have it."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.right, pair.wrong, pair.example.gold_text)))
    vector = dict(zip(texts, encode(texts), strict=True))

    def cosine(answer: str, pair: Pair) -> float:
        return float(vector[answer] @ vector[pair.example.gold_text])

    return [cosine(pair.right, pair) > cosine(pair.wrong, pair) + _SAME_COSINE for pair in pairs]


def _rollout(example: Example, answer: str) -> Rollout:
    completion = render_completion(REASONING, answer)  # the same on both sides: only the answers differ
    return Rollout(example=example, completion=completion, parsed=parse(completion))


def _pairs_of(example: Example) -> Iterator[Pair]:
    if example.kind == "choice":
        yield from _choices(example)
        yield from _texts(_as_text(example))
    elif example.kind == "text":
        yield from _texts(example)
    for difference, answers in changed_answers(example).items():
        yield from (Pair(f"{example.kind}: {difference}", example, example.gold_text, answer) for answer in answers)


def _as_text(example: Example) -> Example:
    """A choice's gold as the gold of a free text, so that sets of choices show what the rewards make of texts."""
    return Example(id=example.id, kind="text", question=example.question, gold=example.gold_text)


def _choices(example: Example) -> Iterator[Pair]:
    gold_text = joined_words(example.gold_text)
    for letter, text in example.options.items():
        if letter == example.gold:
            continue
        yield Pair("choice: another letter", example, example.gold, letter)
        if joined_words(text) != gold_text and min(len(text.strip()), len(gold_text)) > 1:  # a letter is read as one
            yield Pair("choice: another option's text", example, example.gold_text, text)


def _texts(example: Example) -> Iterator[Pair]:
    gold = example.gold
    if len(gold.split()) > LONGEST_GOLD or (is_generic(joined_words(gold)) and not is_number(gold)):
        return
    rewordings, right = reworded(gold), {joined_words(alias) for alias in example.aliases}
    for change in CHANGES:
        for wrong in changed(gold, change):
            if joined_words(wrong) in right:
                continue
            place = int.from_bytes(stable_hash(wrong)[:4]) % len(rewordings)
            yield Pair(f"text: {change}", example, rewordings[place], wrong)
