"""The built-in questions `clinical`: computed from published formulas, ranges and scores, the same on every machine."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from types import MappingProxyType

from medgrpo.data.clinical import calculators, ranges, scores, terms
from medgrpo.data.clinical.topic import Topic
from medgrpo.errors import DataError
from medgrpo.types import Example

TOPICS: Mapping[str, Topic] = MappingProxyType(
    {
        topic.name: topic
        for table in (
            ranges.REFERENCE,
            ranges.CUTOFFS,
            terms.TERMS,
            calculators.BODY,
            calculators.BLOOD,
            calculators.ORGANS,
            scores.SCORES,
        )
        for topic in table
    }
)
"""Topic's name → its question writer."""


def generate(rows: int, seed: int, topics: Sequence[str] = ()) -> list[Example]:
    """Write `rows` questions, taking turns over the topics (all of them by default); no numbers are asked twice.

    Two topics may ask about one measurement, so repeats are left out over all topics: whatever the split, a question's
    numbers stand in one of its parts only. A topic's question of a given id depends on the seed alone.
    Raises DataError for an unknown topic and where the topics can't give that many questions.
    """
    chosen = _choose(topics)
    if rows < 0:
        raise DataError(f"clinical: rows is {rows}; ask for 0 or more")
    # seeding with text goes through SHA-512, so it is the same under every PYTHONHASHSEED
    owners: dict[tuple[str, ...], str] = {}
    writers = [_unclaimed(_questions(topic, Random(f"{seed}/{topic.name}")), owners) for topic in chosen]
    examples = list(islice(_in_turns(writers), rows))
    if len(examples) < rows:
        raise DataError(
            f"clinical: {rows} rows asked for, but the chosen topics ({', '.join(t.name for t in chosen)}) can give "
            f"{len(examples)} different questions; ask for fewer rows or more topics"
        )
    return examples


def _choose(names: Sequence[str]) -> list[Topic]:
    unknown = [name for name in names if name not in TOPICS]
    if unknown:
        raise DataError(f"clinical: unknown topic {', '.join(unknown)}; known topics: {', '.join(TOPICS)}")
    return [TOPICS[name] for name in dict.fromkeys(names or TOPICS)]


def _questions(topic: Topic, rng: Random) -> Iterator[Example]:
    """The topic's questions in rounds that ask for every class of answer once, until a class has no numbers left."""
    pools = topic.pools()
    for draw in range(len(pools) * min(len(p) for p in pools)):
        if draw % len(pools) == 0:
            rng.shuffle(pools)
        pool = pools[draw % len(pools)]
        place = rng.randrange(len(pool))
        pool[place], pool[-1] = pool[-1], pool[place]
        yield topic.write(f"clinical/{topic.name}/{draw:06d}", pool.pop(), rng)


def _in_turns(writers: Sequence[Iterator[Example]]) -> Iterator[Example]:
    """One question from each writer in turn; a writer that has ended is left out."""
    active = list(writers)
    while active:
        for writer in tuple(active):
            example = next(writer, None)
            if example is None:
                active.remove(writer)
            else:
                yield example


def _unclaimed(examples: Iterable[Example], owners: dict[tuple[str, ...], str]) -> Iterator[Example]:
    """Leave out examples that print the numbers of another topic's example; `owners` is shared by all topics."""
    for example in examples:
        numbers = tuple(re.findall(r"\d+(?:\.\d+)?", example.question))
        if not numbers or owners.setdefault(numbers, example.topic) == example.topic:
            yield example
