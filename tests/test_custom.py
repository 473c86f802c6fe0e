"""A reward of the user's own: found by its import string, checked at the start, part of a training's key."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from medgrpo.answer import parse
from medgrpo.config import Config
from medgrpo.errors import ConfigError, RewardError
from medgrpo.keys import rewards_digest
from medgrpo.rewards import Context, CorrectReward, CustomReward
from medgrpo.rewards.scoring import score
from medgrpo.rewards.trl import AsyncTrlReward, TrlReward, for_trl
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Rollout

EXAMPLE = Example(id="e", kind="text", question="What?", gold="it")
MODULE = '''
import asyncio

def brevity(rollouts):
    """Full marks for five characters or fewer."""
    return [min(1.0, 5 / max(1, len(rollout.completion))) for rollout in rollouts]

async def judged(rollouts):
    await asyncio.sleep(0)
    return [0.25 for _ in rollouts]

def broken(rollouts):
    raise RuntimeError("no luck")

def two(rollouts, other):
    return []

a_number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of the user's, in the working folder."""
    import sys

    (tmp_path / "own_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    yield "own_rewards"
    sys.modules.pop("own_rewards", None)


def context(tmp_path: Path) -> Context:
    return Context(BaseRef(name="b", folder="", digest="d"), [EXAMPLE], 32, Settings(home=tmp_path))


def rollout(completion: str) -> Rollout:
    return Rollout(example=EXAMPLE, completion=completion, parsed=parse(completion))


def custom(module: str, name: str, **settings: object) -> CustomReward:
    return CustomReward.model_validate({"function": f"{module}:{name}", **settings})


def test_the_function_scores_all_completions_and_names_the_reward(module: str, tmp_path: Path) -> None:
    reward = custom(module, "brevity").prepared(context(tmp_path))
    assert reward.label == "brevity"
    assert score(reward, [rollout("12345"), rollout("1234567890")]) == [1.0, 0.5]
    assert score(pickle.loads(pickle.dumps(reward)), [rollout("1234567890")]) == [0.5]
    assert type(for_trl(reward)) is TrlReward


def test_an_async_function_is_awaited(module: str) -> None:
    reward = custom(module, "judged")
    assert score(reward, [rollout("a"), rollout("b")]) == [0.25, 0.25]
    assert isinstance(for_trl(reward), AsyncTrlReward)


def test_a_function_that_raises_stops_with_its_name(module: str) -> None:
    with pytest.raises(RewardError, match="reward 'broken' raised RuntimeError: no luck"):
        score(custom(module, "broken"), [rollout("a")])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nowhere_at_all:brevity", "can't be imported from .*No module named 'nowhere_at_all'"),
        ("own_rewards:missing", "can't be imported.*missing"),
        ("own_rewards:a_number", "is a int, not a function"),
        ("own_rewards:two", "must take one argument"),
    ],
)
def test_what_can_not_be_used_is_told_at_the_start(module: str, tmp_path: Path, function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CustomReward(function=function).prepared(context(tmp_path))


@pytest.mark.parametrize("function", ["", "brevity", "a/b.py:f", "own_rewards:", ":f", "os:system('x')", "a b:c"])
def test_what_is_no_import_string_is_no_config(function: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        CustomReward(function=function)


def test_another_code_of_the_function_is_another_training(module: str, tmp_path: Path) -> None:
    config = Config(name="a", rewards=(CorrectReward(), custom(module, "brevity")))
    before = rewards_digest(config)
    assert rewards_digest(config) == before
    (tmp_path / "own_rewards.py").write_text(MODULE + "\n# another line\n")
    assert rewards_digest(config) != before


def test_how_long_a_reward_may_take_is_not_part_of_a_training() -> None:
    one, other = (Config(name="a", rewards=(CorrectReward(timeout_s=limit),)) for limit in (1, 2))
    assert rewards_digest(one) == rewards_digest(other)
    assert rewards_digest(Config(name="a", rewards=(CorrectReward(weight=2),))) != rewards_digest(one)


def test_several_functions_may_be_used_but_no_name_twice(module: str) -> None:
    Config(name="a", rewards=(custom(module, "brevity"), custom(module, "judged")))
    with pytest.raises(ValidationError, match="more than one is named brevity"):
        Config(name="a", rewards=(custom(module, "brevity"), custom(module, "brevity")))


@pytest.mark.parametrize("promises", [True, False])
def test_full_marks_are_promised_by_the_config(module: str, promises: bool) -> None:
    reward = custom(module, "brevity", promises_full_marks=promises)
    assert reward.full_marks(rollout("a")) == float(promises)
