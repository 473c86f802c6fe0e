"""The fast path against TRL's own: the same adapters, the same samples, and a way back where it goes wrong."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.grpo import inference_copy
from medgrpo.grpo.arguments import trl_arguments
from medgrpo.grpo.idle import Idle, mark_flat_groups
from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.grpo.job import train_rows
from medgrpo.grpo.sampling import Decoding, draw, sample
from medgrpo.grpo.shared_prefix import completion_logps
from medgrpo.grpo.trainer import PolicyTrainer
from medgrpo.policy import Policy, load_base
from medgrpo.rewards import CorrectReward, FormatReward
from medgrpo.rewards.trl import for_trl
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

REASONINGS = ["12 is below 30, so the answer is low.", "it is high.", "no idea", "between, so the answer is normal."]
Train = Callable[..., GRPOTrainer]


def _fixed_rollouts(tokenizer: Any, size: int) -> Callable[..., dict[str, Any]]:
    """A rollout function that gives the same completions to every trainer; those of every second group are all alike."""

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        kinds = [0 if (i // size) % 2 else i for i in range(len(prompts))]
        texts = [f"<reasoning>{REASONINGS[k % 4]}</reasoning>\n<answer>{'ABC'[k % 3]}</answer>" for k in kinds]
        tokens = [
            tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * (k % 4 != 1)
            for text, k in zip(texts, kinds, strict=True)
        ]
        return {"prompt_ids": ids, "completion_ids": tokens, "logprobs": None}

    return rollout


@pytest.fixture
def train(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path) -> Train:
    """Trains with a class of trainer and changes to the config, on fixed completions unless told otherwise."""

    def run(kind: type[GRPOTrainer], fixed: bool = True, rewards: Any = None, **changes: Any) -> GRPOTrainer:
        grpo = config.grpo.model_copy(update={"learning_rate": 1e-3, "steps": 5, "checkpoints": 1} | changes)
        weighted = (CorrectReward(), FormatReward(weight=0.5))
        changed = config.model_copy(update={"grpo": grpo, "rewards": weighted})
        policy = load_base(base.folder)
        arguments = trl_arguments(changed, tmp_path / kind.__name__)
        arguments.save_strategy = "no"
        if rewards is not None:
            arguments.reward_weights = None
        trainer = kind(
            model=policy.model,
            processing_class=policy.tokenizer,
            args=arguments,
            reward_funcs=rewards or [for_trl(reward) for reward in weighted],
            train_dataset=train_rows(read_split(dataset, "train", settings), changed),
            peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, task_type="CAUSAL_LM"),
            rollout_func=_fixed_rollouts(policy.tokenizer, grpo.num_generations) if fixed else None,
        )
        trainer.train()
        return trainer

    return run


def _adapter(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def _figures(trainer: GRPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def _assert_equal_adapters(ours: GRPOTrainer, stock: GRPOTrainer) -> None:
    expected, found = _adapter(stock), _adapter(ours)
    moved = max(float(value.abs().max()) for name, value in expected.items() if "lora_B" in name)
    assert moved > 1e-4, "nothing was trained, so nothing was compared"
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("loss", "beta", "parts", "iterations", "scale", "mask_truncated"),
    [
        ("dapo", 0.0, 1, 1, "group", False),
        ("grpo", 0.04, 1, 1, "group", True),
        ("dr_grpo", 0.0, 2, 1, "none", False),
        ("bnpo", 0.04, 4, 1, "batch", False),
        ("cispo", 0.0, 1, 2, "group", False),
        ("sapo", 0.04, 2, 2, "batch", False),
        ("luspo", 0.0, 1, 1, "none", True),
        ("vespo", 0.0, 2, 1, "group", False),
        ("bnpo", 0.0, 2, 2, "group", True),
    ],
)
def test_adapters_equal_those_of_the_stock_trainer(
    train: Train, loss: str, beta: float, parts: int, iterations: int, scale: str, mask_truncated: bool
) -> None:
    changes = {
        "loss_type": loss,
        "beta": beta,
        "gradient_accumulation_steps": parts,
        "num_iterations": iterations,
        "scale_rewards": scale,
        "mask_truncated_completions": mask_truncated,
    }
    stock, ours = train(GRPOTrainer, **changes), train(PolicyTrainer, **changes)
    _assert_equal_adapters(ours, stock)
    assert _figures(ours, "fast_path/active") == [1.0] * 5
    assert _figures(ours, "fast_path/difference")[0] < 1e-4
    for name in ("loss", "grad_norm", "completions/mean_length"):
        assert _figures(ours, name) == pytest.approx(_figures(stock, name), abs=1e-4)


class _Counting(PolicyTrainer):
    """Counts the rows that are run with gradients."""

    def _score(self, model: Any, input_ids: torch.Tensor, *args: Any) -> Any:
        if torch.is_grad_enabled():
            self.rows = [*getattr(self, "rows", []), len(input_ids)]
        return super()._score(model, input_ids, *args)


def _length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def test_groups_of_the_same_rewards_are_not_run_and_count_as_before(train: Train) -> None:
    ours = train(_Counting, rewards=[_length])
    assert ours.rows == [4] * 5  # of 8, in two groups, of which one is flat
    beta = train(_Counting, beta=0.04, steps=1)
    assert beta.rows == [8], "with a reference policy every row has a gradient"


def _constant(completions: list[Any], **_: Any) -> list[float]:
    return [0.3] * len(completions)


def test_a_step_without_signal_changes_nothing_and_keeps_its_entropy(train: Train) -> None:
    stock = train(GRPOTrainer, fixed=True, rewards=[_constant], steps=2, num_generations=6)
    before = [float(p.abs().max()) for name, p in _adapter(stock).items() if "lora_B" in name]
    ours = train(_Counting, fixed=False, rewards=[_constant], steps=2, num_generations=6)
    assert ours.rows == [1, 1]
    assert all(float(p.abs().max()) <= max(before) for name, p in _adapter(ours).items() if "lora_B" in name)
    every = train(PolicyTrainer, fixed=False, rewards=[_constant], steps=1, beta=1e-12, num_generations=6)
    assert _figures(ours, "entropy")[0] == pytest.approx(_figures(every, "entropy")[0], abs=1e-4)


def test_a_group_is_flat_by_its_largest_advantage() -> None:
    batch = {"advantages": torch.tensor([6e-4, -6e-4, 0.9, -1e-4, 0.0, 0.0])}
    mark_flat_groups(batch, 2, "group")
    assert batch["flat"].tolist() == [True, True, False, False, True, True]
    mark_flat_groups(batch, 2, "none")
    assert batch["flat"].tolist() == [False, False, False, False, True, True]


def test_what_stands_in_for_rows_that_are_not_run() -> None:
    busy = torch.tensor([False, True])
    mask = torch.tensor([[1, 1], [1, 0]])
    logps, entropies = torch.tensor([[-3.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    filled = Idle(busy, torch.tensor([[-1.0, -2.0], [-9.0, -9.0]]), None).fill(logps, entropies, mask)
    assert filled[0].tolist() == [[-1.0, -2.0], [-3.0, 0.0]]
    assert filled[1].tolist() == [[2.0, 2.0], [2.0, 0.0]], "the mean of the others leaves the mean as it is"


class _Wrong(PolicyTrainer):
    def _score(self, *args: Any) -> Any:
        logps, entropies = super()._score(*args)
        return logps + 0.01, entropies


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_other_numbers_than_stock_lead_back_to_stock(
    train: Train, caplog: pytest.LogCaptureFixture, beta: float
) -> None:
    with caplog.at_level(logging.WARNING):
        ours = train(_Wrong, beta=beta)
    assert "differ by 0.01 from TRL's own" in caplog.text
    assert caplog.text.count("TRL's own path is taken") == 1
    assert _figures(ours, "fast_path/difference")[0] == pytest.approx(0.01, abs=1e-3)
    _assert_equal_adapters(ours, train(GRPOTrainer, beta=beta))


class _WrongSampler(PolicyTrainer):
    def _sampler(self) -> Any:
        model = super()._sampler()
        for layer in model.model.layers:
            layer.mlp.down_proj.weight = torch.nn.Parameter(layer.mlp.down_proj.weight * 1.5, requires_grad=False)
        return model


def test_samples_of_another_policy_lead_back_to_stock(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ours = train(_WrongSampler, fixed=False, steps=1)
    assert "TRL's own path is taken" in caplog.text
    assert not ours._samples_fast and ours._scores_fast


def test_off_by_one_setting(train: Train) -> None:
    class Off(PolicyTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, fast_path=False, **kwargs)

        def _score(self, *args: Any) -> Any:
            raise AssertionError("asked for our scores")

        def _sampler(self) -> Any:
            raise AssertionError("asked for our samples")

    assert _figures(train(Off, fixed=False, steps=1), "fast_path/active") == []


@pytest.fixture(scope="module")
def policy(base: BaseRef) -> Policy:
    """The tiny policy with an adapter that says something, and TRL's head."""
    loaded = load_base(base.folder)
    add_fused_lm_head(loaded.model, outputs=("log_probs", "entropy"))
    model = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    return Policy(model.eval(), loaded.tokenizer)


def _prompts(policy: Policy) -> list[list[int]]:
    questions = ["Urea is 9.", "Serum sodium is 128 mmol/L (reference range 133-146). Low or high?"]
    short, long = (policy.prompt_tokens([{"role": "user", "content": question}]) for question in questions)
    return [short, long, short, long, short, long]


def _decoding(policy: Policy, **changes: Any) -> Decoding:
    settings = {"max_tokens": 24, "end_tokens": (policy.tokenizer.eos_token_id,), "pad_token": 0} | changes
    return Decoding(**settings)


def _many_ends(policy: Policy) -> tuple[int, ...]:
    """Every ninth token ends a row, so that rows end at different steps."""
    return tuple(range(0, len(policy.tokenizer), 9))


@pytest.mark.parametrize("few_rows", [0, 64])
def test_greedy_samples_of_the_copy_equal_generate_for_prompts_of_different_lengths(
    policy: Policy, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every CPU: with products of few rows as AMD's take them, and as the others do."""
    monkeypatch.setattr(inference_copy, "FEW_ROWS", few_rows)
    prompts = _prompts(policy)[:3]
    sampled = sample(InferenceCopy(policy.model).refresh(), prompts, _decoding(policy, greedy=True)).tokens
    generation = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=policy.tokenizer.eos_token_id)
    for prompt, completion in zip(prompts, sampled, strict=True):
        alone = policy.model.generate(input_ids=torch.tensor([prompt]), generation_config=generation)
        assert completion == alone[0, len(prompt) :].tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_what_sampling_saw_equals_a_forward_over_the_finished_rows(policy: Policy, top_p: float) -> None:
    prompts = _prompts(policy)
    torch.manual_seed(1)
    decoding = _decoding(policy, end_tokens=_many_ends(policy), temperature=0.7, top_p=top_p)
    sampled = sample(InferenceCopy(policy.model).refresh(), prompts, decoding)
    lengths = [len(row) for row in sampled.tokens]
    assert min(lengths) < max(lengths), "no row was dropped, so dropping was not tried"
    rows = zip(prompts, sampled.tokens, sampled.logps, sampled.entropies, strict=True)
    for prompt, completion, logps, entropies in rows:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)
        found = expected.gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logps), found, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(entropies), -(expected.exp() * expected).sum(-1), atol=1e-4, rtol=0)


def test_a_row_draws_the_same_whether_others_end_or_not(policy: Policy) -> None:
    prompts = _prompts(policy)
    tables = []
    for ends in (_many_ends(policy), (-1,)):
        torch.manual_seed(3)
        tables.append(sample(policy.model, prompts, _decoding(policy, end_tokens=ends)).tokens)
    ended, endless = tables
    assert len({len(row) for row in ended}) > 2, "rows should end at different steps"
    for row, whole in zip(ended, endless, strict=True):
        assert row == whole[: len(row)]
        assert len(whole) == 24


def test_no_end_before_the_least_length(policy: Policy) -> None:
    sampled = sample(policy.model, _prompts(policy), _decoding(policy, min_tokens=24))
    assert all(len(row) == 24 and policy.tokenizer.eos_token_id not in row for row in sampled.tokens)


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).repeat(5, 1)
    numbers = torch.tensor([0.0, 0.49, 0.51, 0.81, 1.0])
    assert draw(probabilities.clone(), numbers, 1.0).tolist() == [1, 1, 3, 4, 4]
    assert draw(probabilities.clone() * 0.5, numbers, 1.0).tolist() == [1, 1, 3, 4, 4]
    assert draw(probabilities.clone(), numbers, 0.6).tolist() == [1, 1, 1, 3, 3]


def test_settings_that_our_sampling_has_not_are_left_to_transformers() -> None:
    plain = {
        "max_new_tokens": 8,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.9,
        "eos_token_id": [1, 2],
        "pad_token_id": 0,
    }
    assert Decoding.of(GenerationConfig(**plain, top_k=0)) == Decoding(8, (1, 2), 0, 0.8, 0.9)
    for other in ({"top_k": 50}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"num_beams": 2}):
        assert Decoding.of(GenerationConfig(**plain, **({"top_k": 0} | other))) is None


def test_the_copy_shares_all_weights_but_those_that_are_adapted(policy: Policy) -> None:
    before = {name: weights.clone() for name, weights in policy.model.named_parameters()}
    trainable = [weights.requires_grad for weights in policy.model.parameters()]
    made = InferenceCopy(policy.model)
    made.refresh()
    base = policy.model.get_base_model()
    owned = {weights.data_ptr() for weights in base.parameters()}
    new = {name for name, weights in made.model.named_parameters() if weights.data_ptr() not in owned}
    assert new and all(".q_proj." in name or ".down_proj." in name for name in new)
    assert [weights.requires_grad for weights in policy.model.parameters()] == trainable
    assert all(torch.equal(weights, before[name]) for name, weights in policy.model.named_parameters())


def test_a_refresh_follows_the_adapter(policy: Policy) -> None:
    made = InferenceCopy(policy.model)
    ids = torch.tensor([_prompts(policy)[0]])
    weights = next(p for name, p in policy.model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        first = made.refresh()(input_ids=ids).logits
        weights.add_(0.1)
        second, own = made.refresh()(input_ids=ids).logits, policy.model(input_ids=ids).logits
        weights.sub_(0.1)
    assert float((first - second).abs().max()) > 1e-3
    torch.testing.assert_close(second, own, atol=1e-4, rtol=0)


def test_an_adapter_that_is_more_than_a_product_of_two_matrices_is_not_copied(base: BaseRef) -> None:
    settings = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    assert not can_be_copied(get_peft_model(load_base(base.folder).model, settings))


def test_logps_of_rows_in_any_order_equal_the_full_forward(policy: Policy) -> None:
    short, long = _prompts(policy)[:2]
    pad = [0] * (len(long) - len(short))
    tail = [[5, 6, 7, 0], [8, 9, 10, 0], [11, 12, 13, 0]]
    ids = torch.tensor([[0, *pad, *short, *tail[0]], [0, *long, *tail[1]], [0, *pad, *short, *tail[2]]])
    mask = torch.ones_like(ids)
    mask[[0, 2], : len(pad) + 1] = 0
    mask[1, 0] = 0
    mask[:, -1] = 0  # a column that is padding in all rows
    mask[2, -2] = 0
    logps, entropies = completion_logps(policy.model, ids, mask, 4)
    logits = policy.model(input_ids=ids, attention_mask=mask).logits[:, -5:-1].log_softmax(-1)
    expected = logits.gather(-1, ids[:, -4:, None])[..., 0] * mask[:, -4:]
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, -(logits.exp() * logits).sum(-1) * mask[:, -4:], atol=1e-4, rtol=0)
