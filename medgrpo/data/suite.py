"""The suite: the checks as Great Expectations, run over the facts of a dataset."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medgrpo.config import Config
from medgrpo.data.checks import CHECKS, MAX_CHARACTERS, CheckName
from medgrpo.data.facts import DESCRIBED, DROP_CHECKS
from medgrpo.errors import MedgrpoError
from medgrpo.types import BadRow, ExpectationResult

if TYPE_CHECKING:
    import pandas as pd

NAMED_ROWS = 20
IMBALANCE = 1.5
"""Always giving one letter may be right this many times as often as chance."""


def run_suite(config: Config, tables: "dict[str, pd.DataFrame]") -> list[ExpectationResult]:
    """Run all checks in a context that lives in memory and sends nothing anywhere.

    Args:
        tables: facts about the `rows`, and about the `set` as a whole.
    """
    context = _context(mode="ephemeral")
    wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
    results: list[ExpectationResult] = []
    for name, suite in _suites(config).items():
        batch = _batch(context, name).get_batch({"dataframe": tables[name]})
        results += map(_read_result, batch.validate(suite, result_format=wanted).results)
    order = [*CHECKS]
    return sorted(results, key=lambda result: order.index(cast(CheckName, result.name)))


def write_data_docs(config: Config, tables: "dict[str, pd.DataFrame]", folder: Path) -> None:
    """Run the same checks in a context of files, for Great Expectations' own pages (they load styles from the web)."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    context = _context(mode="file", project_root_dir=folder)
    for name, suite in _suites(config).items():
        definition = gx.ValidationDefinition(name=name, data=_batch(context, name), suite=suite)
        context.suites.add_or_update(suite)
        context.validation_definitions.add_or_update(definition)
        checkpoint = gx.Checkpoint(
            name=name, validation_definitions=[definition], actions=[UpdateDataDocsAction(name="docs")]
        )
        context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": tables[name]})


def _context(**kind: Any) -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it set itself to INFO
    context = gx.get_context(**kind)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _batch(context: Any, name: str) -> Any:
    source = context.data_sources.add_or_update_pandas(name)
    return source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)


def _suites(config: Config) -> dict[str, Any]:
    import great_expectations as gx
    import great_expectations.expectations as gxe

    def expect(name: CheckName, kind: type, **arguments: Any) -> Any:
        severity = config.data.severities.get(name, CHECKS[name].severity)
        return kind(**arguments, severity=severity, description=CHECKS[name].meaning, meta={"check": name})

    def between(name: CheckName, low: float | None, high: float | None) -> Any:
        return expect(name, gxe.ExpectColumnValuesToBeBetween, column=name, min_value=low, max_value=high)

    def empty(name: CheckName) -> Any:
        return expect(name, gxe.ExpectColumnValuesToBeInSet, column=name, value_set=[""])

    rows = [
        between("question_length", 5, MAX_CHARACTERS),
        between("gold_length", 1, MAX_CHARACTERS),
        between("option_count", 2, 10),
        between("gold_fits_completion", None, config.shortest_completion_limit),
        *(empty(name) for name in (*DESCRIBED, *DROP_CHECKS.values())),
    ]
    whole = [
        empty("licence_allowed"),
        empty("licence_present"),
        between("label_balance", None, IMBALANCE),
    ]
    return {
        "rows": gx.ExpectationSuite(name="rows", expectations=rows),
        "set": gx.ExpectationSuite(name="set", expectations=whole),
    }


def _read_result(result: Any) -> ExpectationResult:
    expectation = result.expectation_config
    name, column = expectation.meta["check"], expectation.kwargs["column"]
    _require_ran(name, result.exception_info)
    found = result.result.get("unexpected_index_list") or []
    return ExpectationResult(
        name=name,
        meaning=CHECKS[name].meaning,
        severity=str(getattr(expectation.severity, "value", expectation.severity)),
        success=bool(result.success),
        bad_rows=tuple(BadRow(id=str(row["id"]), value=_shown(row.get(column))) for row in found[:NAMED_ROWS]),
        bad_count=len(found),
    )


def _require_ran(name: str, outcome: Any) -> None:
    """Raise what Great Expectations caught: a check that couldn't be run has said nothing about the rows.

    Args:
        outcome: its `exception_info`: of the check, or of each metric that the check needs.
    """
    infos = [outcome] if "raised_exception" in (outcome or {}) else (outcome or {}).values()
    for info in infos:
        if info["raised_exception"]:
            raise MedgrpoError(f"check '{name}' could not be run: {info['exception_message']}")


def _shown(value: Any) -> str:
    """A fact as a person reads it: whole numbers without a fraction, which pandas adds beside missing values."""
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else str(value).removesuffix(".0")
