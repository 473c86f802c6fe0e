"""Validate: every check on a prepared dataset. Critical failures stop a run; every failure names its rows."""

from contextlib import suppress
from pathlib import Path

from medgrpo.config import Config
from medgrpo.data.garbage import collector_paused
from medgrpo.data.store import read_manifest
from medgrpo.errors import NotFoundError, TrackingError, ValidationFailed
from medgrpo.fingerprint import write_whole
from medgrpo.keys import validation_key
from medgrpo.settings import Settings
from medgrpo.tracking import log_files
from medgrpo.types import DatasetRef, ExpectationResult, RunRef, ValidationReport

SHOWN = 5
"""Rows that a failure's message names; the report names more."""


def validate(
    config: Config, dataset: DatasetRef, settings: Settings, data_docs: Path | None = None
) -> ValidationReport:
    """Check a prepared dataset; the reports are written beside it, whether it passes or not.

    Args:
        data_docs: folder for Great Expectations' own pages; None: none are made.

    Raises:
        ValidationFailed: a critical check failed; the message names it and its rows.
    """
    report = read_report(config, dataset, settings)
    if report is None or data_docs is not None:
        with collector_paused():
            report = _check(config, dataset, settings, data_docs)
    if failures := report.critical_failures:
        lines = "\n".join(f"  {describe(failure)}" for failure in failures)
        page = report_folder(config, dataset, settings) / "report.html"
        raise ValidationFailed(f"the questions failed critical checks:\n{lines}\nThe whole report: {page}")
    return report


def validate_for_run(config: Config, dataset: DatasetRef, run: RunRef, settings: Settings) -> ValidationReport:
    """Check a prepared dataset, and store the reports in the run whether it passes or not.

    Raises:
        ValidationFailed: as `validate`.
        TrackingError: the questions passed, but MLflow doesn't take the reports.
    """
    try:
        report = validate(config, dataset, settings)
    except ValidationFailed:
        with suppress(TrackingError):  # what is wrong with the questions matters more than where it is told
            _upload(config, dataset, run, settings)
        raise
    _upload(config, dataset, run, settings)
    return report


def _upload(config: Config, dataset: DatasetRef, run: RunRef, settings: Settings) -> None:
    log_files(run.run_id, sorted(report_folder(config, dataset, settings).iterdir()), "data", settings)


def describe(result: ExpectationResult) -> str:
    """A failed check in one line: what was expected, and the first rows that broke it."""
    rows = [f"{row.id!r} ({row.value[:80]})" for row in result.bad_rows[:SHOWN]]
    more = f" and {result.bad_count - SHOWN} more" if result.bad_count > SHOWN else ""
    return f"{result.name}: {result.meaning}; not so: {', '.join(rows)}{more}"


def report_folder(config: Config, dataset: DatasetRef, settings: Settings) -> Path:
    """Where the reports of a dataset under these settings lie."""
    return settings.dataset(dataset.key) / "reports" / validation_key(config)[:8]


def read_report(config: Config, dataset: DatasetRef, settings: Settings) -> ValidationReport | None:
    """The stored outcome of a validation, or None."""
    path = report_folder(config, dataset, settings) / "validation.json"
    return ValidationReport.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _check(config: Config, dataset: DatasetRef, settings: Settings, data_docs: Path | None) -> ValidationReport:
    from medgrpo.data.facts import majority_accuracy, row_facts, set_facts
    from medgrpo.data.report import make_report, write_report
    from medgrpo.data.suite import run_suite, write_data_docs

    manifest = read_manifest(dataset.key, settings)
    if manifest is None:
        raise NotFoundError(f"dataset {dataset.key} is not in {settings.root}: run `medgrpo prepare` first")
    rows = row_facts(config, dataset, settings)
    tables = {"rows": rows, "set": set_facts(config, manifest.origin, rows)}
    report = ValidationReport(
        dataset_key=dataset.key,
        results=tuple(run_suite(config, tables)),
        majority_accuracy=majority_accuracy(rows),
    )
    folder = report_folder(config, dataset, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(make_report(dataset, report, settings), folder)
    if data_docs is not None:
        write_data_docs(config, tables, data_docs)
    write_whole(folder / "validation.json", report.model_dump_json(indent=1))  # last: what is found is whole
    return report
