"""Facts about rows, which the checks look at. A text fact is empty where all is well, and else says what isn't."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medgrpo.answer import parse, render_gold
from medgrpo.config import Config
from medgrpo.data.checks import CheckName
from medgrpo.data.encoding import find_damage
from medgrpo.data.language import find_foreign
from medgrpo.data.patient_data import describe, mask, shown
from medgrpo.data.store import GROUP, Measured, read_dropped, read_measured
from medgrpo.data.words import joined_words, numbers, stable_hash
from medgrpo.judge import comparable, is_correct, is_number, is_range
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
    "unique_ids",
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

    groups = [(split, group) for split in SPLITS for group in range(-(-dataset.rows[split] // GROUP))]
    # One process a core, but none for what is sooner done than a process has started.
    workers = joblib.Parallel(n_jobs=-1 if len(groups) > len(SPLITS) else 1)
    kept = workers(
        joblib.delayed(_of_group)(dataset, split, group, config.data.language, settings) for split, group in groups
    )
    dropped = [_of_dropped(row, drop) for row, drop in read_dropped(dataset, settings)]
    return pd.concat([_compared(pd.concat(kept)), pd.DataFrame(dropped)], ignore_index=True)


def _of_group(
    dataset: DatasetRef, split: Split, group: int, expected_language: str, settings: Settings
) -> "pd.DataFrame":
    """Facts of some rows of a split; apart from the others, so that another process can find them."""
    import pandas as pd

    rows = read_measured(dataset, split, settings, group)
    return pd.DataFrame([_of_kept(row, split, expected_language) for row in rows])


def _compared(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The kept rows with the facts that look at several of them: repeated ids, and held-out questions trained on."""
    is_trained = rows["split"] == "train"
    leaks = rows["words"].isin(rows.loc[is_trained, "words"]) & ~is_trained
    times = rows.groupby("id")["id"].transform("size")
    return rows.assign(
        no_held_out_leak=leaks.map({True: "a train row has the same question", False: ""}),
        unique_ids=["" if count == 1 else f"{count} rows have this id" for count in times],
        id=[mask(row) for row in rows["id"]],
    )


def set_facts(config: Config, origin: Origin, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Facts of the set as a whole, as one row: its licence, and how uneven the letters of its golds are."""
    import pandas as pd

    choices = rows[rows["kind"] == "choice"]
    chance = (1 / choices["option_count"].astype(float).clip(lower=1)).mean()
    balance = majority_accuracy(choices) / chance if len(choices) else None
    licence = origin.licence
    allowed = not licence or licence in config.data.allowed_licences
    fact = {
        "id": "(the set)",
        "licence_allowed": "" if allowed else f"{licence!r} is none of {', '.join(config.data.allowed_licences)}",
        "licence_present": "" if licence else 'give data.source.licence an SPDX identifier, or "own"',
        "label_balance": balance,
    }
    return pd.DataFrame([fact])


def majority_accuracy(rows: "pd.DataFrame") -> float:
    """Accuracy of always giving the gold that is most frequent in these rows."""
    return float(rows["gold"].value_counts(normalize=True).max())


def _of_kept(row: Measured, split: Split, expected_language: str) -> dict[str, Any]:
    example = row.example
    all_text = "\n".join(_texts(example))
    return {
        "id": example.id,
        "split": split,
        "words": question_hash(example),
        "kind": example.kind,
        "gold": example.gold,
        "question_length": len(example.question),
        "gold_length": len(example.gold),
        "option_count": len(example.options) if example.kind == "choice" else None,
        "options_distinct": _repeated_option(example),
        "gold_provable": unproven(example),
        "no_patient_data": describe(all_text),
        "text_intact": _damage(all_text),
        "language": find_foreign(example.question, expected_language) if expected_language else "",
        "gold_fits_completion": row.gold_tokens,
        **dict.fromkeys(DROP_CHECKS.values(), ""),
    }


def _of_dropped(row: Measured, drop: Drop) -> dict[str, Any]:
    return {"id": mask(row.example.id), DROP_CHECKS[drop.reason]: drop.detail}


def _damage(text: str) -> str:
    """What is damaged, and the characters around it, unless they are patient data."""
    found = find_damage(text)
    return found and (find_damage(mask(text)) or "damaged patient data")


def _texts(example: Example) -> Iterator[str]:
    yield from (example.id, example.question, example.gold, example.reasoning, example.original, example.topic)
    yield from (*example.options.values(), *example.aliases)


def question_hash(example: Example) -> bytes:
    """What two rows with the same question, numbers with their signs, and options have in common."""
    options = sorted(joined_words(text) for text in example.options.values())
    return stable_hash("\n".join([joined_words(example.question), *numbers(example.question), *options]))


def _repeated_option(example: Example) -> str:
    letters: dict[str, list[str]] = defaultdict(list)
    for letter, text in example.options.items():
        letters[comparable(text)].append(letter)
    return "; ".join(f"options {' and '.join(same)} are the same" for same in letters.values() if len(same) > 1)


def unproven(example: Example) -> str:
    """Why the gold can't be proven: in the grammar it must be judged right, and an empty answer must not."""
    if example.kind == "numeric" and not is_number(example.gold):
        return f"the gold is no number: {shown(example.gold)!r}"
    if example.kind == "range" and not is_range(example.gold):
        return f"the gold is no range such as 3.5-5.0: {shown(example.gold)!r}"
    gold = parse(render_gold(example))
    if not gold.is_strict:
        return f"the gold or its reasoning breaks the answer grammar: {', '.join(gold.faults)}"
    if not is_correct(gold.answer, example):
        return f"the gold is not judged right: {shown(example.gold)!r}"
    return "an empty answer is judged right" if is_correct("", example) else ""
