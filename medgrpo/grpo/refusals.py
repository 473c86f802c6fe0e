"""What is refused before a training starts: it would make no step, or read past what the base model can."""

import json
from pathlib import Path

from medgrpo.config import Config
from medgrpo.errors import ConfigError
from medgrpo.types import BaseRef


def refuse_early(config: Config, base: BaseRef, rows: int, longest_prompt: int, processes: int = 1) -> None:
    """Look at what is known before anything heavy is loaded.

    Args:
        rows: train rows.
        longest_prompt: of a train row, in tokens.
        processes: training processes.

    Raises:
        ConfigError: names every fault, and what to do.
    """
    grpo = config.grpo
    faults = []
    if rows < grpo.prompts_per_step:
        faults.append(
            f"{rows} train rows don't fill one step of grpo.prompts_per_step = {grpo.prompts_per_step}, so that no "
            "step would be made: lower it, or data.validation_rows and data.test_rows, or add rows"
        )
    room = max_positions(base)
    limits = {"grpo": grpo.max_completion_tokens, "evaluation": config.evaluation.max_completion_tokens}
    for section, tokens in limits.items():
        if room is not None and longest_prompt + tokens > room:
            faults.append(
                f"a prompt of {longest_prompt} tokens and {section}.max_completion_tokens = {tokens} are more than the "
                f"{room} positions of {base.name}: lower the latter, or data.max_prompt_tokens"
            )
    if grpo.redraws and processes > 1:
        faults.append(
            f"grpo.redraws = {grpo.redraws} works in one process only, and this machine would train with {processes}: "
            "set it to 0, or train with one process"
        )
    if faults:
        raise ConfigError("training can't start:\n" + "\n".join(f"- {fault}" for fault in faults))


def max_positions(base: BaseRef) -> int | None:
    """Positions that a base model was made for; None where its config doesn't say."""
    content = json.loads((Path(base.folder) / "config.json").read_text(encoding="utf-8"))
    positions = content.get("text_config", content).get("max_position_embeddings")
    return int(positions) if positions else None
