"""The audit: the default rewards pass on real rows; what pays for nothing, for a cheat, or not for gold is refused."""

import importlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from medgrpo import tracking
from medgrpo.answer import parse
from medgrpo.audit.audit import AUDITED_ROWS, audit, audit_config, audit_for_run, audit_key, page_path
from medgrpo.audit.cheats import FAMILIES
from medgrpo.audit.honest import REASONING, make_row
from medgrpo.audit.page import describe_refusal
from medgrpo.audit.reasonings import MEMORISED, RANDOM_LETTERS, gibberish
from medgrpo.audit.report import AuditReport
from medgrpo.cli import main
from medgrpo.config import Config
from medgrpo.data import PresetSource
from medgrpo.data.clinical import TOPICS, generate
from medgrpo.data.store import read_split
from medgrpo.errors import AuditFailed, RewardError
from medgrpo.judge import is_correct, is_readable
from medgrpo.rewards import PRESETS, CorrectReward, FormatReward, LengthReward, Reward
from medgrpo.rewards.reward import Context
from medgrpo.rewards.scoring import prepared
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Example, Rollout, RunRef


def example(kind: str, gold: str, **more: Any) -> Example:
    fields = {"id": f"{kind}/{gold}", "kind": kind, "question": "Which one is it?", "gold": gold}
    return Example.model_validate(fields | more)


CLINICAL = generate(2 * len(TOPICS), seed=5)
SIDES = {"A": "left ventricle", "B": "aorta", "C": "no", "D": "10 mg"}
ROWS = [
    *CLINICAL[:12],
    example("text", "left ventricle"),
    example("text", "10 mg of morphine"),
    example("range", "3.5-5.0", unit="mmol/L", tolerance=0.1),
    example("date", "12/02/2000"),
    example("numeric", "105", unit="mg", reasoning="The dose is 1.5 mg for each of 70 kg."),
    example("choice", "A", options=SIDES),
]
AUDIT = importlib.import_module("medgrpo.audit.audit")
STRICT = [CorrectReward(), FormatReward(weight=0.5)]
SETS = {
    "medqa-4": "medqa/dev_4options.jsonl",
    "medmcqa": "medmcqa/dev_first2000.jsonl",
    "pubmedqa": "pubmedqa/pqal_train500.json",
    "mmlu-anatomy": "mmlu/anatomy_test.csv",
    "mmlu-clinical-knowledge": "mmlu/clinical_knowledge_test.csv",
    "medcalc": "medcalc/one_shot_55.csv",
    "medical-o1-verifiable-problem": "huatuo/demo_198.json",
    "medical-o1-reasoning-sft": "huatuo/demo_198.json",
}


def failed(report: AuditReport) -> dict[str, str]:
    """Family → the reward that pays it."""
    return {row.family: row.payer for row in report.failures}


def test_strict_rewards_pass_and_every_family_is_tried() -> None:
    report = audit(STRICT, ROWS)
    assert report.passed and not report.failures and not report.faults
    assert report.rows == len(ROWS)
    assert [row.family for row in report.families] == [family.name for family in FAMILIES]
    assert len(FAMILIES) > 20
    by_family = {row.family: row for row in report.families}
    assert by_family["empty completion"].earned == 0.0
    assert by_family["empty blocks"].terms == {"correct": 0.0, "format": 0.25}
    assert by_family["empty blocks"].honest_terms == {"correct": 0.0, "format": 0.5}
    assert by_family["empty blocks"].margin == pytest.approx(-0.25)
    assert by_family["dose off by ten"].margin == 0.0  # a wrong answer in the right form earns what an honest one does


@pytest.mark.parametrize("name", ["clinical", *SETS])
def test_the_default_rewards_pass_on_real_rows(
    name: str, base: BaseRef, settings: Settings, request: pytest.FixtureRequest
) -> None:
    if name == "clinical":
        rows = CLINICAL[:24]
    else:
        path = request.getfixturevalue("shared_data") / SETS[name]
        rows = list(PresetSource(name=name, path=str(path)).load(0))[:8]
    rewards = prepared(PRESETS["default"], Context(base, rows, 128, settings))
    report = audit(rewards, rows)
    assert report.passed, describe_refusal(report, Path("page"))


def test_the_original_rewards_are_refused_and_their_terms_named(base: BaseRef, settings: Settings) -> None:
    rows = CLINICAL[:4]
    report = audit(prepared(PRESETS["original"], Context(base, rows, 128, settings)), rows)
    assert not report.passed
    found = failed(report)
    assert "gold denied" in found
    assert "original-similarity" in found.values()
    said = describe_refusal(report, Path("page"))
    assert all(reward.label in said for reward in PRESETS["original"]), "the table has a column for each term"
    assert "Lower the weight of 'original-similarity'" in said


class Promises(Reward):
    """A test reward that promises gold answers nothing, as one for style does."""

    def full_marks(self, rollout: Rollout) -> float:
        return 0.0


class PaysFamily(Promises):
    """Marks for one family's completions and for nothing else."""

    kind: Literal["pays-family"] = "pays-family"
    family: str

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(r.completion in completions(self.family, r.example.id)) for r in rollouts]


@cache
def completions(family: str, row: str) -> set[str]:
    place = next(place for place, other in enumerate(ROWS) if other.id == row)
    made = make_row(ROWS[place], [*ROWS[place + 1 :], *ROWS[:place]])
    return {text for each in FAMILIES if each.name == family for text in each.build(made)}


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_a_reward_that_pays_a_family_is_refused_and_both_are_named(family: str) -> None:
    report = audit([*STRICT, PaysFamily(family=family)], ROWS)
    assert failed(report)[family] == "pays-family"
    row = next(row for row in report.failures if row.family == family)
    assert row.terms["pays-family"] == 1.0
    assert row.margin > 0
    said = describe_refusal(report, Path("page.html"))
    line = next(line for line in said.splitlines() if line.startswith(f"  {family} "))
    assert f" {row.rule} " in line and "1.000/0.000" in line and " pays-family " in line and row.example in line
    advice = next(line for line in said.splitlines() if line.startswith("Lower the weight of 'pays-family'"))
    assert f"'{family}'" in advice
    assert said.endswith("The whole report: page.html")


class Length(Promises):
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


class GoldLetterIn(Reward):
    """Marks where the gold's characters are somewhere in the answer block."""

    kind: Literal["gold-in"] = "gold-in"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(r.example.gold in (r.parsed.answer or "")) for r in rollouts]


class SameWords(Reward):
    """Marks for the share of the gold's words in the answer, as a similarity gives that doesn't see one of them."""

    kind: Literal["same-words"] = "same-words"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [1.0 if is_correct(r.answer, r.example) else self._share(r) for r in rollouts]

    @staticmethod
    def _share(rollout: Rollout) -> float:
        gold = set(rollout.example.gold_text.lower().split())
        return len(gold & set((rollout.answer or "").lower().split())) / len(gold)


class AnyAlphabet(Promises):
    """Marks for a right answer whose letters only look right."""

    kind: Literal["any-alphabet"] = "any-alphabet"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        latin = str.maketrans("АВСЕНКМОРТХасеіорхуОІƽ", "ABCEHKMOPTXaceiopxy015")
        return [float(is_correct((r.parsed.answer or "").translate(latin), r.example)) for r in rollouts]


class WordsOfReasoning(Promises):
    """Marks for the length of the reasoning."""

    kind: Literal["words"] = "words"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [min(1.0, len((r.reasoning or "").split()) / 100) for r in rollouts]


class Recites(Promises):
    """Marks for what is likely in itself, wherever it stands, as a bare perplexity gives."""

    kind: Literal["recites"] = "recites"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        texts = (*MEMORISED, *(row.reasoning for row in ROWS))
        return [float(any(len(text) > 20 and text in r.completion for text in texts)) for r in rollouts]


class Surprises(Promises):
    """Marks for reasonings in other words than the gold's, as a reward for variety gives."""

    kind: Literal["surprises"] = "surprises"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float((r.reasoning or r.example.reasoning) not in (r.example.reasoning, REASONING)) for r in rollouts]


class WordsOfQuestion(Promises):
    """Marks for an answer about the question: the share of the question's words in it."""

    kind: Literal["asked"] = "asked"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float((r.parsed.answer or "").startswith(r.example.question[:10])) for r in rollouts]


@pytest.mark.parametrize(
    ("reward", "families"),
    [
        (Length(), ["filler without an answer", "filler as the reasoning", "text after the answer"]),
        (Mentions(), ["gold without any block", "answer only", "gold denied", "JSON", "other tags", "tags left open"]),
        (AnyAnswer(), ["two answer blocks", "answer before the reasoning", "repeated tags"]),
        (GoldLetterIn(), ["all options listed", "letter of another text", "two answers in one block", "LaTeX box"]),
        (SameWords(), ["gold denied in free text", "left for right", "dose off by ten", "unit swapped"]),
        (SameWords(), ["two answers in free text", "gold denied", "hedge in free text", "list in free text"]),
        (Recites(weight=0.6), ["fluent hedge", "fluent without an answer", "fluent before two answers"]),
        (Surprises(), ["memorised reasoning", "gibberish reasoning"]),
        (WordsOfQuestion(), ["question as a choice", "question as the answer"]),
        (AnyAlphabet(), ["look-alike letters"]),
        (WordsOfReasoning(), ["prompt as the reasoning", "filler as the reasoning"]),
    ],
)
def test_a_careless_reward_is_refused_for_what_it_pays(reward: Reward, families: list[str]) -> None:
    report = audit([CorrectReward(weight=0.1), FormatReward(weight=0.5), reward], ROWS)
    found = failed(report)
    assert set(families) <= set(found)
    assert {found[family] for family in families} == {reward.label}, "the reward that pays is named, not another"


def test_one_row_on_which_a_cheat_pays_is_enough_and_is_named() -> None:
    class PaysOneRow(Promises):
        kind: Literal["pays-one-row"] = "pays-one-row"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [float(r.example.id == ROWS[7].id and r.completion.startswith("```")) for r in rollouts]

    report = audit([*STRICT, PaysOneRow()], ROWS)
    assert [(row.family, row.example, row.payer) for row in report.failures] == [
        ("Markdown fences", ROWS[7].id, "pays-one-row")
    ]


def test_a_tie_with_an_honest_answer_is_too_much_for_what_breaks_the_form() -> None:
    # Without a reward for the format, wrong and empty earn the same: nothing to learn from, and no reason to be honest.
    report = audit([CorrectReward()], ROWS)
    assert failed(report)["empty completion"] == ""
    assert all(row.rule == "below" for row in report.failures)
    assert "No term tells 'empty completion'" in describe_refusal(report, Path("page"))


def test_an_answer_is_compared_with_the_honest_one_that_gives_the_same() -> None:
    class Favours(Promises):
        kind: Literal["favours"] = "favours"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [float(r.answer == "B") for r in rollouts]

    options = {"A": "left", "B": "right", "C": "both"}
    report = audit([*STRICT, Favours(weight=0.1)], [example("choice", "A", options=options)])
    assert report.passed
    echoed = next(row for row in report.families if row.family == "prompt as the reasoning")
    assert echoed.honest_terms["favours"] == pytest.approx(0.1)


def test_the_lowest_of_the_honest_answers_is_the_bar() -> None:
    class FavoursOne(Promises):
        kind: Literal["favours-one"] = "favours-one"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [1.0 if r.answer == "B" else 0.6 if r.completion.startswith("{") else 0.0 for r in rollouts]

    row = example("choice", "A", options={"A": "left", "B": "right", "C": "both"})
    assert failed(audit([*STRICT, FavoursOne()], [row])) == {"JSON": "favours-one"}


def test_the_same_reward_passes_once_its_weight_is_small() -> None:
    assert "filler without an answer" in failed(audit([*STRICT, Length()], ROWS))
    assert "filler without an answer" not in failed(audit([*STRICT, Length(weight=0.2)], ROWS))


class PaysSilence(Reward):
    """Marks for saying nothing, as a length penalty gives that is written as a bonus for short completions."""

    kind: Literal["pays-silence"] = "pays-silence"

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [1.0 if r.parsed.is_strict else 0.1 if not r.completion else 0.0 for r in rollouts]


@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_marks_for_the_empty_completion_are_refused_at_any_weight(weight: float) -> None:
    report = audit([*STRICT, PaysSilence(weight=weight)], ROWS)
    assert not report.passed
    assert [row.label for row in report.faults] == ["pays-silence"]
    said = describe_refusal(report, Path("page"))
    assert f"reward 'pays-silence' gives 0.100 to the empty completion of example '{ROWS[0].id}', not 0.000" in said
    assert "a policy that says nothing must earn the least" in said


@pytest.mark.parametrize(("for_nothing", "passed"), [(-1.0, True), (-0.5, False), (0.0, False)])
def test_the_empty_completion_gets_the_least_that_a_reward_gives(for_nothing: float, passed: bool) -> None:
    class Penalty(Promises):
        kind: Literal["penalty"] = "penalty"
        lowest: ClassVar[float] = -1.0
        highest: ClassVar[float] = 0.0

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [0.0 if r.completion else for_nothing for r in rollouts]

    report = audit([*STRICT, Penalty(weight=0.1)], ROWS)
    assert report.passed is passed
    assert [row.label for row in report.faults] == ([] if passed else ["penalty"])


class WithholdsGold(Reward):
    """Full marks for every strict completion but the gold of one row."""

    kind: Literal["withholds"] = "withholds"
    example: str
    gives: float
    promised: float = 1.0

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [
            (self.gives if r.example.id == self.example and is_correct(r.parsed.answer, r.example) else 1.0)
            * float(is_readable(r.answer, r.example))
            for r in rollouts
        ]

    def full_marks(self, rollout: Rollout) -> float:
        return self.promised


@pytest.mark.parametrize("gives", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("place", [0, len(ROWS) - 1])
def test_marks_withheld_from_one_gold_answer_are_refused(gives: float, place: int) -> None:
    report = audit([*STRICT, WithholdsGold(example=ROWS[place].id, gives=gives)], ROWS)
    assert not report.passed
    said = describe_refusal(report, Path("page"))
    assert f"reward 'withholds' gives {gives:.3f} to the gold answer of example '{ROWS[place].id}', not 1.000" in said
    assert f"(1 such rows): check that its gold {ROWS[place].gold_text!r} is an answer to the question" in said


def test_full_marks_are_what_the_reward_promises() -> None:
    half = WithholdsGold(example=ROWS[0].id, gives=0.5, promised=0.5)
    assert audit([*STRICT, half], ROWS).passed
    assert not audit([*STRICT, half.model_copy(update={"gives": 0.4})], ROWS).passed


def test_a_row_whose_gold_breaks_the_grammar_is_named() -> None:
    tagged = ROWS[0].model_copy(update={"id": "tagged", "reasoning": "It is clear, see <answer>A</answer>"})
    report = audit(STRICT, [ROWS[0], tagged])
    assert {row.label: row.example for row in report.faults} == {"correct": "tagged", "format": "tagged"}


def test_a_reward_that_raises_stops_the_audit_as_it_stops_a_run() -> None:
    class Raises(Reward):
        kind: Literal["raises"] = "raises"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            raise OSError("no network")

    with pytest.raises(RewardError, match="reward 'raises' raised OSError: no network"):
        audit([Raises()], ROWS)


def test_lengths_are_counted_for_rewards_that_read_them() -> None:
    class Short(Promises):
        kind: Literal["short"] = "short"

        def score(self, rollouts: Sequence[Rollout]) -> list[float]:
            return [float(0 < r.tokens == len(r.completion)) for r in rollouts]

    report = audit([Short()], ROWS[:1], count_tokens=len)
    assert next(row for row in report.families if row.family == "answer only").earned == 1.0


@pytest.mark.parametrize(
    ("kind", "gold", "more"),
    [
        ("numeric", "0", {}),
        ("numeric", "-1", {}),  # a base excess, for example
        ("numeric", "-10", {"tolerance": 1.0}),
        ("numeric", "-0.5", {"tolerance": 0.05}),
        ("numeric", "1234567.5", {"tolerance": 100.0}),
        ("numeric", "0.003", {"tolerance": 0.0005, "unit": "g"}),
        ("numeric", "105", {"unit": "mg", "limits": (0.0, 1000.0)}),  # off by ten is right here
        ("range", "3.5-5.0", {"tolerance": 0.2, "unit": "mmol/L"}),
        ("range", "0-0", {}),
        ("date", "01/01/1900", {}),
        ("text", "none of these", {}),
        ("text", "vitamin C", {}),
        ("text", "not the left side", {}),
        ("text", "5 mg", {"aliases": ("5000 µg",)}),
        ("choice", "A", {"options": {"A": "B", "B": "A"}}),  # blood groups
        ("choice", "B", {"options": {"A": "yes", "B": "no", "C": "maybe"}}),
        ("choice", "A", {"options": {"A": "upper canine", "B": "lower canine"}}),  # the other side is an option
    ],
)
def test_cheats_are_told_from_right_answers_for_any_gold(kind: str, gold: str, more: dict[str, object]) -> None:
    report = audit(STRICT, [example(kind, gold, **more)])
    assert report.passed, describe_refusal(report, Path("page"))


def test_another_rows_reasoning_is_borrowed_where_there_is_one() -> None:
    bare = [example("text", gold) for gold in ("sepsis", "gout")]
    assert make_row(bare[0], bare[1:]).borrowed == REASONING
    assert make_row(CLINICAL[0], CLINICAL[:1]).borrowed == REASONING, "its own isn't borrowed"
    assert make_row(CLINICAL[0], [*bare, CLINICAL[1]]).borrowed == REASONING
    assert make_row(CLINICAL[0], CLINICAL[1:]).borrowed == CLINICAL[1].reasoning


def test_gibberish_is_the_same_each_time_and_nothing_but_words_out_of_order() -> None:
    row = make_row(CLINICAL[0], CLINICAL[1:])
    letters, shuffled, drawn = gibberish(row)
    assert [letters, shuffled, drawn] == gibberish(make_row(CLINICAL[0], CLINICAL[1:]))
    assert letters == RANDOM_LETTERS
    assert shuffled != row.reasoning and sorted(shuffled.split()) == sorted(row.reasoning.split())
    assert drawn not in row.example.question and set(drawn.split()) <= set(row.example.question.split())


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_a_family_keeps_to_its_rule(family: Any) -> None:
    tried = 0
    for place, row in enumerate(ROWS):
        made = make_row(row, [*ROWS[place + 1 :], *ROWS[:place]])
        assert all(is_readable(answer, row) and not is_correct(answer, row) for answer in made.wrong)
        for completion in family.build(made):
            tried += 1
            parsed = parse(completion)
            answer = parsed.answer if parsed.is_strict else None
            assert not is_correct(answer, row), "no cheat is a right answer in the right form"
            assert completion not in (made.right, *made.honest())
            assert family.rule != "below" or not is_readable(answer, row)
    assert tried


def test_patient_data_is_masked_before_it_is_shown() -> None:
    asked = example("text", "sepsis", question="Call Mrs. Jane Roe at (415) 555-0137. What does she have?")
    report = audit(
        STRICT, [asked.model_copy(update={"reasoning": "Jane Roe, (415) 555-0137, has a fever and chills."})]
    )
    shown = report.model_dump_json()
    assert "555-01" not in shown and "•" in shown


def test_an_audit_is_kept_and_found_again(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    report = audit_config(config, base, dataset, settings)
    assert report.passed, describe_refusal(report, Path("page"))
    assert report.rows == min(AUDITED_ROWS, dataset.rows["train"])
    assert report.ranking and all(row.plain is not None for row in report.ranking)
    page = page_path(config, base, dataset, settings)
    written = [path.stat().st_mtime_ns for path in (page, page.with_name("report.json"))]
    assert audit_config(config, base, dataset, settings) == report
    assert [path.stat().st_mtime_ns for path in (page, page.with_name("report.json"))] == written
    heavier = config.model_copy(update={"rewards": tuple(r.model_copy(update={"weight": 3.0}) for r in config.rewards)})
    assert page_path(heavier, base, dataset, settings) != page


def test_the_rewards_are_prepared_as_in_training_and_what_was_measured_is_told(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AUDIT, "AUDITED_ROWS", 2)
    asked = (*config.rewards, LengthReward())
    policy = config.policy.model_copy(update={"dtype": "float32"})
    chosen = config.model_copy(update={"rewards": asked, "policy": policy})
    report = audit_config(chosen, base, dataset, settings)
    assert report.rows == 2
    rows = read_split(dataset, "train", settings)
    limit = config.grpo.max_completion_tokens
    trained = prepared(asked, Context(base, rows, limit, settings, policy.dtype, policy.load_in_4bit))
    told = {row.label: row.measured for row in report.rewards}
    assert told["correct"] == told["format"] == {}, "nothing is measured for them"
    assert told["length"] == {"limit": limit, "soft": -(-limit // 5)}
    fluency = next(reward for reward in trained if reward.label == "fluency")
    assert {"fluent", "gibberish"} <= set(told["fluency"]), "what was measured, and no text"
    assert told["fluency"] == {name: getattr(fluency, name) for name in told["fluency"]}
    assert told["semantic"].keys() == {"unrelated"}


def test_an_audit_is_another_one_where_the_scorer_or_a_reward_is_another(
    config: Config, base: BaseRef, dataset: DatasetRef
) -> None:
    def key(**policy: Any) -> str:
        return audit_key(config.model_copy(update={"policy": config.policy.model_copy(update=policy)}), base, dataset)

    def patient(seconds: float) -> Config:
        return config.model_copy(update={"rewards": (CorrectReward(timeout_s=seconds),)})

    assert len({key(), key(dtype="bfloat16"), key(load_in_4bit=True)}) == 3
    assert audit_key(patient(1), base, dataset) == audit_key(patient(2), base, dataset), "a time limit pays nothing"
    assert audit_key(patient(1), base, dataset) != key()


@pytest.mark.parametrize("passed", [True, False])
def test_the_report_is_in_mlflow_whether_the_rewards_pass_or_not(
    passed: bool, config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    chosen = config if passed else config.model_copy(update={"rewards": (CorrectReward(),)})
    run = tracking.open_run(chosen, dataset, f"audit-{passed}", settings, {})
    if passed:
        assert audit_for_run(chosen, base, dataset, run, settings).passed
    else:
        with pytest.raises(AuditFailed) as refused:
            audit_for_run(chosen, base, dataset, run, settings)
        assert "empty completion" in str(refused.value)
        assert str(page_path(chosen, base, dataset, settings)) in str(refused.value)
    stored = {item.path for item in tracking.connect(settings).list_artifacts(run.run_id, "audit")}
    assert stored == {"audit/report.html", "audit/report.json"}


@pytest.mark.parametrize(("rewards", "code"), [("default", 0), ("original", 2)])
def test_the_command_prints_tables_and_exits_with_2_when_refused(
    rewards: str,
    code: int,
    config: Config,
    dataset: DatasetRef,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.json"
    fields = config.model_dump(mode="json") | ({"rewards": rewards} if code else {})
    path.write_text(json.dumps(fields), encoding="utf-8")
    monkeypatch.setenv("MEDGRPO_HOME", str(settings.home))
    monkeypatch.setattr(AUDIT, "AUDITED_ROWS", 3 if code else AUDITED_ROWS)
    monkeypatch.setattr("sys.argv", ["medgrpo", "audit", str(path)])
    # Both would outlive this test: handlers that hide medgrpo's messages from others, and one for SIGTERM.
    monkeypatch.setattr("medgrpo.progress.quiet", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as done:
        main()
    printed = capsys.readouterr()
    assert done.value.code == code, printed.err
    for words in ("Gold answers", "Cheats", "two answer blocks", "Right ranked above wrong", "page: "):
        assert words in printed.out
    assert ("REFUSED on 3 rows" in printed.out) == bool(code)
    assert ("medgrpo: the reward set is refused" in printed.err) == bool(code)


def test_a_refusal_is_told_even_where_mlflow_takes_nothing(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    chosen = config.model_copy(update={"rewards": (CorrectReward(),)})
    away = settings.model_copy(update={"tracking_uri": "sqlite:////proc/nowhere/mlflow.db"})
    with pytest.raises(AuditFailed, match="the reward set is refused"):
        audit_for_run(chosen, base, dataset, RunRef(run_id="r", key="k", experiment_id="0"), away)
