"""The one way to ask for scores: each completion once, within its time, checked; and the shape that TRL calls."""

import asyncio
import inspect
import pickle
import threading
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar, Literal

import pytest

from medgrpo.answer import parse, render_completion
from medgrpo.errors import RewardError
from medgrpo.rewards import CorrectReward, FormatReward, Reward
from medgrpo.rewards.deadline import CallFailed, within
from medgrpo.rewards.scoring import RewardSet, Scorer, score
from medgrpo.rewards.trl import AsyncTrlReward, TrlReward, for_trl, read_rollout
from medgrpo.types import Example, Rollout

CHOICE = Example(
    id="potassium",
    kind="choice",
    question="Serum potassium is 6.1 mmol/L. Which is it?",
    gold="B",
    options={"A": "hypokalaemia", "B": "hyperkalaemia"},
)
NUMBER = Example(id="number", kind="numeric", question="How much?", gold="14", tolerance=0.5, unit="mmol/L")
REASONED = "6.1 is above 5.3, so it is high."


def rollout(completion: str, example: Example = CHOICE, tokens: int = 0) -> Rollout:
    return Rollout(example=example, completion=completion, parsed=parse(completion), tokens=tokens)


class OddReward(Reward):
    """Returns whatever it is told to, as a user's own reward might."""

    kind: Literal["odd"] = "odd"
    returns: Any = None

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        if isinstance(self.returns, BaseException):
            raise self.returns
        return self.returns  # type: ignore[no-any-return]


class Counting(Reward):
    """The completion's length in thousandths; notes each batch that it is asked about."""

    kind: Literal["counting"] = "counting"
    asked: ClassVar[list[list[str]]] = []

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        self.asked.append([rollout.completion for rollout in rollouts])
        return [len(rollout.completion) / 1000 for rollout in rollouts]


class Unsteady(Counting):
    """A reward that says its scores depend on the batch."""

    is_cached: ClassVar[bool] = False


class Signed(OddReward):
    lowest: ClassVar[float] = -1.0


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    Counting.asked.clear()


THREE = [rollout("a"), rollout("b", CHOICE.model_copy(update={"id": "second"})), rollout("c", NUMBER)]


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (ZeroDivisionError("by zero"), "raised ZeroDivisionError: by zero"),
        (KeyError("answer"), "raised KeyError"),
        (None, "returned a NoneType for 3 completions"),
        (0.5, "returned a float for 3 completions"),
        ("high", "returned a str for 3 completions"),
        ([0.0, None, 0.0], "gave None to example 'second'"),
        ([0.0, "0.5", 0.0], "gave '0.5' to example 'second'"),
        ([0.0, 10**400, 0.0], "to example 'second'"),
        (TimeoutError("the judge's server"), "raised TimeoutError: the judge's server"),
        (SystemExit(0), "raised SystemExit"),
        ([0.0, "high", 0.0], "gave 'high' to example 'second'"),
        ([], "returned 0 scores for 3 completions"),
        ([0.0, 0.0], "returned 2 scores for 3 completions"),
        ([0.0] * 4, "returned 4 scores for 3 completions"),
        ([0.0, float("nan"), 0.0], "gave nan to example 'second'"),
        ([0.0, 0.0, float("inf")], "gave inf to example 'number'"),
        ([float("-inf"), 0.0, 0.0], "gave -inf to example 'potassium'"),
        ([0.0, 1.000001, 0.0], "gave 1.000001 to example 'second'"),
        ([-0.1, 0.0, 0.0], "gave -0.1 to example 'potassium'"),
    ],
)
def test_what_is_no_score_stops_with_the_rewards_name(returns: Any, said: str) -> None:
    with pytest.raises(RewardError) as caught:
        score(OddReward(returns=returns), THREE)
    assert "reward 'odd'" in str(caught.value)
    assert said in str(caught.value)
    if isinstance(returns, BaseException):
        assert caught.value.__cause__ is returns
        assert "Mend it, or take it out" in str(caught.value)


def test_a_reward_has_the_range_that_it_names() -> None:
    assert score(Signed(returns=[-1.0, 0.0, 1.0]), THREE) == [-1.0, 0.0, 1.0]
    with pytest.raises(RewardError, match=r"not a number in \[-1, 1\]"):
        score(Signed(returns=[-1.1, 0.0, 1.0]), THREE)


def test_scores_come_back_as_floats_in_order() -> None:
    values = score(OddReward(returns=[0, True, 0.25]), THREE)
    assert values == [0.0, 1.0, 0.25]
    assert all(type(value) is float for value in values)


def test_each_distinct_completion_is_asked_about_once() -> None:
    scorer = Scorer(Counting())
    first = scorer.score([rollout("aa"), rollout("b"), rollout("aa")])
    assert (first.values, first.hits) == ([0.002, 0.001, 0.002], 1)
    second = scorer.score([rollout("b"), rollout("cccc")])
    assert (second.values, second.hits) == ([0.001, 0.004], 1)
    assert Counting.asked == [["aa", "b"], ["cccc"]]


@pytest.mark.parametrize(
    "other",
    [
        rollout("aa", CHOICE.model_copy(update={"gold": "A"})),
        rollout("aa", CHOICE.model_copy(update={"question": "Is it?"})),
        rollout("aa", tokens=7),
    ],
)
def test_the_same_words_about_another_gold_question_or_length_are_another_completion(other: Rollout) -> None:
    scored = Scorer(Counting()).score([rollout("aa"), other])
    assert scored.hits == 0
    assert Counting.asked == [["aa", "aa"]]


def test_a_reward_that_depends_on_its_batch_is_asked_about_all_of_it() -> None:
    scorer = Scorer(Unsteady())
    for _ in range(2):
        assert scorer.score([rollout("aa"), rollout("aa")])[::2] == ([0.002, 0.002], 0)
    assert Counting.asked == [["aa", "aa"]] * 2


def test_no_more_scores_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgrpo.rewards.scoring.KNOWN", 2)
    scorer = Scorer(Counting())
    batch = [rollout(text) for text in ("a", "bb", "ccc")]
    assert scorer.score(batch).values == [0.001, 0.002, 0.003]
    assert scorer.score(batch[1:]).hits == 2
    assert scorer.score(batch[:1]).hits == 0, "the oldest was forgotten"


def test_a_failure_leaves_nothing_behind_in_the_cache() -> None:
    scorer = Scorer(OddReward(returns=[0.5, 2.0]))
    with pytest.raises(RewardError):
        scorer.score([rollout("a"), rollout("b")])
    with pytest.raises(RewardError, match="returned 2 scores for 1"):
        scorer.score([rollout("a")])


class Stuck(Reward):
    """Waits for a signal that never comes."""

    kind: Literal["stuck"] = "stuck"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        threading.Event().wait()
        return []


class Waiting(Reward):
    """Asks another service."""

    kind: str = "waiting"
    together: ClassVar[threading.Barrier] = threading.Barrier(2)
    hangs: bool = False
    blocks: bool = False

    @property
    def is_async(self) -> bool:
        return True

    async def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.blocks:
            threading.Event().wait()
        await asyncio.sleep(0)
        return [0.5] * len(rollouts)


class Broken(Waiting):
    async def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        raise RuntimeError("no connection")


@pytest.mark.parametrize(
    "reward",
    [Stuck(timeout_s=0.05), Waiting(timeout_s=0.05, hangs=True), Waiting(timeout_s=0.05, blocks=True)],
    ids=["stuck", "awaits", "blocks in an async def"],
)
def test_a_reward_that_is_slower_than_its_time_stops_the_run(reward: Reward) -> None:
    with pytest.raises(RewardError) as caught:
        Scorer(reward).score([rollout("a"), rollout("b")])
    assert f"reward '{reward.kind}' took longer than its 0.05 s for 2 completions" in str(caught.value)
    assert "timeout_s" in str(caught.value)


def test_after_a_stuck_reward_others_are_still_asked() -> None:
    with pytest.raises(RewardError):
        score(Stuck(timeout_s=0.05), [rollout("a")])
    assert score(Counting(), [rollout("a")]) == [0.001]


def test_what_a_timed_call_returns_and_raises_comes_back() -> None:
    assert within(10, lambda: 7) == 7
    with pytest.raises(CallFailed) as failed:
        within(10, lambda: {}["a"])
    assert isinstance(failed.value.__cause__, KeyError)


def test_half_a_surrogate_pair_is_scored_like_any_text() -> None:
    assert Scorer(Counting()).score([rollout("\ud800"), rollout("\ud801")]).hits == 0


def test_calls_one_after_another_share_a_thread() -> None:
    assert within(10, threading.get_ident) == within(10, threading.get_ident) != threading.get_ident()


def test_an_async_reward_can_be_asked_without_a_loop() -> None:
    assert score(Waiting(), [rollout("a"), rollout("b")]) == [0.5, 0.5]


class Meets(Waiting):
    """Comes back only when both have been asked."""

    async def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        self.together.wait(timeout=20)
        return [1.0] * len(rollouts)


def trl_call(reward: TrlReward, texts: Sequence[str], told: dict[str, float]) -> Any:
    return reward(
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1] * (place + 1) for place in range(len(texts))],
        example=[CHOICE.model_dump_json()] * len(texts),
        log_metric=told.__setitem__,
        prompts=[[{"role": "user", "content": "?"}]] * len(texts),
        trainer_state=object(),
        log_extra=None,
    )


def test_async_rewards_wait_at_the_same_time() -> None:
    rewards = [for_trl(Meets(kind="one", timeout_s=20)), for_trl(Meets(kind="two", timeout_s=20))]
    told: dict[str, float] = {}

    async def both() -> list[list[float]]:
        calls: list[Awaitable[list[float]]] = [trl_call(reward, ["a", "b"], told) for reward in rewards]
        return await asyncio.gather(*calls)

    assert asyncio.run(both()) == [[1.0, 1.0], [1.0, 1.0]]
    assert set(told) == {f"rewards/{name}/{figure}" for name in ("one", "two") for figure in ("seconds", "cache_hits")}


def test_an_async_reward_that_is_slow_or_raises_stops_with_its_name() -> None:
    with pytest.raises(RewardError, match=r"reward 'waiting' took longer than its 0\.05 s"):
        asyncio.run(trl_call(for_trl(Waiting(timeout_s=0.05, hangs=True)), ["a"], {}))
    with pytest.raises(RewardError, match="reward 'waiting' raised RuntimeError"):
        asyncio.run(trl_call(for_trl(Broken()), ["a"], {}))


# --- several rewards together


def test_terms_are_weighted_and_named_and_add_up() -> None:
    scorers = RewardSet([CorrectReward(weight=2.0), FormatReward(weight=0.5)])
    rollouts = [rollout(render_completion(REASONED, answer)) for answer in ("B", "A")] + [rollout("")]
    assert scorers.terms(rollouts) == [
        {"correct": 2.0, "format": 0.5},
        {"correct": 0.0, "format": 0.5},
        {"correct": 0.0, "format": 0.0},
    ]
    assert scorers.totals(rollouts) == [2.5, 0.5, 0.0]


def test_a_set_of_rewards_stops_where_one_fails() -> None:
    with pytest.raises(RewardError, match="'odd'"):
        RewardSet([CorrectReward(), OddReward(returns=[0.5])]).totals(THREE)


# --- the shape that TRL calls


def test_trl_reward_takes_chats_and_columns_and_tells_its_figures() -> None:
    told: dict[str, float] = {}
    texts = [render_completion(REASONED, answer) for answer in ("B", "A")]
    values = trl_call(for_trl(CorrectReward()), texts, told)
    assert values == [1.0, 0.0]
    assert all(type(value) is float for value in values)
    assert told["rewards/correct/seconds"] > 0
    assert told["rewards/correct/cache_hits"] == 0


def test_trl_reward_tells_which_share_was_known() -> None:
    told: dict[str, float] = {}
    reward = for_trl(CorrectReward())
    trl_call(reward, [render_completion(REASONED, "B"), "x", "y", "z"], told)
    trl_call(reward, [render_completion(REASONED, "B"), "x", "y", "new"], told)
    assert told["rewards/correct/cache_hits"] == 0.75


def test_trl_reward_is_named_after_its_reward_and_no_coroutine() -> None:
    adapter = for_trl(FormatReward())
    assert adapter.__name__ == "format"
    # TRL awaits what looks like a coroutine function, and loads what is a string as a reward model.
    assert callable(adapter) and not inspect.iscoroutinefunction(adapter.__call__)
    assert pickle.loads(pickle.dumps(adapter)).__name__ == "format"


def test_trl_recognises_an_async_reward() -> None:
    from trl.trainer.utils import is_async_callable

    assert isinstance(for_trl(Waiting()), AsyncTrlReward)
    assert is_async_callable(for_trl(Waiting()))
    assert not is_async_callable(for_trl(CorrectReward()))


def test_trl_reward_never_turns_a_failure_into_a_score() -> None:
    with pytest.raises(RewardError, match="reward 'odd' raised ZeroDivisionError"):
        trl_call(for_trl(OddReward(returns=ZeroDivisionError())), [""], {})
    with pytest.raises(ValueError, match="zip"):
        for_trl(CorrectReward())([[{"content": ""}]], [[1], [2]], [CHOICE.model_dump_json()], {}.__setitem__)


def test_a_rollout_is_read_with_its_answer_and_length() -> None:
    read = read_rollout(NUMBER.model_dump_json(), render_completion(REASONED, "14"), 12)
    assert (read.example, read.answer, read.tokens) == (NUMBER, "14", 12)
    assert read_rollout(NUMBER.model_dump_json(), render_completion(REASONED, "14"), 12) is read, "parsed once"
