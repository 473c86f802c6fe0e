"""Split: which rows are trained on and which are held out, decided by seed and content, stratified by topic."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from medgrpo.types import Split

T = TypeVar("T")


def split_rows(
    rows: Sequence[T], topics: Sequence[Hashable], digests: Sequence[str], held_out: dict[Split, int], seed: int
) -> dict[Split, list[T]]:
    """Hold out rows of every topic in proportion; the others are for training.

    A row's place in the shuffled order depends on the seed and its own content only, so that rows which are added to a
    source hardly change what is held out.

    Args:
        topics: a row's stratum.
        digests: a row's content, as a digest.
        held_out: how many rows validation and test get; together fewer than there are.
        seed: decides the order.
    """
    ranks = [_rank(seed, digest) for digest in digests]
    order = sorted(range(len(rows)), key=lambda place: ranks[place])
    strata: dict[Hashable, list[int]] = defaultdict(list)
    for place in order:
        strata[topics[place]].append(place)
    chosen: dict[Split, set[int]] = {}
    for split in ("test", "validation"):  # test first: it must not depend on how many rows validation gets
        quotas = _quotas({topic: len(places) for topic, places in strata.items()}, held_out[split], seed)
        chosen[split] = {place for topic, quota in quotas.items() for place in strata[topic][:quota]}
        strata = {topic: places[quotas[topic] :] for topic, places in strata.items()}
    chosen["train"] = {place for places in strata.values() for place in places}
    return {split: [rows[place] for place in order if place in places] for split, places in chosen.items()}


def _rank(seed: int, content: object) -> bytes:
    return hashlib.sha256(f"{seed}:{content}".encode()).digest()


def _quotas(sizes: dict[Hashable, int], count: int, seed: int) -> dict[Hashable, int]:
    """Shares of `count` in proportion to the sizes, by largest remainder; the seed decides between equal ones."""
    total = sum(sizes.values())
    exact = {topic: count * size / total for topic, size in sizes.items()}
    quotas = {topic: int(share) for topic, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda topic: (quotas[topic] - exact[topic], _rank(seed, topic)))
    for topic in by_remainder[: count - sum(quotas.values())]:
        quotas[topic] += 1
    return quotas
