"""A stored evaluation in the shape that lm-evaluation-harness writes: results as JSON, and a line per row."""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgrpo import __version__
from medgrpo.answer import messages
from medgrpo.config import Config
from medgrpo.data.store import read_benchmark, read_split
from medgrpo.errors import UserError
from medgrpo.evaluation import read_rows
from medgrpo.interchange.task import METRICS, as_doc, write_task
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, EvalReport

COLUMNS = dict(zip(METRICS, ("correct", "lenient", "strict"), strict=True))
"""Metric → its column in the stored per-row table."""


def write_results(
    config: Config, base: BaseRef, dataset: DatasetRef, reports: Sequence[EvalReport], folder: Path, settings: Settings
) -> list[Path]:
    """Write reports on one set of rows, and the task that asks for the same; the results' files.

    Args:
        folder: gets the task's files, and for each report a folder with results and a line per row.

    Raises:
        UserError: the folder can't be written to.
    """
    first = reports[0]
    examples = (
        read_benchmark(dataset, first.benchmark, settings)
        if first.benchmark
        else read_split(dataset, first.split, settings)
    )
    name = write_task(config, examples, first.rows_name, folder)
    docs = [as_doc(example) for example in examples]
    prompts = _prompts(config, base, [doc["question"] for doc in docs])
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    written = []
    for report in reports:
        rows = _samples(docs, prompts, read_rows(report, settings).to_dict("records"), config)
        target = folder / report.checkpoint.label.replace(" ", "-")
        results = _results(config, base, report, name, rows)
        try:
            target.mkdir(exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (target / f"samples_{name}_{stamp}.jsonl").write_text(lines, encoding="utf-8")
            path = target / f"results_{stamp}.json"
            path.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise UserError(f"can't write to {target}: {error.strerror}") from error
        written.append(path)
    return written


def _prompts(config: Config, base: BaseRef, questions: Sequence[str]) -> list[str]:
    """The prompts as text, in the base model's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    chats = [messages(config.prompt.system, config.prompt.shown, question) for question in questions]
    return [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]


def _samples(
    docs: Sequence[dict[str, str]], prompts: Sequence[str], rows: Sequence[dict[Any, Any]], config: Config
) -> list[dict[str, Any]]:
    """One line per row, with the keys that the harness gives them."""
    asked = {"until": [], "do_sample": False, "max_gen_toks": config.evaluation.max_completion_tokens}
    return [
        {
            "doc_id": number,
            "doc": doc,
            "target": doc["gold"],
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": asked}},
            "resps": [[row["completion"]]],
            "filtered_resps": [row["completion"]],
            "filter": "none",
            "metrics": list(METRICS),
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(doc["gold"]),
        }
        | {metric: float(row[column]) for metric, column in COLUMNS.items()}
        for number, (doc, prompt, row) in enumerate(zip(docs, prompts, rows, strict=True))
    ]


def _results(
    config: Config, base: BaseRef, report: EvalReport, name: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"alias": name}
    for metric in METRICS:
        values = [row[metric] for row in rows]
        figures[f"{metric},none"] = statistics.fmean(values)
        figures[f"{metric}_stderr,none"] = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {
        "results": {name: figures},
        "group_subtasks": {},
        "configs": {name: {"task": name, "output_type": "generate_until", "num_fewshot": len(config.prompt.shown)}},
        "versions": {name: 1},
        "n-shot": {name: len(config.prompt.shown)},
        "higher_is_better": {name: dict.fromkeys(METRICS, True)},
        "n-samples": {name: {"original": len(rows), "effective": len(rows)}},
        "config": {
            "model": "medgrpo",
            "model_args": {
                "base": base.name,
                "base_digest": base.digest,
                "adapter_digest": report.checkpoint.adapter_digest,
                "checkpoint": report.checkpoint.label,
                "rows_digest": report.rows_digest,
                "evaluation": report.key,
                "medgrpo": __version__,
            },
        },
        "task_hashes": {name: _hash("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in rows))},
        "model_name": f"{config.name} {report.checkpoint.label}",
        "system_instruction": config.prompt.system,
        "date": time.time(),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
