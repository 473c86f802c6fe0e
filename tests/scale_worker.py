"""One training process of tests/test_scale.py: the real trainer on completions that don't hang on who samples them.

    accelerate launch … tests/scale_worker.py CASES.json FOLDER

The completion of a prompt is a function of the prompt and of its place in the group, so that any number of processes
train on the same rows.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.grpo.arguments import trl_arguments
from medgrpo.grpo.job import train_rows
from medgrpo.grpo.ranks import is_main, join, rank
from medgrpo.grpo.trainer import PolicyTrainer
from medgrpo.policy import load_base, lora_settings
from medgrpo.rewards.trl import for_trl
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Frozen, Rollout

REASONINGS = ("12 is below 30, so the answer is low.", "it is high.", "no idea", "between, so the answer is normal.")


class Case(Frozen):
    """One training."""

    name: str
    config: Config
    base: BaseRef
    dataset: DatasetRef
    settings: Settings


def fixed_rollouts(tokenizer: Any, group: int, seen: list[str]) -> Callable[..., dict[str, Any]]:
    """TRL's `rollout_func`. Every third prompt gets the same completion throughout its group: nothing to learn there."""

    def completion(prompt: str, place: int) -> str:
        drawn = crc32(prompt.encode())
        number = drawn + (place if drawn % 3 else 0)
        return f"<reasoning>{REASONINGS[number % 4]}</reasoning>\n<answer>{'ABC'[number % 3]}</answer>"

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        questions = [chat[-1]["content"] for chat in prompts]
        seen.extend(questions)
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        texts = [completion(question, number % group) for number, question in enumerate(questions)]
        tokens = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
        return {"prompt_ids": ids, "completion_ids": tokens, "logprobs": None}

    return rollout


def only_on_rank_0(rollouts: Sequence[Rollout]) -> list[float]:
    """A reward function that fails elsewhere."""
    if rank():
        raise ValueError("not on this rank")
    return [0.5] * len(rollouts)


def run(case: Case, folder: Path) -> None:
    """Train one case; rank 0 leaves the adapter, each rank the prompts that it was given."""
    from safetensors.torch import save_file

    config = case.config
    policy = load_base(case.base.folder)
    seen: list[str] = []
    trainer = PolicyTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=trl_arguments(config, folder / case.name),
        reward_funcs=[for_trl(reward) for reward in config.rewards],
        train_dataset=train_rows(read_split(case.dataset, "train", case.settings), config),
        peft_config=lora_settings(config.policy.lora),
        rollout_func=fixed_rollouts(policy.tokenizer, config.grpo.num_generations, seen),
        fast_path=config.grpo.fast_path,
    )
    trainer.train()
    (folder / f"{case.name}-{rank()}.json").write_text(json.dumps(seen), encoding="utf-8")
    if is_main():
        adapter = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        save_file(adapter, folder / f"{case.name}.safetensors")


if __name__ == "__main__":
    join()
    for line in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(Case.model_validate(line), Path(sys.argv[2]))
