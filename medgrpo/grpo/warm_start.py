"""The warm start: the adapter learns worked answers before GRPO, so that groups have right answers to compare."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from medgrpo.answer import messages, render_gold, render_question
from medgrpo.config import Config, WarmStartConfig
from medgrpo.errors import TrainingRefused
from medgrpo.grpo.checkpoints import adapter_fault, fault, seal
from medgrpo.grpo.ranks import is_main, is_sharded, wait_for_all
from medgrpo.policy import load_base, lora_settings
from medgrpo.types import BaseRef, Example

log = logging.getLogger(__name__)

WARM_START = "warm-start"
"""The warm start's folder beside the checkpoints: adapter, losses, manifest."""
LOSSES = "losses.json"


def warm_start(config: Config, base: BaseRef, examples: Sequence[Example], output: Path) -> Path | None:
    """Train the adapter on worked answers, and give its folder; None where the config asks for no warm start.

    A finished one is found again. One that was cut off is made again from its start: it takes minutes.

    Raises:
        TrainingRefused: no train row has a worked reasoning.
    """
    if config.warm_start is None:
        return None
    folder = output / WARM_START
    if folder.is_dir() and not (reason := fault(folder)):
        return folder
    wait_for_all()  # each process has seen what is there
    if is_main() and folder.is_dir():
        log.warning("making the warm start again: %s", reason)
        shutil.rmtree(folder)
    trainer = _build(config, config.warm_start, base, examples, output)
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model)  # of all processes, where each holds a part
    if is_main():
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder, state_dict=weights)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (folder / LOSSES).write_text(json.dumps(losses), encoding="utf-8")
        seal(folder)
    wait_for_all()
    return folder


def finished(output: Path) -> list[Path]:
    """The folder of a training's warm start, if it had one whose adapter verifies; the log names one that doesn't."""
    folder = output / WARM_START
    if not folder.is_dir():
        return []
    if reason := adapter_fault(folder):
        log.warning("skipping the warm start: %s", reason)
        return []
    return [folder]


def read_losses(folder: Path) -> list[float]:
    """Mean negative log-likelihood per completion token, in nats, of each step of a warm start."""
    losses: list[float] = json.loads((folder / LOSSES).read_text(encoding="utf-8"))
    return losses


def lessons(examples: Sequence[Example], config: WarmStartConfig, seed: int) -> list[Example]:
    """The rows whose worked answers are shown, drawn once from those that have a reasoning.

    Raises:
        TrainingRefused: none has one.
    """
    worked = [example for example in examples if example.reasoning]
    if not worked:
        raise TrainingRefused("warm_start: no train row has a worked reasoning: take the section out of the config")
    return Random(seed).sample(worked, min(config.rows, len(worked)))


def _build(config: Config, warm: WarmStartConfig, base: BaseRef, examples: Sequence[Example], output: Path) -> Any:
    """TRL's supervised trainer, which scores the completions' tokens alone."""
    from datasets import Dataset
    from trl import SFTTrainer

    from medgrpo.grpo.arguments import warm_start_arguments
    from medgrpo.grpo.callbacks import StepPrinter

    chosen = lessons(examples, warm, config.seed)
    prompt = config.prompt
    rows = {
        "prompt": [messages(prompt.system, prompt.shown, render_question(example)) for example in chosen],
        "completion": [[{"role": "assistant", "content": render_gold(example)}] for example in chosen],
    }
    policy = load_base(base.folder, config.policy.dtype, config.policy.load_in_4bit, placed=not is_sharded())
    return SFTTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=warm_start_arguments(config, warm, output / f".{WARM_START}"),
        train_dataset=Dataset.from_dict(rows),
        peft_config=lora_settings(config.policy.lora),
        callbacks=[StepPrinter("warm start")] if is_main() else [],
    )
