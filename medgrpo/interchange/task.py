"""Rows as a task of lm-evaluation-harness, so that it can ask any of its models the same questions in the same form.

Two files of settings come beside the rows. `NAME.yaml` scores by this project's judge, all kinds of questions;
`NAME_letters.yaml` needs nothing of this project: choices alone, by a regular expression and `exact_match`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medgrpo.answer import render_question
from medgrpo.config import Config
from medgrpo.errors import UserError
from medgrpo.types import Example

SCORER = "medgrpo_score"
METRICS = ("acc", "acc_lenient", "format")
"""Right in the strict grammar; right with format faults forgiven; in the strict grammar."""
LETTER = (
    r"\A\s*<reasoning>(?:(?!</?(?:reasoning|answer)>)[\s\S])*</reasoning>\s*"
    r"<answer>\s*[(\[]?([A-Za-z])[)\].:]?\s*</answer>\s*\Z"
)
"""A completion in the strict grammar whose answer is a letter. It doesn't ask that the reasoning says something."""


def task_name(config: Config, rows_name: str) -> str:
    """The task's name in lm-evaluation-harness."""
    return "_".join(["medgrpo", config.name, rows_name]).replace("-", "_")


def as_doc(example: Example) -> dict[str, str]:
    """A row as the harness knows it: the question as it is asked, the gold, and the whole example for the judge."""
    return {
        "id": example.id,
        "question": render_question(example),
        "gold": example.gold,
        "example": example.model_dump_json(),
    }


def score(doc: dict[str, Any], completions: Sequence[str]) -> dict[str, float]:
    """The harness's `process_results`: the three metrics of a completion, by parser and judge of evaluation."""
    from medgrpo.answer import parse
    from medgrpo.judge import is_correct

    parsed = parse(completions[0])
    right = is_correct(parsed.answer, Example.model_validate_json(doc["example"]))
    values = (parsed.is_strict and right, right, parsed.is_strict)
    return {metric: float(value) for metric, value in zip(METRICS, values, strict=True)}


def write_task(config: Config, examples: Sequence[Example], rows_name: str, folder: Path) -> str:
    """Write a task's files into a folder; the task's name.

    Raises:
        UserError: the folder can't be written to.
    """
    name = task_name(config, rows_name)
    choices = [example for example in examples if example.kind == "choice"]
    files = {
        f"{name}.jsonl": _lines(examples),
        f"{SCORER}.py": '"""Lets the tasks beside it be scored by medgrpo."""\n\n'
        "from medgrpo.interchange.task import score  # noqa: F401\n",
        # The harness's own tag for a function, which no YAML writer knows.
        f"{name}.yaml": _dump(_judged(config, name)) + f"process_results: !function {SCORER}.score\n",
    }
    if choices:
        files |= {
            f"{name}_letters.jsonl": _lines(choices),
            f"{name}_letters.yaml": _dump(_lettered(config, f"{name}_letters")),
        }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write to {folder}: {error.strerror}") from error
    return name


def _lines(examples: Sequence[Example]) -> str:
    return "".join(json.dumps(as_doc(example), ensure_ascii=False) + "\n" for example in examples)


def _dump(settings: dict[str, Any]) -> str:
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000))


def _judged(config: Config, name: str) -> dict[str, Any]:
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS]
    return _asked(config, name) | {"metric_list": metrics}


def _lettered(config: Config, name: str) -> dict[str, Any]:
    strict = {"name": "strict", "filter": [{"function": "regex", "regex_pattern": LETTER}, {"function": "take_first"}]}
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
    return _asked(config, name) | {"filter_list": [strict], "metric_list": [metric]}


def _asked(config: Config, name: str) -> dict[str, Any]:
    """How questions are asked: as in evaluation, with `--apply_chat_template --fewshot_as_multiturn`."""
    shown = [{"question": question, "completion": completion} for question, completion in config.prompt.shown]
    settings: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "description": f"{{% raw %}}{config.prompt.system}{{% endraw %}}" if config.prompt.system else "",
        "doc_to_text": "question",
        "doc_to_target": "gold",
        # The harness joins question and answer by them where it shows worked questions.
        "target_delimiter": "",
        "fewshot_delimiter": "",
        "num_fewshot": len(shown),
        "generation_kwargs": {
            "until": [],
            "do_sample": False,
            "max_gen_toks": config.evaluation.max_completion_tokens,
        },
        "metadata": {"version": 1},
    }
    if shown:
        settings["fewshot_config"] = {"sampler": "first_n", "samples": shown, "doc_to_target": "{{completion}}"}
    return settings
