"""The rewards that count: length and repetition."""

import math
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medgrpo.answer import parse, render_completion
from medgrpo.errors import ConfigError
from medgrpo.rewards.length import LengthReward
from medgrpo.rewards.repetition import RepetitionReward
from medgrpo.rewards.reward import Context, Reward
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Parsed, Rollout

EXAMPLE = Example(id="e", kind="text", question="Which?", gold="low")
OUTSIDE = [
    "",
    "low",
    "<reasoning>12 is below 30.</reasoning>",
    "<reasoning></reasoning><answer>low</answer>",
    "<reasoning>r</reasoning><answer></answer>",
    "So <reasoning>r</reasoning><answer>low</answer>",
    "<reasoning>r</reasoning><answer>low</answer><answer>high</answer>",
]


def rollout(reasoning: str, tokens: int = 0) -> Rollout:
    """A strict completion with this reasoning, whatever the grammar says of so short or odd a one."""
    parsed = Parsed(reasoning=reasoning, answer="low")
    return Rollout(example=EXAMPLE, completion=render_completion(reasoning, "low"), parsed=parsed, tokens=tokens)


def outside(completion: str, tokens: int = 1) -> Rollout:
    return Rollout(example=EXAMPLE, completion=completion, parsed=parse(completion), tokens=tokens)


def context(tokens: int) -> Context:
    base = BaseRef(name="b", folder="/b", digest="d")
    return Context(base=base, examples=[], max_completion_tokens=tokens, settings=Settings(home=Path("/nowhere")))


# --- length


@pytest.mark.parametrize(
    ("limit", "soft", "tokens", "expected"),
    [
        # DAPO's own numbers: 16,384 expected tokens, 4,096 more as the soft cache
        (20480, 4096, 0, 1.0),
        (20480, 4096, 16384, 1.0),
        (20480, 4096, 16385, 1 - 1 / 4096),
        (20480, 4096, 18432, 0.5),
        (20480, 4096, 20480, 0.0),
        (20480, 4096, 20481, 0.0),
        (20480, 4096, 10**9, 0.0),
        (10, 1, 9, 1.0),
        (10, 1, 10, 0.0),
        (10, 10, 0, 1.0),
        (10, 10, 1, 0.9),
        (1, 1, 1, 0.0),
    ],
)
def test_length(limit: int, soft: int, tokens: int, expected: float) -> None:
    assert LengthReward(limit=limit, soft=soft).score([rollout("r", tokens)]) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("fields", "limit", "soft"),
    [
        ({}, 100, 20),
        ({"soft": 100}, 100, 100),
        ({"limit": 41}, 41, 9),
        ({"limit": 1}, 1, 1),
        ({"limit": 1000, "soft": 1}, 1000, 1),
    ],
)
def test_length_takes_its_limit_from_the_training(fields: dict[str, Any], limit: int, soft: int) -> None:
    reward = LengthReward(weight=0.3, **fields).prepared(context(100))
    assert (reward.limit, reward.soft, reward.weight) == (limit, soft, 0.3)
    assert reward.prepared(context(7)) == reward


def test_length_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not be above limit"):
        LengthReward(limit=5, soft=6)
    with pytest.raises(ConfigError, match=r"soft \(101\) is above grpo.max_completion_tokens \(100\)"):
        LengthReward(soft=101).prepared(context(100))
    for fields in ({"limit": 0}, {"soft": 0}, {"limit": -1}):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            LengthReward(**fields)
    for lacking in (LengthReward(), LengthReward(limit=9), LengthReward(soft=3)):
        with pytest.raises(ConfigError, match=r"call prepared\(\) first"):
            lacking.score([rollout("r")])


def test_length_promises_gold_what_it_would_pay() -> None:
    reward = LengthReward(limit=100, soft=20)
    assert [reward.full_marks(rollout("r", tokens)) for tokens in (0, 80, 81, 200)] == [1.0, 1.0, 0.0, 0.0]


@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.integers(0, 20_000), max_size=5))
def test_length_never_rises_with_the_tokens(limit: int, soft: int, tokens: list[int]) -> None:
    reward = LengthReward(limit=limit, soft=min(soft, limit))
    values = reward.score([rollout("r", count) for count in sorted(tokens)])
    assert values == sorted(values, reverse=True)
    assert all(0.0 <= value <= 1.0 for value in values)


# --- repetition


@pytest.mark.parametrize(
    ("n", "text", "expected"),
    [
        (3, "a b c d e", 1.0),
        (3, "a b c a b c", 3 / 4),  # abc bca cab abc
        (3, "A, b. C! a B c?", 3 / 4),
        (3, "the the the the", 1 / 2),
        (3, "the " * 102, 1 / 100),
        (3, "a b", 1.0),
        (3, "a a", 1.0),
        (3, "a b c", 1.0),
        (3, "?!", 1.0),
        (1, "a b a b", 1 / 2),
        (2, "a b a b", 2 / 3),
        (5, "a b a b", 1.0),
        (2, "h" * 100, 1 / 99),
    ],
)
def test_repetition(n: int, text: str, expected: float) -> None:
    assert RepetitionReward(n=n).score([rollout(text)]) == [pytest.approx(expected)]


def test_repetition_promises_gold_nothing() -> None:
    assert RepetitionReward().full_marks(rollout("a a a a")) == 0.0
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        RepetitionReward(n=0)


@pytest.mark.parametrize("piece", ["the ", "a", "a1 b2 ", "Ω̈", "\u0130 ", "<answer>", "\x00 🙂"])
def test_repetition_takes_linear_time(piece: str) -> None:
    start = time.perf_counter()
    (value,) = RepetitionReward().score([rollout(piece * (100_000 // len(piece)))])
    assert time.perf_counter() - start < 3  # under 0.1 s on an idle core
    assert 0.0 <= value <= 1.0


# --- both

REWARDS: list[Reward] = [LengthReward(limit=50, soft=10), RepetitionReward()]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.kind)
@pytest.mark.parametrize("completion", OUTSIDE)
def test_a_completion_outside_the_grammar_earns_nothing(reward: Reward, completion: str) -> None:
    assert reward.score([outside(completion)]) == [0.0]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.kind)
@given(rows=st.lists(st.tuples(st.text(max_size=80), st.integers(0, 60)), max_size=6))
def test_a_score_depends_on_its_own_row_only(reward: Reward, rows: list[tuple[str, int]]) -> None:
    rollouts = [rollout(text, tokens) for text, tokens in rows]
    together = list(reward.score(rollouts))  # type: ignore[arg-type]
    assert len(together) == len(rows)
    assert all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in together)
    assert list(reward.score(rollouts[::-1])) == together[::-1]  # type: ignore[arg-type]
    assert [next(iter(reward.score([one]))) for one in rollouts] == together  # type: ignore[arg-type]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: reward.kind)
def test_rewards_survive_pickling(reward: Reward) -> None:
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward
    assert copy.score([rollout("a b c a b c", 45)]) == reward.score([rollout("a b c a b c", 45)])
