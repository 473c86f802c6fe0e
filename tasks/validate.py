"""Stage: check the questions with Great Expectations."""

from contextlib import suppress

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from medgrpo.config import Config
from medgrpo.data.validate import read_report, report_folder
from medgrpo.data.validate import validate as validate_dataset
from medgrpo.errors import TrackingError, ValidationFailed
from medgrpo.fingerprint import digest
from medgrpo.keys import validation_key
from medgrpo.settings import Settings
from medgrpo.tracking import log_files, run_url
from medgrpo.types import DatasetRef, RunRef, ValidationReport
from tasks.stage import Parameters, stage


def _key(parameters: Parameters) -> str:
    checked = validation_key(parameters["config"])
    return digest(["validate", parameters["dataset"], checked, parameters["run"].run_id])


def _there(parameters: Parameters) -> bool:
    return read_report(parameters["config"], parameters["dataset"], Settings()) is not None


@stage("validate", key=_key, there=_there)
def validate(config: Config, dataset: DatasetRef, run: RunRef) -> ValidationReport:
    """Check the questions; the report goes to MLflow and Prefect whether they pass or not."""
    settings = Settings()
    try:
        report = validate_dataset(config, dataset, settings)
    except ValidationFailed:
        with suppress(TrackingError):  # what is wrong with the questions matters more than where it is told
            _publish(config, dataset, run, settings)
        raise
    _publish(config, dataset, run, settings)
    return report


def _publish(config: Config, dataset: DatasetRef, run: RunRef, settings: Settings) -> None:
    report = read_report(config, dataset, settings)
    assert report is not None, "validation writes it, whether the questions pass or not"
    folder = report_folder(config, dataset, settings)
    log_files(run.run_id, sorted(folder.iterdir()), "data", settings)
    link = f"{run_url(run, settings)}/artifacts/data/report.html"
    create_markdown_artifact(
        key="data-report", markdown=f"[Data report in MLflow]({link}), the same page as `{folder / 'report.html'}`"
    )
    create_table_artifact(key="validation", table=[result.model_dump(mode="json") for result in report.results])
