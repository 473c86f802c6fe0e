"""The audit: the default rewards pass on real rows; what pays for nothing, for a cheat, or not for gold is refused."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from medgrpo.answer import is_correct, parse, render_completion, render_gold
from medgrpo.config import Config
from medgrpo.data.clinical import TOPICS, generate
from medgrpo.errors import AuditFailed, RewardError
from medgrpo.rewards import CorrectReward, FluencyReward, FormatReward, Reward, SemanticReward
from medgrpo.rewards.audit import AUDITED_ROWS, CHEATS, audit, audit_config
from medgrpo.rewards.scoring import bound
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Example, Kind, Rollout

ROWS = generate(2 * len(TOPICS), seed=5)


def test_the_default_rewards_pass_on_clinical_rows() -> None:
    report = audit(Config(name="default").rewards, ROWS)
    assert report.rows == len(ROWS)
    assert {row.family for row in report.families} == set(CHEATS)
    assert report.failures == ()
    assert all(0.0 <= row.mean <= row.highest for row in report.families)
    by_family = {row.family: row.highest for row in report.families}
    assert by_family["empty completion"] == 0.0
    assert by_family["gold without any block"] == 0.0
    assert by_family["empty blocks"] == pytest.approx(0.25)  # half of the format reward's weight of a half


def test_all_four_rewards_pass_together(base: BaseRef) -> None:
    chosen = [CorrectReward(), FormatReward(weight=0.5), SemanticReward(weight=0.2), FluencyReward(weight=0.1)]
    assert audit(bound(chosen, base), ROWS[:24]).failures == ()


def test_audit_config_reads_the_train_rows(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    report = audit_config(config, base, dataset, settings)
    assert report.rows == min(AUDITED_ROWS, dataset.rows["train"])
    assert report.failures == ()


class PaysSilence(Reward):
    """Marks for saying nothing, as a length penalty gives that is written as a bonus for short completions."""

    kind: Literal["pays-silence"] = "pays-silence"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [1.0 if r.parsed.is_strict else 0.1 if not r.completion else 0.0 for r in rollouts]


class PromisesNothing(Reward):
    """A reward that needn't give a gold answer anything, as a reward for style."""

    def full_marks(self, rollout: Rollout) -> float:
        return 0.0


class Length(PromisesNothing):
    """Marks for length alone: full marks at 400 characters."""

    kind: Literal["length"] = "length"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [min(1.0, len(r.completion) / 400) for r in rollouts]


class Mentions(Reward):
    """Marks for the gold's text anywhere in the completion: the substring match that pays for '4' in '14'."""

    kind: Literal["mentions"] = "mentions"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(is_correct(r.parsed.answer, r.example) or r.example.gold_text in r.completion) for r in rollouts]


class AnyAnswer(Reward):
    """Marks where any of several answers is right: a policy that lists all options wins."""

    kind: Literal["any-answer"] = "any-answer"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(any(is_correct(answer, r.example) for answer in self._answers(r.completion))) for r in rollouts]

    @staticmethod
    def _answers(completion: str) -> list[str]:
        return [part.partition("</answer>")[0] for part in completion.split("<answer>")[1:]]


class CountsTags(PromisesNothing):
    """A share for every tag found, however often."""

    kind: Literal["counts-tags"] = "counts-tags"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [min(1.0, r.completion.count("<answer>") / 8) for r in rollouts]


class Echo(PromisesNothing):
    """Marks for words of the question in the completion."""

    kind: Literal["echo"] = "echo"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(r.example.question in r.completion) for r in rollouts]


@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_marks_for_the_empty_completion_are_refused_at_any_weight(weight: float) -> None:
    with pytest.raises(AuditFailed) as refused:
        audit([CorrectReward(), FormatReward(weight=0.5), PaysSilence(weight=weight)], ROWS)
    assert "reward 'pays-silence'" in str(refused.value)
    assert "empty completion" in str(refused.value)
    assert f"'{ROWS[0].id}'" in str(refused.value)


@pytest.mark.parametrize(
    ("reward", "family"),
    [
        (Length(), "filler without an answer"),
        (Mentions(), "gold without any block"),
        (Mentions(), "gold in the reasoning only"),
        (AnyAnswer(), "gold and a second answer"),
        (CountsTags(), "repeated tags"),
        (Echo(), "question echoed"),
    ],
)
def test_a_reward_that_pays_a_cheat_is_refused(reward: Reward, family: str) -> None:
    with pytest.raises(AuditFailed) as refused:
        audit([CorrectReward(weight=0.1), FormatReward(weight=0.5), reward], ROWS)
    said = str(refused.value)
    assert f"'{family}'" in said
    assert f"reward '{reward.kind}'" in said
    assert any(f"example '{row.id}'" in said for row in ROWS)
    assert "'correct'" not in said and "'format'" not in said, "the reward that pays is named, not another"


def test_one_row_on_which_a_cheat_pays_is_enough_and_is_named() -> None:
    class PaysOneRow(Reward):
        kind: Literal["pays-one-row"] = "pays-one-row"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [float(r.parsed.is_strict or (r.example.id == ROWS[7].id and bool(r.completion))) for r in rollouts]

    with pytest.raises(AuditFailed, match=f"example '{ROWS[7].id}', most from reward 'pays-one-row'"):
        audit([PaysOneRow()], ROWS)


def test_a_cheat_that_earns_as_much_as_an_honest_wrong_answer_is_refused() -> None:
    # Without a reward for the format, wrong and empty earn the same: nothing to learn from, and no reason to be honest.
    with pytest.raises(AuditFailed, match=r"'empty completion' earns up to 0\.000"):
        audit([CorrectReward()], ROWS)


def test_the_same_reward_passes_once_its_weight_is_small() -> None:
    others = [CorrectReward(), FormatReward(weight=0.5)]
    with pytest.raises(AuditFailed, match="filler"):
        audit([*others, Length(weight=1.0)], ROWS)
    assert audit([*others, Length(weight=0.2)], ROWS).failures == ()


class WithholdsGold(Reward):
    """Full marks for every strict completion but the gold of one row."""

    kind: Literal["withholds"] = "withholds"
    example: str
    gives: float

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [
            (self.gives if r.example.id == self.example and is_correct(r.parsed.answer, r.example) else 1.0)
            * float(r.parsed.is_strict)
            for r in rollouts
        ]


@pytest.mark.parametrize("gives", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("place", [0, len(ROWS) - 1])
def test_marks_withheld_from_one_gold_answer_are_refused(gives: float, place: int) -> None:
    with pytest.raises(AuditFailed) as refused:
        audit([CorrectReward(), WithholdsGold(example=ROWS[place].id, gives=gives)], ROWS)
    said = str(refused.value)
    assert "reward 'withholds'" in said
    assert f"gives {gives:.3f} to the gold answer of example '{ROWS[place].id}'" in said
    assert repr(ROWS[place].gold) in said


def test_full_marks_are_what_the_reward_promises() -> None:
    class HalfMarks(WithholdsGold):
        kind: Literal["half-marks"] = "half-marks"  # type: ignore[assignment]

        def full_marks(self, rollout: Rollout) -> float:
            return 0.5

    rewards = [CorrectReward(), FormatReward(weight=0.5)]
    assert audit([*rewards, HalfMarks(example=ROWS[0].id, gives=0.5)], ROWS).failures == ()
    with pytest.raises(AuditFailed, match=r"'half-marks' gives 0\.400"):
        audit([*rewards, HalfMarks(example=ROWS[0].id, gives=0.4)], ROWS)


def test_a_row_whose_gold_breaks_the_grammar_is_named() -> None:
    tagged = ROWS[0].model_copy(update={"id": "tagged", "reasoning": "see <answer>A</answer>"})
    with pytest.raises(AuditFailed, match="to the gold answer of example 'tagged'"):
        audit(Config(name="default").rewards, [ROWS[0], tagged])


def test_a_reward_that_raises_stops_the_audit_as_it_stops_a_run() -> None:
    class Raises(Reward):
        kind: Literal["raises"] = "raises"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            raise OSError("no network")

    with pytest.raises(RewardError, match="reward 'raises' raised OSError: no network"):
        audit([Raises()], ROWS)


@pytest.mark.parametrize(
    ("kind", "gold", "more"),
    [
        ("numeric", "0", {}),
        ("numeric", "-1", {}),  # a base excess, for example
        ("numeric", "-10", {"tolerance": 1.0}),
        ("numeric", "-0.5", {"tolerance": 0.05}),
        ("numeric", "1234567.5", {"tolerance": 100.0}),
        ("numeric", "0.003", {"tolerance": 0.0005, "unit": "g"}),
        ("text", "none of these", {}),
        ("text", "something else", {}),
        ("choice", "A", {"options": {"A": "B", "B": "A"}}),  # blood groups
    ],
)
def test_an_honest_wrong_answer_is_found_for_any_gold(kind: Kind, gold: str, more: dict[str, object]) -> None:
    example = Example.model_validate({"id": "e", "kind": kind, "question": "Which one is it?", "gold": gold} | more)
    assert audit(Config(name="default").rewards, [example]).failures == ()


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_no_cheat_is_a_completion_in_the_grammar(cheat: Callable[[Example], str]) -> None:
    for example in ROWS:
        assert not parse(cheat(example)).is_strict
        assert cheat(example) != render_gold(example)


def test_cheats_differ_from_one_another() -> None:
    texts = {name: cheat(ROWS[0]) for name, cheat in CHEATS.items()}
    assert len(set(texts.values())) == len(texts)
    assert texts["empty blocks"] == render_completion("", "")
