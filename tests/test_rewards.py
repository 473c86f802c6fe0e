"""Each reward on a table of completions, the one way to ask for scores, and the adapter to TRL."""

import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medgrpo.answer import parse, render_completion, render_gold
from medgrpo.config import Config
from medgrpo.data.clinical import generate
from medgrpo.errors import RewardError
from medgrpo.rewards import AnyReward, CorrectReward, FluencyReward, FormatReward, Reward, SemanticReward
from medgrpo.rewards.fluency import MAX_TOKENS, mean_nll
from medgrpo.rewards.scoring import TrlReward, bound, read_rollout, score, total
from medgrpo.types import BaseRef, Example, Rollout

CHOICE = Example(
    id="potassium",
    kind="choice",
    question="Serum potassium is 6.1 mmol/L. Which is it?",
    gold="B",
    options={"A": "hypokalaemia", "B": "hyperkalaemia", "C": "a broken leg"},
)
TEXT = Example(id="text", kind="text", question="What is it?", gold="high blood pressure in the arteries")
NUMBER = Example(id="number", kind="numeric", question="How much?", gold="14", tolerance=0.5, unit="mmol/L")
R = "<reasoning>6.1 is high</reasoning>"


def rollout(completion: str, example: Example = CHOICE) -> Rollout:
    return Rollout(example=example, completion=completion, parsed=parse(completion))


def scores(reward: Reward, completions: Sequence[str], example: Example = CHOICE) -> list[float]:
    return score(reward, [rollout(completion, example) for completion in completions])


MIXED = [
    rollout(render_completion("6.1 is above 5.3, so it is high.", "B")),
    rollout(render_completion("It is low.", "A")),
    rollout(render_completion("No idea.", "hyper kalaemia")),
    rollout(render_completion("x", "arterial hypertension"), TEXT),
    rollout(render_completion("14 of them", "14 mmol/L"), NUMBER),
    rollout(""),
    rollout("<answer>B</answer>"),
    rollout("<reasoning></reasoning><answer></answer>" * 3),
]


@pytest.fixture(scope="module")
def rewards(base: BaseRef) -> dict[str, Reward]:
    """Every reward of the union, ready for the tiny base."""
    chosen = (CorrectReward(), FormatReward(), SemanticReward(), FluencyReward(fluent=2.0, gibberish=500.0))
    return {reward.kind: reward for reward in bound(chosen, base)}


KINDS = ("correct", "format", "semantic", "fluency")


def test_every_reward_of_the_union_is_tested_here(rewards: dict[str, Reward]) -> None:
    schema = TypeAdapter(AnyReward).json_schema()
    assert set(schema["discriminator"]["mapping"]) == set(rewards) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_lie_between_none_and_full_marks(kind: str, rewards: dict[str, Reward]) -> None:
    values = score(rewards[kind], MIXED)
    assert len(values) == len(MIXED)
    assert all(0.0 <= value <= 1.0 for value in values)
    assert len(set(values)) > 1, "a reward that is a constant teaches nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_its_own_row_only(kind: str, rewards: dict[str, Reward]) -> None:
    reward = rewards[kind]
    together = score(reward, MIXED)
    backwards = score(reward, MIXED[::-1])[::-1]
    alone = [score(reward, [one])[0] for one in MIXED]
    doubled = score(reward, MIXED * 2)
    assert backwards == pytest.approx(together, abs=1e-5)
    assert alone == pytest.approx(together, abs=1e-5)
    assert doubled == pytest.approx(together * 2, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_has_no_scores(kind: str, rewards: dict[str, Reward]) -> None:
    assert score(rewards[kind], []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_completion_earns_nothing(kind: str, rewards: dict[str, Reward]) -> None:
    for example in (CHOICE, TEXT, NUMBER):
        assert scores(rewards[kind], ["", " \n"], example) == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_gold_earns_what_the_reward_promises(kind: str, rewards: dict[str, Reward]) -> None:
    golds = [rollout(render_gold(example), example) for example in (CHOICE, TEXT, NUMBER, *generate(40, seed=2))]
    for value, gold in zip(score(rewards[kind], golds), golds, strict=True):
        assert value >= rewards[kind].full_marks(gold) - 1e-9
    assert rewards[kind].full_marks(golds[0]) == (0.0 if kind == "fluency" else 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_survives_pickling_before_and_after_use(kind: str, rewards: dict[str, Reward]) -> None:
    fresh = pickle.loads(pickle.dumps(rewards[kind]))
    expected = score(rewards[kind], MIXED)
    used = pickle.loads(pickle.dumps(rewards[kind]))
    assert fresh == used == rewards[kind]
    assert score(used, MIXED) == score(fresh, MIXED) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_can_not_be_changed(kind: str, rewards: dict[str, Reward]) -> None:
    with pytest.raises(ValidationError):
        rewards[kind].weight = 2.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "correct", "weight": 0}, "weight"),
        ({"kind": "correct", "weight": -1}, "weight"),
        ({"kind": "correct", "wieght": 1}, "wieght"),
        ({"kind": "format", "partial": 1.0}, "partial"),
        ({"kind": "format", "partial": -0.1}, "partial"),
        ({"kind": "semantic", "ceiling": 1.0}, "ceiling"),
        ({"kind": "semantic", "ceiling": 0}, "ceiling"),
        ({"kind": "fluency", "fluent": 1.0}, "fluent"),
        ({"kind": "fluency", "fluent": 50, "gibberish": 50}, "fluent must be below gibberish"),
        ({"kind": "applause"}, "applause"),
        ({}, "kind"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        TypeAdapter(AnyReward).validate_python(settings)


# --- correct


@pytest.mark.parametrize(
    ("completion", "example", "expected"),
    [
        (R + "<answer>B</answer>", CHOICE, 1.0),
        (R + "<answer>(B) hyperkalaemia</answer>", CHOICE, 1.0),
        ("<answer>B</answer>", CHOICE, 1.0),  # a fault elsewhere is the format reward's to judge
        ("Well. " + R + "<answer>B</answer>", CHOICE, 1.0),
        (R + "<answer>A</answer>", CHOICE, 0.0),
        (R + "<answer></answer>", CHOICE, 0.0),
        (R + "B", CHOICE, 0.0),
        ("B", CHOICE, 0.0),
        ("<reasoning>B</reasoning>", CHOICE, 0.0),
        (R + "<answer>B</answer><answer>A</answer>", CHOICE, 0.0),
        (R + "<answer>A or B</answer>", CHOICE, 0.0),
        (R + "<answer>14.5</answer>", NUMBER, 1.0),
        (R + "<answer>4</answer>", NUMBER, 0.0),
        (R + "<answer>High blood pressure in the arteries.</answer>", TEXT, 1.0),
        (R + "<answer>blood pressure</answer>", TEXT, 0.0),
    ],
)
def test_correct(completion: str, example: Example, expected: float) -> None:
    assert scores(CorrectReward(), [completion], example) == [expected]


# --- format


@pytest.mark.parametrize(
    ("completion", "share"),
    [
        ("<reasoning>r</reasoning><answer>a</answer>", None),  # strict: full marks, whatever `partial` is
        ("\n<reasoning>r</reasoning>\n\n<answer>a</answer> ", None),
        ("so <reasoning>r</reasoning><answer>a</answer>", 1.0),
        ("<reasoning>r</reasoning><answer></answer>", 1.0),
        ("<reasoning>r</reasoning><answer>a", 0.75),
        ("<reasoning>r</reasoning>a", 0.5),
        ("<reasoning>r", 0.25),
        ("<answer>a</answer>", 0.0),
        ("<answer>a</answer><reasoning>r</reasoning>", 0.5),
        ("<reasoning>r<answer>a</answer></reasoning>", 0.5),
        ("<reasoning>r</reasoning><answer>a</answer><answer>b</answer>", 0.5),
        ("<reasoning></reasoning><answer></answer>" * 2, 0.0),
        ("<Reasoning>r</Reasoning><Answer>a</Answer>", 0.0),
        ("a", 0.0),
    ],
)
@pytest.mark.parametrize("partial", [0.0, 0.5, 0.9])
def test_format(completion: str, share: float | None, partial: float) -> None:
    expected = 1.0 if share is None else partial * share
    assert scores(FormatReward(partial=partial), [completion]) == [pytest.approx(expected)]


@given(st.lists(st.sampled_from(["<reasoning>", "</reasoning>", "<answer>", "</answer>", "x", " "]), max_size=8))
def test_only_a_strict_completion_gets_full_marks_for_format(pieces: list[str]) -> None:
    completion = "".join(pieces)
    (value,) = scores(FormatReward(), [completion])
    assert (value == 1.0) == parse(completion).is_strict
    assert value == 1.0 or value <= 0.5


# --- semantic


def answered(*answers: str) -> list[str]:
    return [render_completion("r", answer) for answer in answers]


def test_semantic_orders_answers_by_meaning() -> None:
    right, near, far = scores(
        SemanticReward(), answered(TEXT.gold, "arterial hypertension", "the capital of France"), TEXT
    )
    assert right == 1.0
    assert 0.8 >= near > far + 0.2
    assert far < 0.25


def test_semantic_reads_the_option_text_behind_a_right_letter() -> None:
    right, opposite, other, text = scores(SemanticReward(), answered("B", "hypokalaemia", "banana", "hyperkalaemia"))
    assert right == text == 1.0
    assert 0.8 >= opposite > other


@pytest.mark.parametrize("ceiling", [0.1, 0.8])
def test_semantic_pays_a_wrong_answer_no_more_than_the_ceiling(ceiling: float) -> None:
    # Nearly the gold's own words, so its cosine is close to 1.
    (wrong,) = scores(SemanticReward(ceiling=ceiling), answered("the high blood pressure in the arteries"), TEXT)
    assert 0.9 * ceiling < wrong <= ceiling


def test_semantic_pays_nothing_without_an_answer_block() -> None:
    without = [TEXT.gold, f"<reasoning>{TEXT.gold}</reasoning>", f"<answer>{TEXT.gold}", "<answer></answer>"]
    without += [f"<answer>{TEXT.gold}</answer><answer>{TEXT.gold}</answer>"]
    assert scores(SemanticReward(), without, TEXT) == [0.0] * len(without)


# --- fluency


def test_fluency_prefers_language_that_the_scorer_knows(base: BaseRef) -> None:
    (reward,) = bound([FluencyReward(fluent=2.0, gibberish=2000.0)], base)
    taught = generate(1, 0, ("blood-count",))[0].reasoning
    fluent, shuffled, noise = scores(
        reward, [render_completion(text, "B") for text in (taught, taught[::-1], "qZ#x}~vk@@|^w%Jq")]
    )
    assert fluent > shuffled + 0.05
    assert fluent > noise + 0.05


def test_fluency_is_log_perplexity_in_its_band(base: BaseRef) -> None:
    text = "It is above the range, so the answer is high."
    nll = mean_nll(base.folder, text)
    completion = render_completion(text, "B")
    e = 2.718281828459045
    inside = FluencyReward(scorer=base.folder, fluent=e ** (nll - 1), gibberish=e ** (nll + 3))
    above = FluencyReward(scorer=base.folder, fluent=e ** (nll + 1), gibberish=e ** (nll + 2))
    below = FluencyReward(scorer=base.folder, fluent=e ** (nll - 1), gibberish=e ** (nll - 0.5))
    assert scores(inside, [completion]) == [pytest.approx(0.75)]
    assert scores(above, [completion]) == [1.0]
    assert scores(below, [completion]) == [0.0]


def test_mean_nll_is_the_mean_over_the_reasoning_tokens(base: BaseRef) -> None:
    import torch

    from medgrpo.policy import load_base

    policy = load_base(base.folder)
    text = "Serum sodium is low."
    ids = [policy.tokenizer.bos_token_id, *policy.tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        logprobs = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    byhand = [-float(logprobs[place, ids[place + 1]]) for place in range(len(ids) - 1)]
    assert mean_nll(base.folder, text) == pytest.approx(sum(byhand) / len(byhand), abs=1e-4)


def test_fluency_never_reads_the_gold_or_the_answer(base: BaseRef) -> None:
    (reward,) = bound([FluencyReward(fluent=2.0, gibberish=2000.0)], base)
    same = [rollout(render_completion("Sodium is low.", answer)) for answer in ("A", "B", "zzz")]
    same.append(rollout(render_completion("Sodium is low.", "A"), TEXT))
    assert len(set(score(reward, same))) == 1


def test_fluency_reads_a_long_reasoning_up_to_its_limit(base: BaseRef) -> None:
    # A letter that the byte-level BPE never merges here is one token, whatever follows it.
    long = "Ω" * (2 * MAX_TOKENS)
    assert mean_nll(base.folder, long) == mean_nll(base.folder, long + "and more")
    assert mean_nll(base.folder, "Ω" * 4) != mean_nll(base.folder, "Ω" * 4 + "and more")


# --- scoring


class OddReward(Reward):
    """Returns whatever it is told to, as a user's own reward might."""

    kind: Literal["odd"] = "odd"
    returns: Any = None

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        if isinstance(self.returns, Exception):
            raise self.returns
        return self.returns  # type: ignore[no-any-return]


THREE = [rollout("a"), rollout("b", TEXT), rollout("c", NUMBER)]


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (ZeroDivisionError("by zero"), "raised ZeroDivisionError: by zero"),
        (KeyError("answer"), "raised KeyError"),
        (None, "raised TypeError"),
        ([0.0, None, 0.0], "raised TypeError"),
        ([0.0, "high", 0.0], "raised ValueError"),
        ([], "returned 0 scores for 3 completions"),
        ([0.0, 0.0], "returned 2 scores for 3 completions"),
        ([0.0] * 4, "returned 4 scores for 3 completions"),
        ([0.0, float("nan"), 0.0], "gave nan to example 'text'"),
        ([0.0, 0.0, float("inf")], "gave inf to example 'number'"),
        ([float("-inf"), 0.0, 0.0], "gave -inf to example 'potassium'"),
        ([0.0, 1.000001, 0.0], "gave 1.000001 to example 'text'"),
        ([-0.1, 0.0, 0.0], "gave -0.1 to example 'potassium'"),
    ],
)
def test_what_is_no_score_stops_with_the_rewards_name(returns: Any, said: str) -> None:
    with pytest.raises(RewardError) as caught:
        score(OddReward(returns=returns), THREE)
    assert "reward 'odd'" in str(caught.value)
    assert said in str(caught.value)
    if isinstance(returns, Exception):
        assert caught.value.__cause__ is returns


def test_scores_come_back_as_floats_in_order() -> None:
    values = score(OddReward(returns=[0, True, 0.25]), THREE)
    assert values == [0.0, 1.0, 0.25]
    assert all(type(value) is float for value in values)


def test_total_is_the_weighted_sum() -> None:
    rewards = [OddReward(weight=2.0, returns=[0.0, 0.5, 1.0]), OddReward(weight=0.5, returns=[1.0, 1.0, 0.0])]
    assert total(rewards, THREE) == pytest.approx([0.5, 1.5, 2.0])


def test_total_stops_where_one_reward_fails() -> None:
    with pytest.raises(RewardError, match="'odd'"):
        total([CorrectReward(), OddReward(returns=[0.5])], THREE)


def test_trl_reward_takes_chats_and_columns() -> None:
    reward = TrlReward(CorrectReward())
    texts = [R + "<answer>B</answer>", R + "<answer>A</answer>", R + "<answer>14</answer>"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = [example.model_dump_json() for example in (CHOICE, CHOICE, NUMBER)]
    values = reward(
        completions=completions,
        example=columns,
        prompts=[[{"role": "user", "content": "?"}]] * 3,
        completion_ids=[[1], [2], [3]],
        trainer_state=object(),
    )
    assert values == [1.0, 0.0, 1.0]
    assert all(type(value) is float for value in values)


@pytest.mark.parametrize("kind", KINDS)
def test_trl_reward_is_named_after_its_kind(kind: str, rewards: dict[str, Reward]) -> None:
    adapter = TrlReward(rewards[kind])
    assert adapter.__name__ == kind
    # TRL awaits what looks like a coroutine function, and loads what is a string as a reward model.
    assert callable(adapter) and not inspect.iscoroutinefunction(adapter.__call__)
    copy = pickle.loads(pickle.dumps(adapter))
    assert (copy.__name__, copy.reward) == (kind, rewards[kind])


def test_trl_reward_never_turns_a_failure_into_a_score() -> None:
    turn = [{"role": "assistant", "content": ""}]
    with pytest.raises(RewardError, match="reward 'odd' raised ZeroDivisionError"):
        TrlReward(OddReward(returns=ZeroDivisionError()))(completions=[turn], example=[CHOICE.model_dump_json()])
    with pytest.raises(ValueError, match="zip"):
        TrlReward(CorrectReward())(completions=[turn, turn], example=[CHOICE.model_dump_json()])


def test_a_rollout_is_read_with_its_parsed_answer() -> None:
    read = read_rollout(NUMBER.model_dump_json(), render_completion("r", "14"))
    assert (read.example, read.parsed.answer) == (NUMBER, "14")


def test_bound_gives_the_base_to_a_fluency_reward_without_a_scorer() -> None:
    base = BaseRef(name="b", folder="/models/b", digest="d")
    named = FluencyReward(scorer="/models/other", weight=0.3)
    rewards = (CorrectReward(), FluencyReward(weight=0.2, fluent=3.0), named)
    ready = bound(rewards, base)
    assert ready == (CorrectReward(), FluencyReward(weight=0.2, fluent=3.0, scorer="/models/b"), named)
    assert rewards[1].scorer == "", "the config keeps what the user wrote, or its key would name a folder"


def test_a_configs_rewards_come_back_from_json(config: Config, tmp_path: Path) -> None:
    stored = tmp_path / "config.json"
    stored.write_text(config.model_dump_json())
    assert Config.model_validate_json(stored.read_text()).rewards == config.rewards


@pytest.mark.parametrize("completion", ["<reasoning>12 is below 30, so it is low.</reasoning>", "12 is below 30.", ""])
def test_fluency_pays_nothing_where_nothing_is_answered(base: BaseRef, completion: str) -> None:
    (reward,) = bound([FluencyReward()], base)
    example = Example(id="e", kind="text", question="q?", gold="low")
    answered = render_completion("12 is below 30, so it is low.", "low")
    rollouts = [Rollout(example=example, completion=text, parsed=parse(text)) for text in (completion, answered)]
    assert score(reward, rollouts)[0] == 0 < score(reward, rollouts)[1]
