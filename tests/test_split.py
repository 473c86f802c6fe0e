"""Splits: right sizes, every topic in proportion, decided by seed and content alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.data.split import split_rows
from medgrpo.types import Split

HELD_OUT: dict[Split, int] = {"validation": 10, "test": 20}


def _split(
    topics: list[str], held_out: dict[Split, int] | None = None, seed: int = 0, skip: int = -1
) -> dict[Split, list[int]]:
    places = [place for place in range(len(topics)) if place != skip]
    return split_rows(
        places, [topics[place] for place in places], [f"row {place}" for place in places], held_out or HELD_OUT, seed
    )


@given(st.lists(st.sampled_from("abcde"), min_size=31, max_size=200), st.integers(0, 5))
def test_every_row_is_in_one_split_and_sizes_are_kept(topics: list[str], seed: int) -> None:
    splits = _split(topics, seed=seed)
    assert sorted(place for rows in splits.values() for place in rows) == list(range(len(topics)))
    assert (len(splits["validation"]), len(splits["test"])) == (10, 20)


@pytest.mark.parametrize(
    ("sizes", "test"),
    [
        ({"a": 100, "b": 50, "c": 50}, {"a": 10, "b": 5, "c": 5}),
        ({"a": 97, "b": 2, "c": 1}, {"a": 20}),  # 19.4, 0.4, 0.2: the remainder goes to a and b in that order of size
        ({"a": 60, "b": 40}, {"a": 12, "b": 8}),
    ],
)
def test_topics_are_held_out_in_proportion(sizes: dict[str, int], test: dict[str, int]) -> None:
    topics = [topic for topic, size in sizes.items() for _ in range(size)]
    found = Counter(topics[place] for place in _split(topics)["test"])
    assert all(abs(found[topic] - 20 * size / len(topics)) < 1 for topic, size in sizes.items())
    if sum(test.values()) == 20 and len(test) > 1:
        assert found == test


def test_the_seed_decides() -> None:
    topics = ["a"] * 100
    assert _split(topics, seed=1) == _split(topics, seed=1)
    assert _split(topics, seed=1)["test"] != _split(topics, seed=2)["test"]


def test_one_row_less_moves_at_most_one_row_into_a_held_out_split() -> None:
    topics = ["a", "b"] * 60
    whole = _split(topics)
    for gone in range(10):
        test = set(_split(topics, skip=gone)["test"])
        assert len(test - set(whole["test"])) <= 2


def test_the_seed_also_decides_where_every_topic_has_one_row() -> None:
    topics = [f"topic {number:03}" for number in range(100)]
    chosen = [_split(topics, seed=seed)["test"] for seed in (1, 2)]
    assert len(set(chosen[0]) & set(chosen[1])) < 15


def test_the_test_split_does_not_depend_on_how_much_validation_gets() -> None:
    topics = ["a", "b", "c"] * 30
    assert _split(topics)["test"] == _split(topics, {"validation": 30, "test": 20})["test"]
