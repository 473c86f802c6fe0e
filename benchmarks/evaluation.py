"""Seconds to evaluate several checkpoints: one `evaluate_all` against a stock `generate` pass for each.

    medgrpo train configs/laptop.toml --set grpo.checkpoints=4
    python benchmarks/evaluation.py [--rows 256] [--checkpoints 4] [--random] [--set KEY=VALUE]

A stock pass is what a script would do for each checkpoint: load the base, put the adapter on it with PEFT, and call
transformers' `generate` on batches of as many rows, in the same order. The checkpoints are those of the config's
training, without the warm start; with --random they are random, which have little in common and so show the worst case.
Both complete the same prompts greedily, and the share of completions that are the same to the letter is printed.
Run nothing else beside it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgrpo.answer import messages, render_question
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_split
from medgrpo.evaluation import evaluate_all, read_rows
from medgrpo.policy import adapter_digest, attach, load_base, lora_settings
from medgrpo.settings import Settings
from medgrpo.stages import Stages
from medgrpo.types import BaseRef, CheckpointRef, Example


def make_adapter(config: Config, base: BaseRef, settings: Settings, step: int) -> CheckpointRef:
    """A checkpoint with small random weights."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(step)
    model = get_peft_model(load_base(base.folder, config.policy.dtype).model, lora_settings(config.policy.lora))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.01)
    with tempfile.TemporaryDirectory(dir=settings.root) as draft:
        model.save_pretrained(draft)
        digest = adapter_digest(Path(draft))
        target = settings.adapter(digest)
        target.mkdir(parents=True)
        for path in Path(draft).iterdir():
            path.rename(target / path.name)
    return CheckpointRef(train_key="benchmark", step=step, adapter_digest=digest)


def stock_pass(config: Config, base: BaseRef, adapter: Path, examples: Sequence[Example]) -> list[str]:
    """One checkpoint's completions, as transformers and PEFT make them."""
    import torch

    policy = attach(load_base(base.folder, config.policy.dtype), adapter)
    chats = [messages(config.prompt.system, config.prompt.shown, render_question(example)) for example in examples]
    prompts = [policy.prompt_tokens(chat) for chat in chats]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    completions = [""] * len(prompts)
    size = config.evaluation.batch_size
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        padded: Any = policy.tokenizer.pad({"input_ids": [prompts[row] for row in batch]}, return_tensors="pt")
        with torch.inference_mode():
            tokens = policy.model.generate(
                **padded.to(policy.model.device),
                do_sample=False,
                max_new_tokens=config.evaluation.max_completion_tokens,
                pad_token_id=policy.tokenizer.pad_token_id,
            )
        texts = policy.tokenizer.batch_decode(tokens[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(batch, texts, strict=True):
            completions[row] = text
    return completions


def trained(config: Config, own: Settings, settings: Settings) -> list[CheckpointRef]:
    """The checkpoints of the config's training, their adapters linked into another home."""
    stages = Stages(config, settings)
    checkpoints = [one for one in stages.training.checkpoints if one.step]
    own.adapter("x").parent.mkdir(parents=True)
    for one in checkpoints:
        own.adapter(one.adapter_digest).symlink_to(settings.adapter(one.adapter_digest))
    return checkpoints


def main() -> None:
    """Time both, print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "configs" / "laptop.toml")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the evaluation's")
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    config, settings = read_config(given.config, [f"data.validation_rows={given.rows}", *given.set]), Settings()
    base = resolve(config.policy.base, settings)
    dataset = prepare(config, base, settings)
    examples = read_split(dataset, "validation", settings)
    with tempfile.TemporaryDirectory(prefix="medgrpo-") as home:
        own = Settings(home=Path(home))
        own.dataset(dataset.key).parent.mkdir(parents=True)
        own.dataset(dataset.key).symlink_to(settings.dataset(dataset.key))
        if given.random:
            checkpoints = [make_adapter(config, base, own, step) for step in range(1, given.checkpoints + 1)]
        else:
            asked = read_config(given.config, [f"grpo.checkpoints={given.checkpoints}"])
            checkpoints = trained(asked, own, settings)
        start = time.perf_counter()
        reports = evaluate_all(config, base, dataset, checkpoints, "validation", own)
        ours = time.perf_counter() - start
        completions = [read_rows(report, own)["completion"].tolist() for report in reports]
        start = time.perf_counter()
        stock = [stock_pass(config, base, own.adapter(one.adapter_digest), examples) for one in checkpoints]
        theirs = time.perf_counter() - start
    pairs = [pair for mine, other in zip(completions, stock, strict=True) for pair in zip(mine, other, strict=True)]
    same = sum(mine == other for mine, other in pairs) / len(pairs)
    tokens = sum(report.completion_tokens.mean for report in reports) / len(reports)
    size, most = config.evaluation.batch_size, config.evaluation.max_completion_tokens
    print(f"{len(checkpoints)} checkpoints, {len(examples)} rows in batches of {size}, {tokens:.0f} of {most} tokens")
    print(f"evaluate_all {ours:.1f} s   stock passes {theirs:.1f} s   ratio {ours / theirs:.2f}   same {same:.3f}")


if __name__ == "__main__":
    main()
