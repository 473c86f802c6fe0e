"""Stage: the rewards prove themselves on the train rows."""

import shutil

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from medgrpo.audit.audit import audit_for_run, audit_key, page_path, read_audit
from medgrpo.audit.page import families_as_rows
from medgrpo.audit.report import AuditReport
from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.settings import Settings
from medgrpo.tracking import run_url
from medgrpo.types import BaseRef, DatasetRef, RunRef
from tasks.stage import GPU, Parameters, stage


def _key(parameters: Parameters) -> str:
    audited = audit_key(parameters["config"], parameters["base"], parameters["dataset"])
    return digest(["audit", audited, parameters["run"].run_id])


def _there(parameters: Parameters) -> bool:
    return read_audit(parameters["config"], parameters["base"], parameters["dataset"], Settings()) is not None


def _forget(parameters: Parameters) -> None:
    page = page_path(parameters["config"], parameters["base"], parameters["dataset"], Settings())
    shutil.rmtree(page.parent, ignore_errors=True)


@stage("audit", of="audit", key=_key, there=_there, forget=_forget, tags=[GPU])
def audit(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef) -> AuditReport:
    """Refuse rewards that pay for a cheat or withhold marks from a gold answer; MLflow and Prefect get the report."""
    settings = Settings()
    try:
        return audit_for_run(config, base, dataset, run, settings)
    finally:
        if report := read_audit(config, base, dataset, settings):
            page = page_path(config, base, dataset, settings)
            link = f"[Audit of the rewards in MLflow]({run_url(run, settings)}/artifacts/audit/{page.name})"
            create_markdown_artifact(key="audit-report", markdown=f"{link}, the same page as `{page}`")
            create_table_artifact(key="audit", table=families_as_rows(report))
