"""Ranking accuracy of the rewards about content, beside plain similarity, on real question sets.

    python benchmarks/ranking.py [--pairs 200] medqa-4=dev_4options.jsonl pubmedqa=pqal_train500.json ...

Each argument names a preset of `medgrpo/data/presets.py` and its file. Pairs of all sets are put together by family, at
most `--pairs` of each from each set. Rewards: `correct` 1.0 and `semantic` 0.2, the terms of the default set that read
the answer. A text that the judge takes for the gold is ranked rightly by `correct` alone, so two more columns show what
`semantic` does where it can't: in how many wrong answers a contradiction is found, and in how many right ones.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator

from medgrpo.audit.ranking import Pair, make_pairs, misranked, rank
from medgrpo.contradictions import find_contradiction
from medgrpo.data import PresetSource
from medgrpo.rewards import CorrectReward, SemanticReward
from medgrpo.rewards.scoring import RewardSet
from medgrpo.rewards.semantic import load_encoder


def pairs_of(sets: list[str], most: int) -> dict[str, list[Pair]]:
    """All sets' pairs by family."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for argument in sets:
        name, _, path = argument.partition("=")
        rows = list(PresetSource.model_validate({"name": name, "path": path}).load(0))
        # Ids of different sets may be equal.
        rows = [row.model_copy(update={"id": f"{name}/{row.id}"}) for row in rows]
        for family, pairs in make_pairs(rows, most).items():
            found[family] += pairs
    return found


def contradicted(pairs: list[Pair]) -> tuple[str, str]:
    """Share of the wrong and of the right answers in which a contradiction with the gold is found; of texts only."""
    if not pairs[0].is_text:
        return "", ""
    golds = [pair.example.gold for pair in pairs]
    wrong = [find_contradiction(pair.wrong, gold) is not None for pair, gold in zip(pairs, golds, strict=True)]
    right = [find_contradiction(pair.right, gold) is not None for pair, gold in zip(pairs, golds, strict=True)]
    return f"{sum(wrong) / len(wrong):.3f}", f"{sum(right) / len(right):.3f}"


def lines(sets: list[str], most: int) -> Iterator[str]:
    """The table as Markdown."""
    rewards = RewardSet([CorrectReward(), SemanticReward(weight=0.2)])
    encoder = load_encoder(SemanticReward().encoder)
    pairs = pairs_of(sets, most)
    yield "| pairs of | pairs | correct + semantic | plain similarity | contradiction found | falsely |"
    yield "|---|---|---|---|---|---|"
    encode = lambda texts: encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)  # noqa: E731
    for row in rank(rewards, pairs, encode):
        found, falsely = contradicted(pairs[row.family])
        yield f"| {row.family} | {row.pairs:,} | {row.accuracy} | {row.plain} | {found} | {falsely} |"
        for pair in misranked(rewards, pairs[row.family])[:5]:
            print(f"{row.family}: gold {pair.example.gold!r}: {pair.right!r} <= {pair.wrong!r}", file=sys.stderr)


def main() -> None:
    """Print the table; misranked pairs go to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="PRESET=FILE")
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    for line in lines(options.sets, options.pairs):
        print(line)


if __name__ == "__main__":
    main()
