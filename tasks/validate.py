"""Stage: check the questions with Great Expectations."""

from prefect.artifacts import create_table_artifact

from medgrpo.data.validate import SUITE, read_report, report_path
from medgrpo.data.validate import validate as validate_dataset
from medgrpo.fingerprint import digest
from medgrpo.settings import Settings
from medgrpo.tracking import log_report
from medgrpo.types import DatasetRef, RunRef, ValidationReport
from tasks.stage import Parameters, stage


def _key(parameters: Parameters) -> str:
    return digest(["validate", parameters["dataset"], SUITE, parameters["run"].run_id])


def _there(parameters: Parameters) -> bool:
    return report_path(parameters["dataset"], Settings()).is_file()


@stage("validate", key=_key, there=_there)
def validate(dataset: DatasetRef, run: RunRef) -> ValidationReport:
    """Check the questions; the report goes to MLflow and Prefect whether they pass or not."""
    settings = Settings()
    try:
        return validate_dataset(dataset, settings)
    finally:
        if report := read_report(dataset, settings):
            log_report(run.run_id, "validation", report, settings)
            create_table_artifact(key="validation", table=[result.model_dump(mode="json") for result in report.results])
