"""Facts about rows, which the checks look at. A text fact is empty where all is well, and else says what isn't."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medgrpo.answer import is_correct, is_number, parse, render_gold
from medgrpo.config import Config
from medgrpo.data.checks import CheckName
from medgrpo.data.encoding import damage
from medgrpo.data.language import foreign
from medgrpo.data.patient_data import describe, mask, shown
from medgrpo.data.store import Measured, read_dropped, read_measured
from medgrpo.data.words import normalised, numbers, stable_hash
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, DatasetRef, Drop, DropReason, Example, Origin, Split

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 10_000
"""Rows whose facts are found at once."""
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
    import joblib
    import pandas as pd

    chunks = [(split, start) for split in SPLITS for start in range(0, dataset.rows[split], CHUNK)]
    # One process a core, but none for what is sooner done than a process has started.
    workers = joblib.Parallel(n_jobs=-1 if len(chunks) > len(SPLITS) else 1)
    kept = workers(
        joblib.delayed(_of_chunk)(dataset, split, start, config.data.language, settings) for split, start in chunks
    )
    dropped = [_of_dropped(row, drop) for row, drop in read_dropped(dataset, settings)]
    rows = pd.concat([*kept, pd.DataFrame(dropped)], ignore_index=True)
    return _with_leaks(rows)


def _of_chunk(
    dataset: DatasetRef, split: Split, start: int, expected_language: str, settings: Settings
) -> "pd.DataFrame":
    """Facts of some rows of a split; apart from the others, so that another process can find them."""
    import pandas as pd

    rows = read_measured(dataset, split, settings, start, CHUNK)
    return pd.DataFrame([_of_kept(row, split, expected_language) for row in rows])


def _with_leaks(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows with the fact that looks at two splits at once: which held-out questions are trained on."""
    trained = rows.loc[rows["split"] == "train", "words"]
    leaks = rows["words"].isin(trained) & rows["split"].isin(["validation", "test"])
    rows["no_held_out_leak"] = rows["words"].isna().map({True: None, False: ""})
    rows.loc[leaks, "no_held_out_leak"] = "a train row has the same question"
    return rows


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


def _of_kept(row: Measured, split: Split, expected_language: str) -> dict[str, Any]:
    example = row.example
    all_text = "\n".join(_texts(example))
    return {
        "id": example.id,
        "split": split,
        "words": _words(example),
        "kind": example.kind,
        "gold": example.gold,
        "question_length": len(example.question),
        "gold_length": len(example.gold),
        "option_count": len(example.options) if example.kind == "choice" else None,
        "options_distinct": _repeated_option(example),
        "gold_provable": _unproven(example),
        "no_patient_data": describe(all_text),
        "text_intact": _damage(all_text),
        "language": foreign(example.question, expected_language) if expected_language else "",
        "gold_fits_completion": row.gold_tokens,
        **dict.fromkeys(DROP_CHECKS.values(), ""),
    }


def _of_dropped(row: Measured, drop: Drop) -> dict[str, Any]:
    return {"id": row.example.id, DROP_CHECKS[drop.reason]: drop.detail}


def _damage(text: str) -> str:
    """What is damaged, and the characters around it, unless they are patient data."""
    found = damage(text)
    return found and (damage(mask(text)) or "damaged patient data")


def _texts(example: Example) -> Iterator[str]:
    yield from (example.id, example.question, example.gold, example.reasoning, example.original, example.topic)
    yield from example.options.values()


def _words(example: Example) -> bytes:
    """What two rows with the same question, numbers with their signs, and options have in common."""
    options = sorted(normalised(text) for text in example.options.values())
    return stable_hash("\n".join([normalised(example.question), *numbers(example.question), *options]))


def _repeated_option(example: Example) -> str:
    letters: dict[str, list[str]] = defaultdict(list)
    for letter, text in example.options.items():
        letters[" ".join(text.casefold().split())].append(letter)
    return "; ".join(f"options {' and '.join(same)} are the same" for same in letters.values() if len(same) > 1)


def _unproven(example: Example) -> str:
    """Why the gold can't be proven: in the grammar it must be judged right, and an empty answer must not."""
    if example.kind == "numeric" and not is_number(example.gold):
        return f"the gold is no number: {shown(example.gold)!r}"
    gold = parse(render_gold(example))
    if not gold.is_strict:
        return f"the gold breaks the answer grammar: {', '.join(gold.faults)}"
    if not is_correct(gold.answer, example):
        return f"the gold is not judged right: {shown(example.gold)!r}"
    return "an empty answer is judged right" if is_correct("", example) else ""
