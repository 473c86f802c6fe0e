"""Evaluate: greedy completions of one policy on one split, judged in the strict grammar, with intervals.

An answer counts as right only in a completion that follows the grammar: a format fault is a wrong answer.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.answer import messages, parse, render_question
from medgrpo.config import Config, EvaluationConfig
from medgrpo.data.store import read_split
from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import write_whole
from medgrpo.judge import is_correct
from medgrpo.keys import eval_key
from medgrpo.policy import Policy, adapter_digest, attach, load_base
from medgrpo.progress import track
from medgrpo.settings import Settings
from medgrpo.statistics import bootstrap_interval
from medgrpo.tracking import is_foreign, log_evaluation, log_rows
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Example, Interval, RunRef, Split

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def evaluate(
    config: Config, base: BaseRef, dataset: DatasetRef, checkpoint: CheckpointRef, split: Split, settings: Settings
) -> EvalReport:
    """Evaluate a checkpoint (or the base model) on a split; a second call finds the report again.

    Raises:
        NotFoundError: the checkpoint's adapter or the dataset isn't on this disk.
    """
    key = eval_key(config, dataset, base, checkpoint, split)
    if report := read_report(key, settings):
        return report.model_copy(update={"checkpoint": checkpoint})
    examples = read_split(dataset, split, settings)
    policy = load_base(base.folder, config.policy.dtype, config.policy.load_in_4bit)
    if not checkpoint.is_base:
        policy = attach(policy, adapter_folder(checkpoint, settings))
    name = checkpoint.label
    completions = generate(policy, config, examples, f"evaluate {name} on {split}")
    rows = judge(examples, completions, policy)
    report = summarize(rows, key, checkpoint, dataset, split, config.evaluation)
    folder = settings.evaluation(key)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "rows.parquet")
    write_whole(folder / "report.json", report.model_dump_json(indent=1))
    log.info("%s on %s: accuracy %s, format rate %s", name, split, report.accuracy, report.format_rate)
    return report


def publish(run: RunRef, dataset: DatasetRef, report: EvalReport, settings: Settings) -> None:
    """Store a report in MLflow: figures tied to the checkpoint and to the rows' digest, and the per-row table."""
    checkpoint = report.checkpoint
    adapter = None if checkpoint.is_base else adapter_folder(checkpoint, settings)
    log_evaluation(run, dataset, report, adapter, settings)
    step = "incumbent" if is_foreign(checkpoint, run) else f"step-{checkpoint.step:06d}"
    name = "base" if checkpoint.is_base else step
    log_rows(run.run_id, f"evaluation-{report.split}-{name}", read_rows(report, settings), settings)


def read_report(key: str, settings: Settings) -> EvalReport | None:
    """The stored report of an evaluation, or None."""
    path = settings.evaluation(key) / "report.json"
    return EvalReport.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_rows(report: EvalReport, settings: Settings) -> "pd.DataFrame":
    """The per-row table behind a report."""
    import pandas as pd

    return pd.read_parquet(settings.evaluation(report.key) / "rows.parquet")


def adapter_folder(checkpoint: CheckpointRef, settings: Settings) -> Path:
    """Folder of a checkpoint's adapter, verified against its digest.

    Raises:
        NotFoundError: it isn't there, or isn't what was stored.
    """
    folder = settings.adapter(checkpoint.adapter_digest)
    if not folder.is_dir():
        raise NotFoundError(f"the adapter {checkpoint.adapter_digest} is not in {settings.root}: train again")
    if adapter_digest(folder) != checkpoint.adapter_digest:
        raise NotFoundError(f"the adapter in {folder} was changed: remove the folder and train again")
    return folder


def best(reports: Sequence[EvalReport]) -> EvalReport:
    """The report with the highest accuracy, then format rate; among equals the earliest step. The base can't win."""
    checkpoints = [report for report in reports if not report.checkpoint.is_base]
    return min(checkpoints, key=lambda r: (-r.accuracy.mean, -r.format_rate.mean, r.checkpoint.step))


def generate(policy: Policy, config: Config, examples: Sequence[Example], title: str) -> list[str]:
    """Greedy completions, one per example, in order. Prompts of similar length are generated together."""
    from medgrpo.generation import Completer

    prompt = config.prompt
    chats = [messages(prompt.system, prompt.shown, render_question(example)) for example in examples]
    prompts = [policy.prompt_tokens(chat) for chat in chats]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    size = config.evaluation.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    completer = Completer(policy, config.evaluation.max_completion_tokens)
    completions = [""] * len(prompts)
    for batch in track(batches, title):
        texts = completer.complete([prompts[row] for row in batch])
        for row, text in zip(batch, texts, strict=True):
            completions[row] = text
    return completions


def judge(examples: Sequence[Example], completions: Sequence[str], policy: Policy) -> "pd.DataFrame":
    """The per-row table: what was asked, what was said, and whether it was right."""
    import pandas as pd

    rows = [_judge_row(example, text, policy) for example, text in zip(examples, completions, strict=True)]
    return pd.DataFrame(rows)


def _judge_row(example: Example, completion: str, policy: Policy) -> dict[str, Any]:
    parsed = parse(completion)
    return {
        "id": example.id,
        "topic": example.topic,
        "kind": example.kind,
        "question": render_question(example),
        "gold": example.gold,
        "answer": parsed.answer,
        "correct": parsed.is_strict and is_correct(parsed.answer, example),
        "strict": parsed.is_strict,
        "faults": ", ".join(parsed.faults),
        "completion_tokens": len(policy.tokenizer(completion, add_special_tokens=False)["input_ids"]),
        "completion": completion,
    }


def summarize(
    rows: "pd.DataFrame",
    key: str,
    checkpoint: CheckpointRef,
    dataset: DatasetRef,
    split: Split,
    evaluation: EvaluationConfig,
) -> EvalReport:
    """All figures of a report, from its per-row table."""

    def interval(values: Iterable[float]) -> Interval:
        return bootstrap_interval([float(v) for v in values], evaluation.confidence, evaluation.resamples)

    by_topic: dict[str, list[float]] = defaultdict(list)
    for topic, correct in zip(rows["topic"], rows["correct"], strict=True):
        by_topic[topic].append(correct)
    return EvalReport(
        key=key,
        checkpoint=checkpoint,
        split=split,
        rows_digest=dataset.digests[split],
        rows=len(rows),
        accuracy=interval(rows["correct"]),
        format_rate=interval(rows["strict"]),
        completion_tokens=interval(rows["completion_tokens"]),
        topics={topic: interval(values) for topic, values in sorted(by_topic.items())},
        correct=tuple(bool(value) for value in rows["correct"]),
    )
