"""What holds for every reward, and the tables of the two that need no model: correct and format."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medgrpo.answer import parse, render_completion, render_gold, render_question
from medgrpo.config import Config
from medgrpo.data.clinical import generate
from medgrpo.judge import is_readable
from medgrpo.rewards import (
    PRESETS,
    AnyReward,
    Context,
    CorrectReward,
    FluencyReward,
    FormatReward,
    LengthReward,
    OriginalPerplexityReward,
    OriginalSimilarityReward,
    OriginalTagsReward,
    RepetitionReward,
    Reward,
    SemanticReward,
)
from medgrpo.rewards.scoring import prepared, score
from medgrpo.settings import Settings
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
EXAMPLES = (CHOICE, TEXT, NUMBER)
R = "<reasoning>6.1 is above 5.3, so it is high.</reasoning>"


def rollout(completion: str, example: Example = CHOICE) -> Rollout:
    tokens = len(completion.split())
    return Rollout(example=example, completion=completion, parsed=parse(completion), tokens=tokens)


def scores(reward: Reward, completions: Sequence[str], example: Example = CHOICE) -> list[float]:
    return score(reward, [rollout(completion, example) for completion in completions])


MIXED = [
    rollout(render_completion("6.1 is above 5.3, so it is high.", "B")),
    rollout(render_completion("The value is low here.", "A")),
    rollout(render_completion("Not much is known about it.", "hyper kalaemia")),
    rollout(render_completion("The arteries are what matters.", "arterial hypertension"), TEXT),
    rollout(render_completion("There are 14 of them in all.", "14 mmol/L"), NUMBER),
    rollout(render_completion("so it is so it is so it is so it is so it is", "14 mmol/L"), NUMBER),
    rollout(""),
    rollout("<answer>B</answer>"),
    rollout("<reasoning></reasoning><answer></answer>" * 3),
    rollout(render_completion("It is long because of all these words. " + "and more " * 20, "A")),
]

CHOSEN = (
    CorrectReward(),
    FormatReward(),
    SemanticReward(),
    FluencyReward(fluent=2.0, gibberish=500.0),
    LengthReward(limit=24, soft=12),
    RepetitionReward(),
    OriginalSimilarityReward(),
    OriginalTagsReward(),
)
KINDS = tuple(reward.kind for reward in CHOSEN)
ELSEWHERE = {"verifier": "test_verifier.py", "custom": "test_custom.py", "original-perplexity": "test_original.py"}
STYLE = ("fluency", "length", "repetition")
"""Rewards that can't promise a terse gold reasoning full marks, or needn't."""


@pytest.fixture(scope="module")
def rewards(base: BaseRef, settings: Settings) -> dict[str, Reward]:
    """Every reward whose scores stand alone, ready for the tiny base."""
    ready = prepared(CHOSEN, Context(base, generate(60, seed=4), 24, settings))
    return {reward.kind: reward for reward in ready}


def test_every_reward_of_the_union_is_tested_somewhere() -> None:
    mapping = TypeAdapter(AnyReward).json_schema()["discriminator"]["mapping"]
    assert set(mapping) == {*KINDS, *ELSEWHERE}
    assert all((Path(__file__).parent / file).is_file() for file in ELSEWHERE.values())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_lie_in_the_rewards_range_and_differ(kind: str, rewards: dict[str, Reward]) -> None:
    reward = rewards[kind]
    values = score(reward, MIXED)
    assert len(values) == len(MIXED)
    assert all(reward.lowest <= value <= reward.highest for value in values)
    assert len(set(values)) > 1, "a reward that is a constant teaches nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_its_own_row_only_to_the_bit(kind: str, rewards: dict[str, Reward]) -> None:
    reward = rewards[kind]
    together = score(reward, MIXED)
    assert score(reward, MIXED[::-1])[::-1] == together
    assert [score(reward, [one])[0] for one in MIXED] == together
    assert score(reward, MIXED * 2) == together * 2


PIECES = st.one_of(
    st.sampled_from(
        ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "B", "14 mmol/L", "not", "\x00", "\ud800"]
    ),
    st.text(max_size=40),
    st.integers(1, 12_000).map(lambda times: "<answer>" * times),
    st.integers(1, 100_000).map(lambda times: "1" * times),
    st.integers(1, 50_000).map(lambda times: "x " * times),
)


@pytest.mark.parametrize("kind", KINDS)
@given(pieces=st.lists(PIECES, max_size=6), example=st.sampled_from(EXAMPLES), strict=st.booleans())
@tried(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_text_makes_a_reward_raise_or_leave_its_range_or_change_its_mind(
    kind: str, rewards: dict[str, Reward], pieces: list[str], example: Example, strict: bool
) -> None:
    text = "".join(pieces)[:100_000]
    completion = render_completion("The value is high. " + text, text) if strict else text
    one = rollout(completion, example)
    reward = rewards[kind]
    (alone,) = reward.score([one])  # type: ignore[misc]
    among = reward.score([MIXED[0], one, MIXED[3]])
    assert reward.lowest <= alone <= reward.highest
    assert among[1] == alone  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_has_no_scores(kind: str, rewards: dict[str, Reward]) -> None:
    assert score(rewards[kind], []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_completion_earns_the_least(kind: str, rewards: dict[str, Reward]) -> None:
    for example in EXAMPLES:
        assert scores(rewards[kind], ["", " \n"], example) == [rewards[kind].lowest] * 2


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"original-similarity"}))  # a letter is unlike its text to it
def test_gold_earns_what_the_reward_promises(kind: str, rewards: dict[str, Reward]) -> None:
    golds = [rollout(render_gold(example), example) for example in (*EXAMPLES, *generate(40, seed=2))]
    for value, gold in zip(score(rewards[kind], golds), golds, strict=True):
        assert value >= rewards[kind].full_marks(gold) - 1e-6
    if kind not in STYLE:
        assert rewards[kind].full_marks(golds[0]) == 1.0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"original-similarity", "original-tags", "format"}))
def test_nothing_is_paid_outside_the_grammar(kind: str, rewards: dict[str, Reward]) -> None:
    broken = [f"So. {R}<answer>B</answer>", "<answer>B</answer>", f"{R}<answer>B</answer><answer>B</answer>", f"{R}B"]
    broken += ["<reasoning>:</reasoning><answer>B</answer>", f"<answer>B</answer>{R}"]
    broken += [f"{R}<answer>A or B</answer>", f"{R}<answer>not B</answer>"]  # in the grammar, but no answer in form
    assert scores(rewards[kind], broken) == [0.0] * len(broken)
    assert scores(rewards[kind], [f"{R}<answer>B</answer>"])[0] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_survives_pickling_before_and_after_use(kind: str, rewards: dict[str, Reward]) -> None:
    fresh = pickle.loads(pickle.dumps(rewards[kind]))
    expected = score(rewards[kind], MIXED)
    used = pickle.loads(pickle.dumps(rewards[kind]))
    assert fresh == used == rewards[kind]
    assert score(used, MIXED) == score(fresh, MIXED) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_can_not_be_changed(kind: str, rewards: dict[str, Reward]) -> None:
    with pytest.raises(ValidationError):
        rewards[kind].weight = 2.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "correct", "weight": 0}, "weight"),
        ({"kind": "correct", "weight": -1}, "weight"),
        ({"kind": "correct", "timeout_s": 0}, "timeout_s"),
        ({"kind": "correct", "wieght": 1}, "wieght"),
        ({"kind": "format", "partial": 1.0}, "partial"),
        ({"kind": "format", "partial": -0.1}, "partial"),
        ({"kind": "semantic", "ceiling": 1.0}, "ceiling"),
        ({"kind": "semantic", "ceiling": 0}, "ceiling"),
        ({"kind": "semantic", "architecture": "tri"}, "architecture"),
        ({"kind": "fluency", "fluent": 0.9}, "fluent"),
        ({"kind": "fluency", "fluent": 50, "gibberish": 50}, "fluent must be below gibberish"),
        ({"kind": "length", "limit": 10, "soft": 11}, "soft"),
        ({"kind": "repetition", "n": 0}, "n"),
        ({"kind": "verifier"}, "scorer"),
        ({"kind": "custom"}, "function"),
        ({"kind": "applause"}, "applause"),
        ({}, "kind"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        TypeAdapter(AnyReward).validate_python(settings)


def test_a_configs_rewards_come_back_from_json(config: Config, tmp_path: Path) -> None:
    stored = tmp_path / "config.json"
    stored.write_text(config.model_dump_json())
    assert Config.model_validate_json(stored.read_text()).rewards == config.rewards


# --- presets


@pytest.mark.parametrize("name", ["default", "corrected", "original"])
def test_a_preset_is_chosen_by_its_name(name: str) -> None:
    chosen = Config.model_validate({"name": "a", "rewards": name})
    assert chosen.rewards == PRESETS[name]
    assert Config.model_validate_json(chosen.model_dump_json()) == chosen


def test_without_rewards_the_default_preset_counts() -> None:
    assert Config(name="a").rewards == PRESETS["default"]
    assert {reward.kind for reward in PRESETS["default"]} == {"correct", "format", "semantic", "fluency"}


def test_the_corrected_preset_has_the_originals_weights() -> None:
    kinds = {"original-similarity": "semantic", "original-perplexity": "fluency", "original-tags": "format"}
    corrected = {reward.kind: reward.weight for reward in PRESETS["corrected"]}
    assert {kinds[reward.kind]: reward.weight for reward in PRESETS["original"]} == corrected


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="choose default, corrected, original"):
        Config.model_validate({"name": "a", "rewards": "best"})


# --- correct


@pytest.mark.parametrize(
    ("completion", "example", "expected"),
    [
        (R + "<answer>B</answer>", CHOICE, 1.0),
        (R + "<answer>(B) hyperkalaemia</answer>", CHOICE, 1.0),
        (R + "<answer>The answer is B.</answer>", CHOICE, 1.0),
        (R + "<answer>The answer is not B.</answer>", CHOICE, 0.0),
        ("<answer>B</answer>", CHOICE, 0.0),
        ("Well. " + R + "<answer>B</answer>", CHOICE, 0.0),
        ("<reasoning>Thought process:</reasoning><answer>B</answer>", CHOICE, 0.0),
        (R + "<answer>A</answer>", CHOICE, 0.0),
        (R + "<answer></answer>", CHOICE, 0.0),
        (R + "B", CHOICE, 0.0),
        ("B", CHOICE, 0.0),
        ("<reasoning>B</reasoning>", CHOICE, 0.0),
        (R + "<answer>B</answer><answer>A</answer>", CHOICE, 0.0),
        (R + "<answer>A or B</answer>", CHOICE, 0.0),
        (R + "<answer>14.5</answer>", NUMBER, 1.0),
        (R + "<answer>14000 µmol/L</answer>", NUMBER, 1.0),
        (R + "<answer>4</answer>", NUMBER, 0.0),
        (R + "<answer>High blood pressure in the arteries.</answer>", TEXT, 1.0),
        (R + "<answer>blood pressure</answer>", TEXT, 0.0),
    ],
)
def test_correct(completion: str, example: Example, expected: float) -> None:
    assert scores(CorrectReward(), [completion], example) == [expected]


# --- format

S = "<reasoning>so it is low</reasoning>"


@pytest.mark.parametrize(
    ("completion", "share"),
    [
        (S + "<answer>A</answer>", None),  # strict: full marks, whatever `partial` is
        (f"\n{S}\n\n<answer>hypokalaemia</answer> ", None),
        (S + "<answer>a banana</answer>", 1.0),  # none of the options
        (S + r"<answer>\boxed{A}</answer>", 1.0),
        (S + "<answer>A, B, C</answer>", 1.0),
        ("so " + S + "<answer>A</answer>", 1.0),
        ("<reasoning>low</reasoning><answer>A</answer>", 1.0),
        (S + "<answer></answer>", 1.0),
        (S + "<answer>A", 0.75),
        (S + "A", 0.5),
        ("<reasoning>so it is low", 0.25),
        ("<answer>A</answer>", 0.0),
        ("<answer>A</answer>" + S, 0.5),
        ("<reasoning>so it is low<answer>A</answer></reasoning>", 0.5),
        (S + "<answer>A</answer><answer>B</answer>", 0.5),
        ("<reasoning></reasoning><answer></answer>" * 2, 0.0),
        ("<Reasoning>so it is low</Reasoning><Answer>A</Answer>", 0.0),
        ("A", 0.0),
    ],
)
@pytest.mark.parametrize("partial", [0.0, 0.5, 0.9])
def test_format(completion: str, share: float | None, partial: float) -> None:
    expected = 1.0 if share is None else partial * share
    assert scores(FormatReward(partial=partial), [completion]) == [pytest.approx(expected)]


TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "so it is", "A", " "]


@given(st.lists(st.sampled_from(TAGS), max_size=8))
def test_only_a_strict_completion_in_form_gets_full_marks_for_format(pieces: list[str]) -> None:
    one = rollout("".join(pieces))
    (value,) = score(FormatReward(), [one])
    assert (value == 1.0) == (one.parsed.is_strict and is_readable(one.answer, CHOICE))
    assert value == 1.0 or value <= 0.5


def test_a_question_without_an_answer_is_worth_nothing_to_any_reward(rewards: dict[str, Reward]) -> None:
    for kind, reward in rewards.items():
        assert scores(reward, [render_question(CHOICE)]) == [reward.lowest], kind
    assert OriginalPerplexityReward.is_cached is False, "it scores the reference against its batch"
