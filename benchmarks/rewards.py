"""Seconds to score completions: the default rewards against the original notebook's way, and their share of a step.

    python benchmarks/rewards.py [--rows 256] [--original-rows 256]
    python benchmarks/rewards.py --share [--steps 12]

The completions are sampled from the demo's base model, eight for each of the laptop config's train questions, after two
worked questions, so that some follow the grammar (the more do, and the more reasonings differ, the longer ours takes).
The baseline is the preset `original` as the notebook ran it: row by row, both models loaded again for each. Ours starts
without a model in memory, too; a warm step is the same number of other completions with the models there. Importing
libraries counts for neither.
With `--share` the laptop config is trained on 64 completions a step, and the share of rewards in each step is told.
Run nothing else beside it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from medgrpo.answer import messages, render_gold, render_question
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_split
from medgrpo.policy import Policy, load_base
from medgrpo.rewards import PRESETS, Context, Reward, SemanticReward
from medgrpo.rewards.original import batch_perplexities
from medgrpo.rewards.scorer import forget_scorers, load_scorer
from medgrpo.rewards.scoring import RewardSet, prepared
from medgrpo.rewards.semantic import load_encoder
from medgrpo.rewards.trl import read_rollout
from medgrpo.settings import Settings
from medgrpo.stages import Stages
from medgrpo.tracking import history
from medgrpo.types import Example, Rollout

CONFIG = Path(__file__).parent.parent / "configs" / "laptop.toml"
GROUP = 8
WORKED = 2
"""Questions shown with their answers before each question."""
TEMPERATURE = 0.8


def sampled(config: Config, policy: Policy, worked: Sequence[Example], examples: Sequence[Example]) -> list[Rollout]:
    """`GROUP` completions of each example."""
    import torch

    from medgrpo.grpo.sampling import Decoding, sample

    torch.manual_seed(config.seed)
    end, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
    decoding = Decoding(config.grpo.max_completion_tokens, (end,), pad, TEMPERATURE)
    shown = tuple((render_question(example), render_gold(example)) for example in worked)
    rollouts = []
    for start in range(0, len(examples), GROUP):
        asked = [example for example in examples[start : start + GROUP] for _ in range(GROUP)]
        chats = [messages(config.prompt.system, shown, render_question(example)) for example in asked]
        prompts = [policy.prompt_tokens(chat) for chat in chats]
        rows = sample(policy.model, prompts, decoding).tokens
        texts = policy.tokenizer.batch_decode(rows, skip_special_tokens=True)
        rollouts += [
            read_rollout(example.model_dump_json(), text, len(row))
            for example, text, row in zip(asked, texts, rows, strict=True)
        ]
    return rollouts


def forget() -> None:
    """Drop every model that rewards have loaded."""
    forget_scorers()
    load_encoder.cache_clear()
    batch_perplexities.cache_clear()


def original_seconds(rewards: Sequence[Reward], rollouts: Sequence[Rollout], base: str) -> float:
    """The notebook's way: every row loads both models, also where it has no answer to score, and is scored alone."""
    start = time.perf_counter()
    for rollout in rollouts:
        forget()
        load_encoder(SemanticReward().encoder)
        load_scorer(base)
        RewardSet(rewards).totals([rollout])
    return time.perf_counter() - start


def our_seconds(rewards: Sequence[Reward], cold: Sequence[Rollout], warm: Sequence[Rollout]) -> tuple[float, float]:
    """Seconds for a first batch, models loaded in it, and for a second one."""
    forget()
    scorers = RewardSet(rewards)
    start = time.perf_counter()
    scorers.totals(cold)
    middle = time.perf_counter()
    scorers.totals(warm)
    return middle - start, time.perf_counter() - middle


def compare(rows: int, original_rows: int) -> None:
    """Time both ways on the same completions."""
    settings, config = Settings(), read_config(CONFIG)
    base = resolve(config.policy.base, settings)
    examples = read_split(prepare(config, base, settings), "train", settings)
    context = Context(base, examples, config.grpo.max_completion_tokens, settings)
    start = time.perf_counter()
    ours, original = prepared(PRESETS["default"], context), prepared(PRESETS["original"], context)
    for reward in (*ours, *original):
        reward.load()  # imports what it needs; the models are dropped again before anything is timed
    print(f"bands measured, once per machine          {time.perf_counter() - start:8.1f} s")
    questions = rows // GROUP
    worked, asked = examples[:WORKED], examples[WORKED : WORKED + 2 * questions]
    rollouts = sampled(config, load_base(base.folder), worked, asked)
    first, second = rollouts[: questions * GROUP], rollouts[questions * GROUP :]
    strict = statistics.mean(rollout.parsed.is_strict for rollout in first)
    print(f"completions                               {len(first):8}   of which {strict:.0%} follow the grammar")
    cold, warm = our_seconds(ours, first, second)
    print(f"default rewards, models loaded once       {cold:8.1f} s")
    print(f"default rewards, one warm step            {warm:8.1f} s")
    timed = original_seconds(original, first[:original_rows], base.folder)
    print(f"original, loaded again for each of {min(len(first), original_rows):6} {timed:8.1f} s")
    per_row = timed / min(len(first), original_rows)
    print(f"ratio for the same completions            {per_row * len(first) / cold:8.1f}x")


def share(steps: int) -> None:
    """Train on 64 completions a step in a home of its own; the rewards' share of each step's time."""
    overrides = ["grpo.prompts_per_step=8", f"grpo.steps={steps}", "grpo.checkpoints=1"]
    with tempfile.TemporaryDirectory() as home:
        stages = Stages(read_config(CONFIG, overrides), Settings(home=Path(home)))
        run = stages.training.run_id
        shares = [value for _, value in history(run, "train/rewards/share_of_step", stages.settings)]
        seconds = [value for _, value in history(run, "train/step_time", stages.settings)]
    print(f"seconds per step of 64 completions  median {statistics.median(seconds):.1f}")
    print(f"share of rewards per step           {' '.join(f'{value:.1%}' for value in shares)}")
    print(f"mean                                {statistics.mean(shares):.1%}")


def main() -> None:
    """Compare, or train and tell the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--original-rows", type=int, default=256)
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    if options.share:
        share(options.steps)
    else:
        compare(options.rows, options.original_rows)


if __name__ == "__main__":
    main()
