"""Dynamic sampling: groups that teach nothing are replaced, and the batch is what TRL would have made of the others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.grpo.arguments import trl_arguments
from medgrpo.grpo.blocks import Blocks
from medgrpo.grpo.job import train_rows
from medgrpo.grpo.ledger import Ledger
from medgrpo.grpo.redraw import choose, first_draw_only, is_degenerate
from medgrpo.grpo.rollouts import collect
from medgrpo.grpo.trainer import PolicyTrainer
from medgrpo.policy import load_base, lora_settings
from medgrpo.rewards import CorrectReward
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

IDS = [f"row-{number}" for number in range(12)]
Row = dict[str, Any]


# --- the parts


@pytest.mark.parametrize(
    ("totals", "flat"),
    [([1.0, 1.0, 1.0], True), ([0.1 + 0.2, 0.3, 0.3], True), ([1.0, 1.0, 1.001], False), ([0.0, 1.0], False)],
)
def test_a_group_is_degenerate_when_its_total_rewards_are_the_same(totals: list[float], flat: bool) -> None:
    assert is_degenerate(totals) == flat


settled = st.sets(st.sampled_from(IDS))


@given(settled, settled, st.integers(0, 15), st.text(max_size=5))
def test_other_questions_are_chosen_and_settled_ones_last(
    asked: set[str], known: set[str], count: int, key: str
) -> None:
    ledger = Ledger()
    for name in sorted(known):
        ledger.add(1, [name] * 2, [True, True])
    chosen = [IDS[row] for row in choose(IDS, asked, ledger, count, key)]
    assert len(chosen) == len(set(chosen)) == min(count, len(IDS) - len(asked))
    assert not asked & set(chosen)
    fresh = set(IDS) - asked - known
    assert set(chosen[: len(fresh)]) <= fresh, "those that may teach something come first"
    assert chosen == [IDS[row] for row in choose(IDS, asked, ledger, count, key)]


def test_each_key_draws_in_its_own_order() -> None:
    drawn = {tuple(choose(IDS, (), Ledger(), 4, f"0-{step}-1")) for step in range(20)}
    assert len(drawn) > 15


def test_figures_stay_those_of_the_first_draw() -> None:
    metrics = {"reward": [0.5], "num_tokens": [100.0], "rewards/correct/seconds": [2.0]}
    with first_draw_only(metrics):
        metrics["reward"].append(0.9)
        metrics["num_tokens"] = [180.0]
        metrics["rewards/correct/seconds"].append(1.0)
        metrics["new"] = [1.0]
    assert metrics == {"reward": [0.5], "num_tokens": [180.0], "rewards/correct/seconds": [3.0]}


# --- in a training


def _number(row: str) -> int:
    return sum(json.loads(row)["question"].encode())


def _is_telling(row: str) -> bool:
    """A third of the questions have rewards that differ within their group."""
    return _number(row) % 3 == 0


def _length(completion_ids: Sequence[list[int]], example: Sequence[str], **_: Any) -> list[float]:
    return [len(ids) % 5 * 0.5 if _is_telling(row) else 0.25 for ids, row in zip(completion_ids, example, strict=True)]


def _rollout(tokenizer: Any) -> Any:
    """Completions that are a matter of the question and of the place in its group alone, of many lengths."""

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        tokens = []
        for place, prompt in enumerate(ids):
            length = 2 + (sum(prompt) + 3 * (place % trainer.num_generations)) % 11
            tokens.append([5 + (sum(prompt) + step) % 200 for step in range(length)] + [tokenizer.eos_token_id])
        return {"prompt_ids": ids, "completion_ids": tokens, "logprobs": None}

    return rollout


class Kept(PolicyTrainer):
    """Keeps each generation block as the training got it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made: list[dict[str, Any]] = []
        self.sampled: list[list[Row]] = []
        self.figures: list[dict[str, float]] = []

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        self.sampled.append(inputs)
        batch = super()._generate_and_score_completions(inputs)
        self.made.append(batch)
        self.figures.append({name: values[-1] for name, values in self._metrics["train"].items()})
        return batch


@pytest.fixture(scope="module")
def build(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> Any:
    def build(output: Path, redraws: int, **changes: Any) -> Kept:
        changes = {"learning_rate": 1e-3, "redraws": redraws, "prompts_per_step": 3} | changes
        grpo = config.grpo.model_copy(update=changes)
        changed = config.model_copy(update={"grpo": grpo, "rewards": (CorrectReward(),)})  # its weight, for ours
        examples = read_split(dataset, "train", settings)
        policy = load_base(base.folder)
        return Kept(
            model=policy.model,
            processing_class=policy.tokenizer,
            args=trl_arguments(changed, output),
            reward_funcs=[_length],
            train_dataset=train_rows(examples, changed),
            peft_config=lora_settings(config.policy.lora),
            rollout_func=_rollout(policy.tokenizer),
            fast_path=False,
            blocks=Blocks(output, [example.id for example in examples], redraws, changed.seed),
        )

    return build


def _used(rows: pd.DataFrame, step: int) -> pd.DataFrame:
    return rows[(rows["step"] == step) & rows["used"]].sort_values("group", kind="stable")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta": 0.04, "gradient_accumulation_steps": 2, "num_iterations": 2},
        {"scale_rewards": "batch", "mask_truncated_completions": True},
    ],
)
def test_a_redrawn_block_is_what_trl_makes_of_its_questions(build: Any, tmp_path: Path, changes: Row) -> None:
    trainer = build(tmp_path / "ours", 6, steps=2, checkpoints=1, **changes)
    trainer.train()
    rows = collect(tmp_path / "ours")
    stock = build(tmp_path / "stock", 0, steps=2, checkpoints=1, **changes)
    stock.blocks = None
    stock.model.train()
    by_id = {json.loads(row)["id"]: place for place, row in enumerate(stock.train_dataset["example"])}
    batch, used = trainer.made[0], _used(rows, 1)
    first_draw = [json.loads(row["example"])["id"] for row in trainer.sampled[0]]
    assert set(used["example"]) != set(first_draw), "nothing was redrawn, so nothing was tested"
    expected = stock._generate_and_score_completions(
        [dict(stock.train_dataset[by_id[name]]) for name in used["example"]]
    )
    assert expected.keys() == batch.keys()
    for name, value in expected.items():
        found = batch[name]
        if value.ndim == 2:  # ours may be wider: what was replaced was longer
            wider = found.size(1) - value.size(1)
            mask = "prompt_mask" if name.startswith("prompt") else "completion_mask"
            padding = batch[mask][:, :wider] if name.startswith("prompt") else batch[mask][:, value.size(1) :]
            assert wider >= 0 and not padding.any()
            found = found[:, wider:] if name.startswith("prompt") else found[:, : value.size(1)]
            value, found = value * expected[mask], found * expected[mask]  # noqa: PLW2901
        torch.testing.assert_close(found, value, atol=1e-4, rtol=0)
    assert used["advantage"].tolist() == pytest.approx(batch["advantages"].tolist(), abs=1e-6)


def test_redraws_go_on_until_every_group_tells_something(build: Any, tmp_path: Path) -> None:
    trainer = build(tmp_path, 12, steps=3, checkpoints=1)
    trainer.train()
    rows = collect(tmp_path)
    size = trainer.num_generations
    for step in (1, 2, 3):
        used, figures = _used(rows, step), trainer.figures[step - 1]
        assert len(used) == 3 * size == len(trainer.made[step - 1]["completion_ids"])
        assert not any(is_degenerate(list(group["total"])) for _, group in used.groupby("group"))
        assert used["example"].nunique() == 3
        of_step = rows[rows["step"] == step]
        assert of_step["example"].nunique() * size == len(of_step), "no question is asked twice in a step"
        assert figures["redraws/attempts"] == of_step["redraw"].max()
        assert figures["redraws/replaced"] == (used["redraw"] > 0).sum() / size
        assert figures["degenerate_groups"] == 0.0
        flat = [is_degenerate(list(group["total"])) for _, group in of_step[of_step["redraw"] == 0].groupby("group")]
        assert figures["frac_reward_zero_std"] == pytest.approx(sum(flat) / 3), "of the questions that nobody chose"
        assert figures["num_tokens"] >= of_step["tokens"].sum()


def test_redraws_end_after_so_many(build: Any, tmp_path: Path) -> None:
    trainer = build(tmp_path, 1, steps=4, checkpoints=1)
    trainer.train()
    figures = trainer.figures
    assert max(entry["redraws/attempts"] for entry in figures) == 1
    assert any(entry["degenerate_groups"] > 0 for entry in figures)
    rows = collect(tmp_path)
    for step, entry in enumerate(figures, 1):
        groups = [group for _, group in _used(rows, step).groupby("group")]
        assert entry["degenerate_groups"] == pytest.approx(
            sum(is_degenerate(list(g["total"])) for g in groups) / len(groups)
        )


def test_without_redraws_the_block_is_recorded_as_it_is(build: Any, tmp_path: Path) -> None:
    trainer = build(tmp_path, 0, steps=2, checkpoints=1, num_iterations=2)
    trainer.train()
    rows = collect(tmp_path)
    assert set(rows["step"]) == {1}, "two steps were made on one block"
    assert rows["used"].all() and "redraws/attempts" not in trainer.figures[0]
    assert rows["tokens"].tolist() == trainer.made[0]["completion_mask"].sum(dim=1).tolist()
    assert rows["example"].tolist() == [json.loads(row["example"])["id"] for row in trainer.sampled[0]]


def _adapter(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


def test_a_resumed_training_redraws_what_it_would_have(build: Any, tmp_path: Path) -> None:
    whole = build(tmp_path, 2, steps=6, checkpoints=3)
    whole.train()
    before = collect(tmp_path)
    resumed = build(tmp_path, 2, steps=6, checkpoints=3)  # where the steps after the checkpoint have left files, too
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert (before["redraw"] > 0).any()
    pd.testing.assert_frame_equal(collect(tmp_path), before)
    for name, value in _adapter(whole).items():
        assert torch.equal(value, _adapter(resumed)[name])
