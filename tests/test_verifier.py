"""The verifier reward, on small random classifiers with the tiny base's tokenizer."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import ValidationError

from medgrpo.answer import parse, render_completion, render_question
from medgrpo.errors import BaseModelError, ConfigError
from medgrpo.rewards.reward import Context
from medgrpo.rewards.verifier import DEFAULT_TEMPLATE, VerifierReward, fill, load_verifier
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Parsed, Rollout

CHOICE = Example(
    id="c", kind="choice", question="Potassium is 6.1. Which?", gold="B", options={"A": "low", "B": "high"}
)
NUMBER = Example(id="n", kind="numeric", question="How much?", gold="14", tolerance=0.5, unit="mmol/L")
TEXT = Example(id="t", kind="text", question="What is it?", gold="high blood pressure")
TEMPLATE = "Key {gold}. Answer {answer}. Asked {question}"


def rollout(answer: str, example: Example = CHOICE, reasoning: str = "6.1 is high.") -> Rollout:
    """A strict completion with this answer, whatever the grammar says of so odd a one."""
    parsed = Parsed(reasoning=reasoning, answer=answer)
    return Rollout(example=example, completion=render_completion(reasoning, answer), parsed=parsed)


def write_verifier(base: BaseRef, folder: Path, architecture: str, labels: int) -> str:
    """A random classifier whose logits are wide apart, with the tiny base's tokenizer."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForSequenceClassification,
    )

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": labels}
    shape |= {"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 128, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if architecture == "bert":
            model = BertForSequenceClassification(BertConfig(**shape, hidden_dropout_prob=0.5))
        else:
            model = LlamaForSequenceClassification(LlamaConfig(**shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def verifiers(base: BaseRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name → folder."""
    folder = tmp_path_factory.mktemp("verifiers")
    return {
        f"{architecture}-{labels}": write_verifier(base, folder / f"{architecture}-{labels}", architecture, labels)
        for architecture in ("llama", "bert")
        for labels in (1, 2, 3)
    }


@pytest.fixture
def context(base: BaseRef, tmp_path: Path) -> Context:
    return Context(base=base, examples=[CHOICE], max_completion_tokens=64, settings=Settings(home=tmp_path))


# --- the text


@pytest.mark.parametrize(
    ("template", "example", "answer", "expected"),
    [
        ("{question}|{answer}|{gold}", CHOICE, "B", "Potassium is 6.1. Which?\nA. low\nB. high|B|B. high"),
        ("{gold}|{answer}", NUMBER, "14", "14 mmol/L|14"),
        ("{gold}|{answer}", TEXT, "hypertension", "high blood pressure|hypertension"),
        ("{completion}", TEXT, "x", "<reasoning>6.1 is high.</reasoning>\n<answer>x</answer>"),
        # what was filled in is never filled in again, and other braces are only text
        ("{answer}", TEXT, "{gold} {question} {0} {answer", "{gold} {question} {0} {answer"),
        ("{ gold } {x} {} {{gold}} %s", TEXT, "x", "{ gold } {x} {} {high blood pressure} %s"),
        (r"{answer}", TEXT, r"\1 \g<0> \\", r"\1 \g<0> \\"),
        ("no field", TEXT, "x", "no field"),
    ],
)
def test_the_template_is_filled(template: str, example: Example, answer: str, expected: str) -> None:
    assert fill(template, rollout(answer, example)) == expected


def test_the_default_template_names_key_answer_and_question() -> None:
    text = fill(DEFAULT_TEMPLATE, rollout("A"))
    assert "Answer key: B. high\n" in text
    assert "Student's answer: A\n" in text
    assert text.endswith(render_question(CHOICE)), "what is cut is the question's end"


# --- the score


@pytest.mark.parametrize("name", ["llama-1", "llama-2", "llama-3", "bert-1", "bert-2", "bert-3"])
def test_the_score_is_the_probability_of_the_positive_label(verifiers: dict[str, str], name: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(verifiers[name]).eval()
    tokenizer = AutoTokenizer.from_pretrained(verifiers[name])
    labels = int(name[-1])
    for positive in range(labels):
        reward = VerifierReward(scorer=verifiers[name], template=TEMPLATE, positive=positive)
        rows = [rollout(answer) for answer in ("A", "B", "high")]
        for row, value in zip(rows, reward.score(rows), strict=True):
            ids = torch.tensor([tokenizer(fill(TEMPLATE, row))["input_ids"]])
            with torch.no_grad():
                logits = model(ids).logits[0].tolist()
            powers = [2.718281828459045**logit for logit in logits]
            expected = powers[0] / (1 + powers[0]) if labels == 1 else powers[positive] / sum(powers)
            assert value == pytest.approx(expected, abs=1e-5)
    assert len(set(reward.score([rollout(answer) for answer in ("A", "B", "high")]))) == 3


def test_a_threshold_makes_it_one_or_nothing(verifiers: dict[str, str]) -> None:
    plain = VerifierReward(scorer=verifiers["llama-2"], template=TEMPLATE)
    rows = [rollout(answer) for answer in ("A", "B", "low", "high", "neither of them")]
    probabilities = plain.score(rows)
    middle = sorted(probabilities)[2]
    cut = plain.model_copy(update={"threshold": middle}).score(rows)
    assert cut == [float(value >= middle) for value in probabilities]
    assert sum(cut) == 3


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "B",
        "<reasoning>r</reasoning>",
        "<reasoning>r</reasoning><answer></answer>",
        "<answer>B</answer>",
        "So <reasoning>r</reasoning><answer>B</answer>",
        "<reasoning>r</reasoning><answer>B</answer><answer>A</answer>",
    ],
)
def test_a_completion_outside_the_grammar_earns_nothing_and_asks_no_verifier(completion: str) -> None:
    row = Rollout(example=CHOICE, completion=completion, parsed=parse(completion))
    assert VerifierReward(scorer="/nowhere").score([row]) == [0.0]


def test_the_verifier_is_loaded_once_and_asked_in_evaluation_mode(verifiers: dict[str, str]) -> None:
    load_verifier.cache_clear()
    reward = VerifierReward(scorer=verifiers["bert-2"], template=TEMPLATE)
    first = reward.score([rollout("A"), rollout("B")])
    assert reward.score([rollout("A"), rollout("B")]) == first, "no dropout"
    assert load_verifier.cache_info().misses == 1


@limits(max_examples=20)
@given(answers=st.lists(st.text(max_size=40), min_size=1, max_size=4))
@pytest.mark.parametrize("name", ["llama-2", "bert-1"])
def test_a_score_depends_on_its_own_row_only(verifiers: dict[str, str], name: str, answers: list[str]) -> None:
    reward = VerifierReward(scorer=verifiers[name], template=TEMPLATE)
    rows = [rollout(answer) for answer in ["B", *answers]]
    together = reward.score(rows)
    assert all(0.0 <= value <= 1.0 for value in together)
    assert reward.score(rows[::-1]) == together[::-1]
    assert [reward.score([row])[0] for row in rows] == together
    assert reward.score([]) == []


@pytest.mark.parametrize("piece", ["<answer", "Ω̈", "a", "{gold}", "\x00\u0130🙂"])
def test_a_long_text_is_cut_to_what_the_verifier_takes(verifiers: dict[str, str], piece: str) -> None:
    for name in ("llama-2", "bert-2"):
        reward = VerifierReward(scorer=verifiers[name], template=TEMPLATE)
        long = reward.score([rollout(piece * (100_000 // len(piece)))])
        assert 0.0 <= long[0] <= 1.0
        assert long == reward.score([rollout(piece * (100_000 // len(piece)) + " and more")])
    short = VerifierReward(scorer=verifiers["llama-2"], template=TEMPLATE, max_tokens=4)
    assert len(set(short.score([rollout("A"), rollout("B")]))) == 1, "four tokens: the key's beginning"


# --- what can't be


def test_prepared_checks_that_the_verifier_is_there(verifiers: dict[str, str], context: Context) -> None:
    for folder in verifiers.values():
        reward = VerifierReward(scorer=folder, weight=0.5)
        assert reward.prepared(context) == reward
    with pytest.raises(ConfigError, match=r"positive is 3, but .*llama-3 has 3 labels: give one of 0 to 2"):
        VerifierReward(scorer=verifiers["llama-3"], positive=3).prepared(context)
    VerifierReward(scorer=verifiers["llama-1"], positive=3).prepared(context)  # one logit has no choice of label


def test_a_verifier_that_isnt_there_says_what_to_do(tmp_path: Path, context: Context, base: BaseRef) -> None:
    for scorer in (str(tmp_path / "gone"), "./gone", "~/gone", "gone", "a/b/c"):
        with pytest.raises(BaseModelError, match=r"no verifier in .*name a folder"):
            VerifierReward(scorer=scorer).prepared(context)
    with pytest.raises(BaseModelError, match=r"(?s)can't be loaded.*name its folder"):
        VerifierReward(scorer="nobody/no-such-verifier", revision="0" * 40).prepared(context)
    with pytest.raises(BaseModelError, match="can't be loaded"):
        VerifierReward(scorer=str(tmp_path)).prepared(context)
    with pytest.raises(BaseModelError, match="is no sequence classifier: it has no weights for score"):
        VerifierReward(scorer=base.folder).prepared(context)


def test_pickled_weights_are_not_read(verifiers: dict[str, str], tmp_path: Path, context: Context) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(verifiers["llama-2"], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="can't be loaded"):
        VerifierReward(scorer=str(folder)).prepared(context)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scorer": ""},
        {"scorer": "a/b", "threshold": 1.5},
        {"scorer": "a/b", "positive": -1},
        {"scorer": "a/b", "revision": "main"},
        {"scorer": "a/b", "max_tokens": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VerifierReward(**fields)


def test_it_promises_gold_nothing_and_survives_pickling(verifiers: dict[str, str]) -> None:
    reward = VerifierReward(scorer=verifiers["llama-2"], template=TEMPLATE)
    before = reward.score([rollout("B")])
    copy = pickle.loads(pickle.dumps(reward))
    assert (copy, copy.score([rollout("B")])) == (reward, before)
    assert reward.full_marks(rollout("B")) == 0.0
