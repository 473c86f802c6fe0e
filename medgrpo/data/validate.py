"""Validate: a Great Expectations suite over all splits. Critical failures stop a run; every failure names its rows."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.data.prepare import gold_is_provable
from medgrpo.data.store import read_split
from medgrpo.errors import ValidationFailed
from medgrpo.fingerprint import write_whole
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, DatasetRef, ExpectationResult, ValidationReport

if TYPE_CHECKING:
    import pandas as pd

SUITE = 1
"""Version of the expectations; raise it when they change."""
NAMED_ROWS = 20
MAX_CHARACTERS = 20_000
"""Longest question or gold, in characters; longer ones are damage, not questions."""


def validate(dataset: DatasetRef, settings: Settings) -> ValidationReport:
    """Check a prepared dataset; the report is written beside it either way.

    Raises:
        ValidationFailed: a critical expectation failed; the message names it and its rows.
    """
    report = read_report(dataset, settings)
    if report is None:
        report = ValidationReport(dataset_key=dataset.key, results=_run_suite(_table(dataset, settings)))
        write_whole(report_path(dataset, settings), report.model_dump_json(indent=1))
    if failures := report.critical_failures:
        lines = [
            f"  {failure.name}: {failure.detail or f'{failure.bad_count} rows: ' + ', '.join(failure.bad_ids)}"
            for failure in failures
        ]
        raise ValidationFailed("the questions failed critical expectations:\n" + "\n".join(lines))
    return report


def report_path(dataset: DatasetRef, settings: Settings) -> Path:
    """Where the report of a dataset lies."""
    return settings.dataset(dataset.key) / f"validation-{SUITE}.json"


def read_report(dataset: DatasetRef, settings: Settings) -> ValidationReport | None:
    """The stored report of a dataset, or None."""
    path = report_path(dataset, settings)
    return ValidationReport.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _table(dataset: DatasetRef, settings: Settings) -> "pd.DataFrame":
    """All rows of all splits, with the columns that the expectations look at."""
    import pandas as pd

    rows = []
    for split in SPLITS:
        for example in read_split(dataset, split, settings):
            texts = [text.casefold().strip() for text in example.options.values()]
            rows.append(
                {
                    "id": example.id,
                    "split": split,
                    "kind": example.kind,
                    "question": example.question,
                    "gold": example.gold,
                    "question_characters": len(example.question),
                    "gold_characters": len(example.gold),
                    "option_count": len(example.options) if example.kind == "choice" else 2,
                    "options_distinct": len(set(texts)) == len(texts),
                    "gold_provable": _provable(example),
                    "question_key": " ".join(example.question.casefold().split()) + "|" + "|".join(texts),
                }
            )
    table = pd.DataFrame(rows)
    trained_on = set(table.loc[table["split"] == "train", "question_key"])
    table["held_out_and_trained_on"] = (table["split"] != "train") & table["question_key"].isin(trained_on)
    return table


def _provable(example: Any) -> bool:
    try:
        return gold_is_provable(example)
    except ValueError:  # a numeric gold that is no number
        return False


def _expectations() -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeUnique(column="id", severity="critical"),
        gxe.ExpectColumnValuesToNotBeNull(column="question", severity="critical"),
        gxe.ExpectColumnValuesToNotBeNull(column="gold", severity="critical"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["choice", "numeric", "text"], severity="critical"),
        gxe.ExpectColumnValuesToBeBetween(
            column="question_characters", min_value=5, max_value=MAX_CHARACTERS, severity="critical"
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="gold_characters", min_value=1, max_value=MAX_CHARACTERS, severity="critical"
        ),
        gxe.ExpectColumnValuesToBeBetween(column="option_count", min_value=2, max_value=10, severity="critical"),
        gxe.ExpectColumnValuesToBeInSet(column="options_distinct", value_set=[True], severity="critical"),
        gxe.ExpectColumnValuesToBeInSet(column="gold_provable", value_set=[True], severity="critical"),
        gxe.ExpectColumnValuesToBeInSet(column="held_out_and_trained_on", value_set=[False], severity="critical"),
        gxe.ExpectColumnValuesToBeUnique(column="question_key", severity="warning"),
    ]


def _run_suite(table: "pd.DataFrame") -> tuple[ExpectationResult, ...]:
    """Run the suite in a context that lives in memory and sends nothing anywhere."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it set itself to INFO
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("questions")
        .add_dataframe_asset("splits")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": table})
    )
    suite = gx.ExpectationSuite(name="questions", expectations=_expectations())
    wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
    outcome = batch.validate(suite, result_format=wanted)
    return tuple(_read_result(result) for result in outcome.results)


def _read_result(result: Any) -> ExpectationResult:
    expectation = result.expectation_config
    found = result.result.get("unexpected_index_list") or []
    bad_ids = [str(entry["id"]) for entry in found]
    return ExpectationResult(
        name=f"{expectation.type}({expectation.kwargs.get('column')})",
        severity=str(getattr(expectation.severity, "value", expectation.severity)),
        success=bool(result.success),
        bad_ids=tuple(bad_ids[:NAMED_ROWS]),
        bad_count=len(bad_ids),
        detail=str(result.exception_info.get("exception_message") or "") if result.exception_info else "",
    )
