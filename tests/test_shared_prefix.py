"""The shared-prefix trainer against TRL's own: same samples, same losses, same adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.grpo.arguments import trl_arguments
from medgrpo.grpo.job import train_rows
from medgrpo.grpo.shared_prefix import completion_logps, sample
from medgrpo.grpo.trainer import SharedPrefixTrainer
from medgrpo.policy import Policy, load_base
from medgrpo.rewards import CorrectReward, FormatReward
from medgrpo.rewards.trl import for_trl
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

REASONINGS = ["12 is below 30, so the answer is low.", "it is high.", "no idea", "between, so the answer is normal."]


def _fixed_rollouts(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """A rollout function that gives the same completions, of different lengths, to every trainer."""

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        texts = [
            f"<reasoning>{REASONINGS[i % 4]}</reasoning>\n<answer>{'ABC'[i % 3]}</answer>" for i in range(len(prompts))
        ]
        tokens = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
        return {"prompt_ids": ids, "completion_ids": tokens, "logprobs": None}

    return rollout


def _train(
    kind: type[GRPOTrainer], config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, output: Path
) -> dict[str, torch.Tensor]:
    policy = load_base(base.folder)
    trainer = kind(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=trl_arguments(config, output),
        reward_funcs=[for_trl(CorrectReward()), for_trl(FormatReward())],
        train_dataset=train_rows(read_split(dataset, "train", settings), config),
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, task_type="CAUSAL_LM"),
        rollout_func=_fixed_rollouts(policy.tokenizer),
    )
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("beta", "accumulation", "loss"), [(0.0, 1, "dapo"), (0.04, 1, "grpo"), (0.0, 2, "dr_grpo"), (0.04, 4, "bnpo")]
)
def test_adapters_equal_those_of_the_stock_trainer(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    settings: Settings,
    tmp_path: Path,
    beta: float,
    accumulation: int,
    loss: str,
) -> None:
    changes = {"beta": beta, "gradient_accumulation_steps": accumulation, "loss_type": loss, "learning_rate": 1e-3}
    rewards = (CorrectReward(), FormatReward(weight=0.5))
    changed = config.model_copy(update={"grpo": config.grpo.model_copy(update=changes), "rewards": rewards})
    stock = _train(GRPOTrainer, changed, base, dataset, settings, tmp_path / "stock")
    ours = _train(SharedPrefixTrainer, changed, base, dataset, settings, tmp_path / "ours")
    moved = max(float(value.abs().max()) for name, value in stock.items() if "lora_B" in name)
    assert moved > 1e-4, "nothing was trained, so nothing was compared"
    assert stock.keys() == ours.keys()
    for name, value in stock.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def policy(base: BaseRef) -> Policy:
    return load_base(base.folder)


def _prompts(policy: Policy, questions: list[str]) -> list[list[int]]:
    return [policy.prompt_tokens([{"role": "user", "content": question}]) for question in questions]


def test_greedy_samples_equal_generate_for_prompts_of_different_lengths(policy: Policy) -> None:
    prompts = _prompts(policy, ["Urea is 9.", "Serum sodium is 128 mmol/L (reference range 133-146). Low or high?"])
    rows = [prompts[0], prompts[1], prompts[0]]
    generation = policy.model.generation_config
    generation.update(max_new_tokens=20, do_sample=False, eos_token_id=[policy.tokenizer.eos_token_id])
    sampled = sample(policy.model, rows, generation, policy.tokenizer.pad_token_id)
    for prompt, completion in zip(rows, sampled, strict=True):
        alone = policy.model.generate(input_ids=torch.tensor([prompt]), generation_config=generation)
        assert completion == alone[0, len(prompt) :].tolist()


def test_logps_of_rows_in_any_order_equal_the_full_forward(policy: Policy) -> None:
    trainable = load_base(policy.model.config._name_or_path)
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(trainable.model, outputs=("log_probs", "entropy"))
    long, short = _prompts(policy, ["Serum sodium is 128 mmol/L. Is it low?", "Urea?"])
    pad = [policy.tokenizer.pad_token_id] * (len(long) - len(short))
    tail = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    ids = torch.tensor([pad + short + tail[0], long + tail[1], pad + short + tail[2]])
    mask = torch.ones_like(ids)
    mask[[0, 2], : len(pad)] = 0
    mask[2, -1] = 0
    logps, entropies = completion_logps(trainable.model, ids, mask, 3)
    logits = trainable.model(input_ids=ids, attention_mask=mask).logits[:, -4:-1].log_softmax(-1)
    expected = logits.gather(-1, ids[:, -3:, None])[..., 0] * mask[:, -3:]
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, -(logits.exp() * logits).sum(-1) * mask[:, -3:], atol=1e-4, rtol=0)
