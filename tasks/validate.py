"""Stage: check the questions with Great Expectations."""

import shutil

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from medgrpo.config import Config
from medgrpo.data.validate import read_report, report_folder, validate_for_run
from medgrpo.fingerprint import digest
from medgrpo.keys import validation_key
from medgrpo.settings import Settings
from medgrpo.tracking import run_url
from medgrpo.types import DatasetRef, RunRef, ValidationReport
from tasks.stage import Parameters, stage


def _key(parameters: Parameters) -> str:
    checked = validation_key(parameters["config"])
    return digest(["validate", parameters["dataset"], checked, parameters["run"].run_id])


def _there(parameters: Parameters) -> bool:
    return read_report(parameters["config"], parameters["dataset"], Settings()) is not None


def _forget(parameters: Parameters) -> None:
    folder = report_folder(parameters["config"], parameters["dataset"], Settings())
    shutil.rmtree(folder, ignore_errors=True)


@stage("validate", of="validate", key=_key, there=_there, forget=_forget)
def validate(config: Config, dataset: DatasetRef, run: RunRef) -> ValidationReport:
    """Check the questions; the report goes to MLflow and Prefect whether they pass or not."""
    settings = Settings()
    try:
        return validate_for_run(config, dataset, run, settings)
    finally:
        if report := read_report(config, dataset, settings):
            page = report_folder(config, dataset, settings) / "report.html"
            link = f"[Data report in MLflow]({run_url(run, settings)}/artifacts/data/report.html)"
            create_markdown_artifact(key="data-report", markdown=f"{link}, the same page as `{page}`")
            create_table_artifact(key="validation", table=[row.model_dump(mode="json") for row in report.results])
