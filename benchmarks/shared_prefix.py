"""Seconds per GRPO step: TRL's own trainer against the shared-prefix trainer, on the demo's model and shape.

    python benchmarks/shared_prefix.py [--steps 3] [--pairs 2]

Both train in this process, in turn, from the same weights and seed; every completion has the full length, so that both
do the same work. Prints the median of each and their ratio. Run nothing else beside it.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_split
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example

CONFIG = Path(__file__).parent.parent / "configs" / "laptop.toml"


def step_seconds(config: Config, base: BaseRef, examples: list[Example], shared: bool, steps: int) -> list[float]:
    """Seconds of each step after the first, which also warms up."""
    from peft import LoraConfig
    from trl import GRPOTrainer

    from medgrpo.grpo.arguments import trl_arguments
    from medgrpo.grpo.job import train_rows
    from medgrpo.grpo.trainer import SharedPrefixTrainer, rollout
    from medgrpo.policy import load_base
    from medgrpo.rewards import FormatReward
    from medgrpo.rewards.trl import for_trl

    policy = load_base(base.folder)
    lora = config.policy.lora
    with tempfile.TemporaryDirectory() as folder:
        arguments: Any = trl_arguments(config.model_copy(update={"rewards": (FormatReward(),)}), Path(folder))
        arguments.max_steps = steps + 1
        arguments.save_strategy = "no"
        arguments.generation_kwargs = {"min_new_tokens": config.grpo.max_completion_tokens}
        trainer = (SharedPrefixTrainer if shared else GRPOTrainer)(
            model=policy.model,
            processing_class=policy.tokenizer,
            args=arguments,
            reward_funcs=[for_trl(FormatReward())],
            train_dataset=train_rows(examples, config),
            peft_config=LoraConfig(
                r=lora.r, lora_alpha=lora.alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM"
            ),
            rollout_func=rollout if shared else None,
        )
        trainer.train()
    return [entry["step_time"] for entry in trainer.state.log_history if "step_time" in entry][1:]


def main() -> None:
    """Measure both in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    settings = Settings()
    config = read_config(CONFIG)
    base = resolve(config.policy.base, settings)
    examples = read_split(prepare(config, base, settings), "train", settings)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.pairs):
        for shared in (False, True):
            seconds[shared] += step_seconds(config, base, examples, shared, options.steps)
    stock, ours = statistics.median(seconds[False]), statistics.median(seconds[True])
    print(f"stock TRL      {stock:6.1f} s/step  {[round(s, 1) for s in seconds[False]]}")
    print(f"shared prefix  {ours:6.1f} s/step  {[round(s, 1) for s in seconds[True]]}")
    print(f"ratio          {stock / ours:6.2f}x")


if __name__ == "__main__":
    main()
