"""Facts: what the checks look at, a row per source row. A text fact is empty where all is well, else says what isn't."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medgrpo.answer import is_correct, parse, render_gold
from medgrpo.config import Config
from medgrpo.data.checks import CheckName
from medgrpo.data.encoding import damage
from medgrpo.data.language import foreign
from medgrpo.data.patient_data import describe, mask
from medgrpo.data.store import Measured, read_dropped, read_measured
from medgrpo.data.words import words
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, DatasetRef, Drop, DropReason, Example, Origin, Split

if TYPE_CHECKING:
    import pandas as pd

DROP_CHECKS: dict[DropReason, CheckName] = {
    "exact duplicate": "no_exact_duplicate",
    "near duplicate": "no_near_duplicate",
    "contradiction": "no_contradiction",
    "benchmark overlap": "no_benchmark_overlap",
    "prompt too long": "prompt_fits",
}
"""Reason for which prepare drops a row → the check that reports it."""
DESCRIBED: tuple[CheckName, ...] = (
    "options_distinct",
    "gold_provable",
    "no_held_out_leak",
    "no_patient_data",
    "text_intact",
    "language",
)
"""Checks whose fact is a text that is empty where all is well."""


def row_facts(config: Config, dataset: DatasetRef, settings: Settings) -> "pd.DataFrame":
    """Facts of all source rows: of the dropped ones only their id and why they were dropped."""
    import pandas as pd

    kept = [(split, row) for split in SPLITS for row in read_measured(dataset, split, settings)]
    trained = {_key(row.example) for split, row in kept if split == "train"}
    facts = [_of_kept(row, split, config.data.language, trained) for split, row in kept]
    facts += [_of_dropped(row, drop) for row, drop in read_dropped(dataset, settings)]
    return pd.DataFrame(facts)


def set_facts(origin: Origin, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Facts of the set as a whole, as one row: its licence, and how uneven the letters of its golds are."""
    import pandas as pd

    choices = rows[rows["kind"] == "choice"]
    balance = majority_accuracy(choices) * choices["option_count"].mean() if len(choices) else None
    fact = {"id": "(the set)", "licence_allowed": origin.licence or None, "licence_present": origin.licence or None}
    return pd.DataFrame([fact | {"label_balance": balance}])


def majority_accuracy(rows: "pd.DataFrame") -> float:
    """Accuracy of always giving the gold that is most frequent in these rows."""
    return float(rows["gold"].value_counts(normalize=True).max())


def _of_kept(row: Measured, split: Split, expected_language: str, trained: set[str]) -> dict[str, Any]:
    example = row.example
    all_text = "\n".join(_texts(example))
    return {
        "id": example.id,
        "kind": example.kind,
        "gold": example.gold,
        "question_length": len(example.question),
        "gold_length": len(example.gold),
        "option_count": len(example.options) if example.kind == "choice" else None,
        "options_distinct": _repeated_option(example),
        "gold_provable": _unproven(example),
        "no_held_out_leak": "a train row has the same question" if _leaks(example, split, trained) else "",
        "no_patient_data": describe(all_text),
        "text_intact": damage(all_text),
        "language": foreign(example.question, expected_language) if expected_language else "",
        "gold_fits_completion": row.gold_tokens,
        **dict.fromkeys(DROP_CHECKS.values(), ""),
    }


def _of_dropped(row: Measured, drop: Drop) -> dict[str, Any]:
    return {"id": row.example.id, DROP_CHECKS[drop.reason]: drop.detail}


def _texts(example: Example) -> Iterator[str]:
    yield from (
        example.id,
        example.question,
        example.gold,
        *example.options.values(),
        example.reasoning,
        example.original,
    )


def _key(example: Example) -> str:
    return " ".join(
        [*words(example.question), "|", *sorted(" ".join(words(text)) for text in example.options.values())]
    )


def _leaks(example: Example, split: Split, trained: set[str]) -> bool:
    return split != "train" and _key(example) in trained


def _repeated_option(example: Example) -> str:
    letters: dict[str, list[str]] = defaultdict(list)
    for letter, text in example.options.items():
        letters[" ".join(text.casefold().split())].append(letter)
    return "; ".join(f"options {' and '.join(same)} are the same" for same in letters.values() if len(same) > 1)


def _unproven(example: Example) -> str:
    """Why the gold can't be proven: in the grammar it must be judged right, and an empty answer must not."""
    try:
        gold = parse(render_gold(example))
        if not gold.is_strict:
            return f"the gold breaks the answer grammar: {', '.join(gold.faults)}"
        if not is_correct(gold.answer, example):
            return f"the gold is not judged right: {mask(example.gold[:80])!r}"
        return "an empty answer is judged right" if is_correct("", example) else ""
    except ValueError:
        return f"the gold is no number: {mask(example.gold[:80])!r}"
