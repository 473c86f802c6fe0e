"""Judge greedy completions, row by row: only what follows the strict grammar is right, a format fault is wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medgrpo.answer import parse, render_question
from medgrpo.evaluation.refusals import is_refusal
from medgrpo.evaluation.slices import find_slices
from medgrpo.judge import is_correct
from medgrpo.types import Example

if TYPE_CHECKING:
    import pandas as pd


def judge(examples: Sequence[Example], completions: Sequence[str], tokenizer: Any) -> "pd.DataFrame":
    """The per-row table: what was asked, what was said, whether it was right, and with format faults forgiven."""
    import pandas as pd

    rows = [_judge_row(example, text, tokenizer) for example, text in zip(examples, completions, strict=True)]
    return pd.DataFrame(rows)


def _judge_row(example: Example, completion: str, tokenizer: Any) -> dict[str, Any]:
    parsed = parse(completion)
    is_right = is_correct(parsed.answer, example)
    return {
        "id": example.id,
        "topic": example.topic,
        "slices": " ".join(find_slices(example.question)),
        "kind": example.kind,
        "question": render_question(example),
        "gold": example.gold,
        "answer": parsed.answer,
        "correct": parsed.is_strict and is_right,
        "lenient": is_right,
        "strict": parsed.is_strict,
        "refused": is_refusal(completion, parsed),
        "faults": ", ".join(parsed.faults),
        "completion_tokens": len(tokenizer(completion, add_special_tokens=False)["input_ids"]),
        "completion": completion,
    }
