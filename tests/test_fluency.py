"""The fluency reward: novelty by itself, the frozen scorer shared and loaded, the band, and what the product pays."""

import json
import logging
import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import ValidationError

from medgrpo.answer import parse, render_completion, render_question
from medgrpo.data import PresetSource
from medgrpo.data.clinical import generate
from medgrpo.errors import BaseModelError, ConfigError
from medgrpo.policy import Policy, load_base
from medgrpo.rewards import scorer
from medgrpo.rewards.fluency import MAX_TOKENS, MEASURED_TEXTS, OPEN, FluencyReward, _gold_texts
from medgrpo.rewards.novelty import LONGEST_WORD, novelty, runs_of, words_of
from medgrpo.rewards.reward import Context
from medgrpo.rewards.scorer import forget_scorers, frozen, mean_nll, share_scorer
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Parsed, Rollout

TAUGHT = ("blood-count", "blood-chemistry", "ion-disorder", "mean-arterial-pressure")
ROWS = generate(64, 1, TAUGHT)
CHOICE = Example(
    id="potassium",
    kind="choice",
    question="Serum potassium is 6.1 mmol/L in a man who was given spironolactone last week. Which disorder is it?",
    gold="B",
    options={"A": "hypokalaemia", "B": "hyperkalaemia", "C": "a broken leg", "D": "low sodium in the blood"},
)
OWN = "6.1 is above 5.3, so it is high."


def rollout(reasoning: str, example: Example = CHOICE, answer: str = "") -> Rollout:
    """A strict completion with this reasoning, whatever the grammar says of so short or odd a one, and the gold."""
    answer = answer or (example.gold if example.kind == "choice" else example.gold_text)
    parsed = Parsed(reasoning=reasoning, answer=answer)
    return Rollout(example=example, completion=render_completion(reasoning, answer), parsed=parsed)


def shuffled(text: str) -> str:
    words = text.split()
    Random(text).shuffle(words)
    return " ".join(words)


@pytest.fixture(autouse=True)
def no_scorer_left() -> Iterator[None]:
    """Every test starts and ends without a loaded scorer."""
    forget_scorers()
    yield
    forget_scorers()


@pytest.fixture
def context(base: BaseRef, tmp_path: Path) -> Context:
    return Context(base=base, examples=ROWS, max_completion_tokens=64, settings=Settings(home=tmp_path))


@pytest.fixture
def reward(context: Context) -> FluencyReward:
    return FluencyReward().prepared(context)


# --- novelty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OWN, 1.0),
        ("It is high.", 1.0),
        ("x", 1.0),
        ("Spironolactone keeps potassium, and 6.1 is above 5.3, so the answer is hyperkalaemia.", 1.0),
        ("", 0.0),
        ("?!? ...", 0.0),
        # loops: k times the same has a share of 1 / k, whatever the length
        ("I think. I think.", 1.0),
        ("I think. " * 3, 1 / 3),
        ("I think. " * 4, 0.0),
        ("I think. " * 500, 0.0),
        ("the the the", 1 / 3),
        ("the " * 4, 0.0),
        ("The, the; THE the", 0.0),
        ("low so high " * 3, 1 / 3),
        ("Let us think step by step. " * 40, 0.0),
        ("ha" * 100, 0.0),
        ("的" * 100, 0.0),
        # echoes
        (CHOICE.question, 0.0),
        (CHOICE.question.upper(), 0.0),
        (render_question(CHOICE), 0.0),
        (CHOICE.question[:50], 0.0),
        ("Let us think. " + CHOICE.question, 0.0),
        (CHOICE.question + " So it is high.", 0.0),
        # options, in any order
        ("B", 0.0),
        ("hyperkalaemia", 0.0),
        ("hypokalaemia, hyperkalaemia, a broken leg", 0.0),
        ("low sodium in the blood a broken leg", 0.0),
        ("A. hypokalaemia B. hyperkalaemia C. a broken leg", 0.0),
    ],
)
def test_novelty(text: str, expected: float) -> None:
    assert novelty(text, CHOICE) == pytest.approx(expected)


@pytest.mark.parametrize(("repeats", "expected"), [(1, 1.0), (2, 1.0), (3, 1 / 3), (4, 0.0)])
@pytest.mark.parametrize("length", [4, 10, 30])
def test_a_text_said_k_times_has_one_kth_of_new_runs(repeats: int, expected: float, length: int) -> None:
    text = " ".join(f"word{n}" for n in range(length))
    assert novelty(" ".join([text] * repeats), CHOICE) == pytest.approx(expected)


def test_half_an_echo_is_worth_part_of_it() -> None:
    own = " ".join(f"word{n}" for n in range(len(words_of(CHOICE.question)) // 2))
    assert 0.1 < novelty(f"{CHOICE.question} {own}", CHOICE) < 0.6


@given(st.text(max_size=300), st.text(max_size=100), st.lists(st.text(min_size=1, max_size=20), max_size=4))
def test_novelty_is_a_factor_of_any_text(text: str, question: str, options: list[str]) -> None:
    example = CHOICE.model_copy(update={"question": question, "options": dict(zip("ABCD", options, strict=False))})
    value = novelty(text, example)
    assert 0.0 <= value <= 1.0
    assert value == novelty(text, example) == novelty(text.upper().lower(), example) or text.casefold() != (
        text.upper().lower().casefold()
    )


@pytest.mark.parametrize(
    "piece", ["the ", "a", "hyperkalaemia ", "1 2 3 4 5 6 7 ", "Ω̈", "<answer>", "\u0130 ", "\x00\n"]
)
def test_novelty_of_a_hostile_text_takes_linear_time(piece: str) -> None:
    start = time.perf_counter()
    novelty(piece * (100_000 // len(piece)), CHOICE)
    assert time.perf_counter() - start < 3  # 0.1 s on an idle core


@pytest.mark.parametrize(("size", "runs"), [(1, ["a", "b", "c"]), (2, ["a b", "b c"]), (3, ["a b c"]), (4, [])])
def test_runs_are_all_of_that_size(size: int, runs: list[str]) -> None:
    assert [" ".join(run) for run in runs_of(["a", "b", "c"], size)] == runs


def test_only_a_long_word_is_read_by_letters() -> None:
    assert words_of("x" * LONGEST_WORD) == ["x" * LONGEST_WORD]
    assert words_of("x" * (LONGEST_WORD + 1)) == ["x"] * (LONGEST_WORD + 1)
    assert words_of("It's HIGH, 6.1!") == ["it", "s", "high", "6", "1"]


def test_worked_reasonings_of_the_built_in_questions_are_all_their_own() -> None:
    assert [novelty(example.reasoning, example) for example in generate(400, 0)] == [1.0] * 400


@pytest.mark.parametrize(
    ("name", "file", "at_least"),
    [
        ("medical-o1-reasoning-sft", "huatuo/demo_198.json", 1.0),
        ("medcalc", "medcalc/one_shot_55.csv", 1.0),
        ("medmcqa", "medmcqa/dev_first2000.jsonl", 0.96),  # the rest only name the answer, or repeat the question
        ("pubmedqa", "pubmedqa/pqal_train500.json", 0.98),
    ],
)
def test_worked_reasonings_of_public_sets_are_their_own(
    shared_data: Path, name: Any, file: str, at_least: float
) -> None:
    rows = [row for row in PresetSource(name=name, path=str(shared_data / file)).load(0) if row.reasoning]
    full = [novelty(row.reasoning, row) == 1.0 for row in rows]
    assert sum(full) / len(full) >= at_least


# --- the scorer


def lora(policy: Policy) -> Any:
    """A LoRA adapter whose two matrices are filled, so that it changes every logit."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.3)
    model = get_peft_model(policy.model, config)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, weights in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weights, std=0.5)
    return model


TEXTS = ["Serum sodium is low.", OWN, "Ω " * 30, "qZ#x}~vk@@|^w%Jq", *(row.reasoning for row in ROWS[:4])]


def test_a_shared_scorer_gives_the_loaded_ones_numbers_to_the_last_bit(base: BaseRef) -> None:
    loaded = [mean_nll(base.folder, text, MAX_TOKENS) for text in TEXTS]
    policy = load_base(base.folder)
    model = lora(policy)
    model.train()
    share_scorer(base.folder, Policy(model, policy.tokenizer))
    assert [mean_nll(base.folder, text, MAX_TOKENS) for text in TEXTS] == loaded
    assert scorer.load_scorer(base.folder).model is model
    assert scorer._load.cache_info().currsize == 0, "no second base was loaded"


def test_the_adapter_of_the_test_changes_the_numbers(base: BaseRef) -> None:
    before = mean_nll(base.folder, OWN, MAX_TOKENS)
    policy = load_base(base.folder)
    model = lora(policy).eval()
    ids = [policy.tokenizer.bos_token_id, *policy.tokenizer(OWN)["input_ids"]]
    assert abs(scorer.next_token_loss(Policy(model, policy.tokenizer), [ids]) - before) > 0.1


def test_scoring_leaves_the_training_untouched(base: BaseRef) -> None:
    import torch

    policy = load_base(base.folder)
    model = lora(policy)
    model.train()
    frozen_part = next(module for name, module in model.named_modules() if name.endswith("lora_dropout"))
    frozen_part.eval()
    held = next(weights for name, weights in model.named_parameters() if "lora_A" in name)
    held.requires_grad_(False)  # PEFT would set it when the adapter comes back
    ids = torch.tensor([policy.tokenizer(OWN)["input_ids"]])
    torch.manual_seed(0)
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    modes = {name: module.training for name, module in model.named_modules()}
    trained = {name: weights.requires_grad for name, weights in model.named_parameters()}
    state = torch.random.get_rng_state()

    share_scorer(base.folder, Policy(model, policy.tokenizer))
    mean_nll(base.folder, OWN, MAX_TOKENS)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: weights.requires_grad for name, weights in model.named_parameters()} == trained
    assert any(trained.values()) and not all(trained.values())
    after = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    assert after.keys() == gradients.keys()
    assert all(torch.equal(after[name], gradients[name]) for name in after)
    model(input_ids=ids, labels=ids).loss.backward()  # and it goes on


def test_what_a_scorer_was_doing_comes_back_when_it_fails(base: BaseRef) -> None:
    import torch

    policy = load_base(base.folder)
    model = lora(policy)
    model.train()
    share_scorer(base.folder, Policy(model, policy.tokenizer))
    with pytest.raises(ZeroDivisionError), frozen(base.folder):
        assert not model.training and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert model.training
    assert model.get_model_status().enabled != "irregular"
    assert any(weights.requires_grad for weights in model.parameters())


def test_forgotten_scorers_are_gone(base: BaseRef) -> None:
    mean_nll(base.folder, OWN, MAX_TOKENS)
    assert scorer._load.cache_info().currsize == 1
    forget_scorers()
    assert scorer._load.cache_info().currsize == len(scorer._known) == 0
    policy = load_base(base.folder)
    share_scorer(base.folder, policy)
    forget_scorers()
    assert scorer.load_scorer(base.folder) is not policy


@pytest.mark.parametrize(
    ("own", "bos", "expected"),
    [
        (["<|endoftext|>", "<bos>"], "<bos>", "<|endoftext|>"),
        (["<bos>"], "<bos>", "<bos>"),
        (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
        ([], None, "<eos>"),
    ],
)
def test_a_text_is_scored_after_the_token_between_documents(own: list[str], bos: str | None, expected: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<eos>", "a", *own]
    words = WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), unk_token="<unk>", eos_token="<eos>", bos_token=bos
    )
    assert scorer._start(tokenizer) == names.index(expected)


def test_mean_nll_is_the_mean_over_the_text_tokens(base: BaseRef) -> None:
    import torch

    policy = load_base(base.folder)
    text = "Serum sodium is low."
    ids = [policy.tokenizer.bos_token_id, *policy.tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        logprobs = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    byhand = [-float(logprobs[place, ids[place + 1]]) for place in range(len(ids) - 1)]
    assert mean_nll(base.folder, text, MAX_TOKENS) == pytest.approx(sum(byhand) / len(byhand), abs=1e-4)


def test_mean_nll_reads_a_text_up_to_its_limit(base: BaseRef) -> None:
    # A letter that the byte-level BPE never merges here is one token, whatever follows it.
    long = "Ω" * (2 * MAX_TOKENS)
    assert mean_nll(base.folder, long, MAX_TOKENS) == mean_nll(base.folder, long + "and more", MAX_TOKENS)
    assert mean_nll(base.folder, "Ω" * 4, MAX_TOKENS) != mean_nll(base.folder, "Ω" * 4 + "and more", MAX_TOKENS)
    assert mean_nll(base.folder, "", MAX_TOKENS) == math.inf


def test_a_scorer_that_gives_nan_is_no_score(base: BaseRef) -> None:
    import torch

    policy = load_base(base.folder)
    model = lora(policy)
    torch.nn.init.constant_(model.get_input_embeddings().weight, math.nan)
    share_scorer(base.folder, Policy(model, policy.tokenizer))
    with pytest.raises(ValueError, match="gives NaN for 'Serum"):
        mean_nll(base.folder, "Serum sodium is low.", MAX_TOKENS)


# --- the band


def test_an_unprepared_reward_says_so(base: BaseRef) -> None:
    for lacking in (
        FluencyReward(),
        FluencyReward(scorer=base.folder),
        FluencyReward(scorer=base.folder, fluent=3.0),
        FluencyReward(fluent=3.0, gibberish=9.0),
    ):
        with pytest.raises(ConfigError, match=r"call prepared\(\) first"):
            lacking.score([rollout(OWN)])


@pytest.mark.parametrize(
    "fields",
    [{"fluent": 5.0, "gibberish": 5.0}, {"fluent": 9.0, "gibberish": 5.0}, {"fluent": 0.5}, {"gibberish": 0.0}],
)
def test_a_band_that_makes_no_sense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"fluent|gibberish"):
        FluencyReward(**fields)


def test_a_band_is_measured_once_and_kept(context: Context, base: BaseRef, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FluencyReward(weight=0.3).prepared(context)
    assert (first.scorer, first.weight) == (base.folder, 0.3)
    (kept,) = (context.settings.root / "bands").iterdir()
    assert json.loads(kept.read_text()) == {name: getattr(first, name) for name in ("memorised", "fluent", "gibberish")}
    monkeypatch.setattr("medgrpo.rewards.fluency._measure", lambda *_: pytest.fail("measured again"))
    assert FluencyReward(weight=0.3).prepared(context) == first
    assert first.prepared(context) == first


def test_a_band_goes_from_most_gold_texts_to_most_shuffled_ones(
    reward: FluencyReward, base: BaseRef, context: Context
) -> None:
    assert reward.fluent is not None and reward.gibberish is not None
    measured = sorted(mean_nll(base.folder, text, MAX_TOKENS) for text in _gold_texts(context))
    assert reward.fluent == pytest.approx(math.exp(measured[28])), "place 28 of 0 to 31: the 90th percentile"
    assert reward.memorised == pytest.approx(math.exp(measured[3] - 1)), "one nat below the 10th percentile"
    mixed = [mean_nll(base.folder, shuffled(row.reasoning), MAX_TOKENS) for row in ROWS]
    assert sum(nll >= math.log(reward.gibberish) for nll in mixed) / len(mixed) > 0.7


def test_other_rows_have_another_band(context: Context) -> None:
    def band(examples: list[Example]) -> tuple[float | None, float | None]:
        made = FluencyReward().prepared(
            Context(context.base, examples, context.max_completion_tokens, context.settings)
        )
        return made.fluent, made.gibberish

    whole = band(ROWS)
    questions = band([row.model_copy(update={"reasoning": ""}) for row in ROWS])
    assert whole != questions, "rows without a reasoning are measured by their questions"
    first = band(ROWS[:8])
    assert first != whole
    assert band(ROWS[:8]) == first
    assert len(list((context.settings.root / "bands").iterdir())) == 3


def test_a_band_is_measured_on_rows_of_every_topic(context: Context) -> None:
    texts = _gold_texts(context)
    assert len(texts) == len(set(texts)) == MEASURED_TEXTS
    assert {row.topic for row in ROWS if row.reasoning in texts} == set(TAUGHT)
    assert _gold_texts(context) == texts


def test_the_bases_digest_stands_for_it_whatever_its_folder(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    FluencyReward().prepared(context)
    monkeypatch.setattr("medgrpo.rewards.fluency._measure", lambda *_: pytest.fail("measured again"))
    moved = context.base.model_copy(update={"folder": "/elsewhere"})
    assert (
        FluencyReward()
        .prepared(Context(moved, context.examples, context.max_completion_tokens, context.settings))
        .scorer
        == "/elsewhere"
    )


def test_a_named_scorer_counts_by_its_content(context: Context, base: BaseRef, tmp_path: Path) -> None:
    other = context.base.model_copy(update={"folder": "/elsewhere", "digest": "other"})
    there = Context(other, context.examples, context.max_completion_tokens, context.settings)
    named = FluencyReward(scorer=base.folder).prepared(there)
    own = FluencyReward().prepared(context)
    assert (named.fluent, named.gibberish) == (own.fluent, own.gibberish)
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        FluencyReward(scorer=str(tmp_path / "gone")).prepared(context)


def test_given_ends_are_kept(context: Context, reward: FluencyReward, tmp_path: Path) -> None:
    assert reward.fluent is not None and reward.gibberish is not None
    low = FluencyReward(fluent=1.01).prepared(context)
    assert (low.fluent, low.gibberish) == (1.01, reward.gibberish)
    high = FluencyReward(gibberish=1e6).prepared(context)
    assert (high.fluent, high.gibberish) == (reward.fluent, 1e6)
    with pytest.raises(ConfigError, match=r"not below gibberish .*give both, or none"):
        FluencyReward(fluent=1e9).prepared(context)
    empty = Context(context.base, [], 64, Settings(home=tmp_path / "empty"))
    assert FluencyReward(fluent=2.0, gibberish=9.0).prepared(empty).scorer == context.base.folder
    assert not (tmp_path / "empty").exists(), "nothing is measured where nothing needs to be"
    with pytest.raises(ConfigError, match="no train rows to measure"):
        FluencyReward().prepared(empty)


def test_a_scorer_that_sees_no_order_is_not_asked(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row.model_copy(update={"reasoning": f"{n}"}) for n, row in enumerate(ROWS)]  # one word has one order
    with caplog.at_level(logging.WARNING):
        reward = FluencyReward().prepared(Context(context.base, rows, 64, context.settings))
    assert reward.fluent is not None and reward.gibberish is not None
    assert {name: getattr(reward, name) for name in OPEN} == OPEN
    assert "hardly tells the train rows" in caplog.text


# --- the reward


def test_fluency_is_log_perplexity_in_its_band(base: BaseRef) -> None:
    nll = mean_nll(base.folder, OWN, MAX_TOKENS)

    def score(low: float, high: float) -> float:
        return FluencyReward(scorer=base.folder, fluent=math.exp(nll + low), gibberish=math.exp(nll + high)).score(
            [rollout(OWN)]
        )[0]

    assert score(-1, 3) == pytest.approx(0.75)
    assert score(1, 2) == 1.0
    assert score(-1, -0.5) == 0.0


def test_fluency_multiplies_band_and_novelty(base: BaseRef) -> None:
    wide = FluencyReward(scorer=base.folder, fluent=1e8, gibberish=1e9)
    thrice, once = wide.score([rollout(f"{OWN} {OWN} {OWN}"), rollout(OWN)])
    assert (thrice, once) == (pytest.approx(1 / 3), 1.0)


def test_gold_reasonings_earn_more_than_every_kind_of_nonsense(reward: FluencyReward) -> None:
    golds = reward.score([rollout(row.reasoning, row) for row in ROWS])
    rng = Random(2)
    nonsense = {
        "shuffled words": [rollout(shuffled(row.reasoning), row) for row in ROWS],
        "random letters": [rollout("".join(rng.choices("abcdefghij klmnop", k=60)), row) for row in ROWS],
        "symbols": [rollout("".join(rng.choices("qZ#x}~@|^%J[ ", k=40)), row) for row in ROWS],
        "a loop": [rollout(row.reasoning + row.reasoning * 5, row) for row in ROWS],
        "one word": [rollout("the " * 40, row) for row in ROWS],
        "the alphabet": [rollout(" ".join("abcdefghijklmnopqrstuvwxyz"), row) for row in ROWS],
        "the question": [rollout(row.question, row) for row in ROWS],
        "the options": [rollout(", ".join(row.options.values()) or "none", row) for row in ROWS],
    }
    mean = sum(golds) / len(golds)
    earned = {name: sum(reward.score(rows)) / len(rows) for name, rows in nonsense.items()}
    assert mean > 0.9
    assert max(earned.values()) < 0.35, earned
    assert all(earned[name] == 0.0 for name in ("a loop", "one word", "the question"))


def test_the_model_isnt_asked_about_what_is_worth_nothing(
    reward: FluencyReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgrpo.rewards.fluency.mean_nlls", lambda *_: pytest.fail("the scorer was asked"))
    assert reward.score([rollout("the " * 40), rollout(CHOICE.question)]) == [0.0, 0.0]


@pytest.mark.parametrize(
    "completion",
    [
        "",
        OWN,
        f"<reasoning>{OWN}</reasoning>",
        "<reasoning></reasoning><answer>B</answer>",
        f"<reasoning>{OWN}</reasoning><answer></answer>",
        f"Well. <reasoning>{OWN}</reasoning><answer>B</answer>",
        f"<reasoning>{OWN}</reasoning><answer>B</answer><answer>A</answer>",
        f"<answer>B</answer><reasoning>{OWN}</reasoning>",
    ],
)
def test_fluency_pays_strict_completions_only(reward: FluencyReward, completion: str) -> None:
    assert reward.score([Rollout(example=CHOICE, completion=completion, parsed=parse(completion))]) == [0.0]
    assert reward.score([rollout(OWN)]) > [0.0]


def test_fluency_reads_neither_gold_nor_answer(reward: FluencyReward) -> None:
    same = [rollout(OWN, answer=answer) for answer in ("A", "B", "C")]
    same.append(rollout(OWN, CHOICE.model_copy(update={"gold": "C", "reasoning": "Something else."})))
    assert len(set(reward.score(same))) == 1
    assert reward.full_marks(same[0]) == 0.0


@limits(max_examples=25)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=12), st.integers(0, 11))
def test_a_score_depends_on_its_own_row_only(base: BaseRef, texts: list[str], turn: int) -> None:
    reward = FluencyReward(scorer=base.folder, fluent=2.0, gibberish=5000.0)
    rows = [rollout(text) for text in [OWN, *texts]]
    turn %= len(rows)
    together = reward.score(rows)
    assert all(0.0 <= value <= 1.0 for value in together)
    scorer._known.clear()
    assert reward.score(rows[turn:] + rows[:turn]) == together[turn:] + together[:turn]
    scorer._known.clear()
    assert [reward.score([row])[0] for row in rows] == together
    assert reward.score([]) == []


@pytest.mark.parametrize("piece", ["the ", "a", "<answer>", "Ω̈ ", "1 2 3 4 ", "\u0130\x00 ", "🙂"])
def test_fluency_never_raises_on_a_long_text(base: BaseRef, piece: str) -> None:
    text = "".join(f"{piece}{n} " for n in range(100_000 // (len(piece) + 6)))
    reward = FluencyReward(scorer=base.folder, fluent=2.0, gibberish=5000.0)
    (value,) = reward.score([rollout(text)])
    assert 0.0 <= value <= 1.0


def test_a_prepared_reward_survives_pickling_and_json(reward: FluencyReward) -> None:
    before = reward.score([rollout(OWN)])
    copy = pickle.loads(pickle.dumps(reward))
    assert copy == reward == FluencyReward.model_validate_json(reward.model_dump_json())
    assert copy.score([rollout(OWN)]) == before


@pytest.mark.parametrize(
    ("over", "expected"), [(-0.5, 0.0), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (3.0, 1.0), (4.0, 0.5), (5.0, 0.0)]
)
def test_the_band_falls_on_both_sides(base: BaseRef, over: float, expected: float) -> None:
    nll = mean_nll(base.folder, OWN, MAX_TOKENS)
    ends = {"memorised": nll - over, "fluent": nll - over + 3, "gibberish": nll - over + 5}
    reward = FluencyReward(scorer=base.folder, **{name: math.exp(end) for name, end in ends.items()})
    assert reward.score([rollout(OWN)]) == [pytest.approx(expected, abs=1e-6)]


def test_a_batch_freezes_the_shared_policy_once_and_scores_the_same(
    base: BaseRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = FluencyReward(scorer=base.folder, fluent=2.0, gibberish=5000.0)
    rows = [rollout(f"{OWN} It is {word}.") for word in ("high", "low", "normal")]
    expected = reward.score(rows)
    entered = []
    whole = scorer._without_adapters

    def counted(model: Any) -> Any:
        entered.append(model)
        return whole(model)

    monkeypatch.setattr(scorer, "_without_adapters", counted)
    policy = load_base(base.folder)
    share_scorer(base.folder, Policy(lora(policy), policy.tokenizer))
    assert reward.score(rows) == expected
    assert len(entered) == 1
