"""Stage: the rewards prove themselves on the train rows."""

from prefect.artifacts import create_table_artifact

from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.keys import trainer_source
from medgrpo.rewards.audit import AuditReport, audit_config
from medgrpo.settings import Settings
from medgrpo.tracking import log_report
from medgrpo.types import BaseRef, DatasetRef, RunRef
from tasks.stage import Parameters, stage


def _key(parameters: Parameters) -> str:
    rewards = [reward.model_dump(mode="json") for reward in parameters["config"].rewards]
    dataset, run = parameters["dataset"], parameters["run"]
    return digest(["audit", rewards, dataset, parameters["base"].digest, trainer_source(), run.run_id])


@stage("audit", key=_key)
def audit(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef) -> AuditReport:
    """Refuse rewards that pay for a cheat or withhold marks from a gold answer."""
    report = audit_config(config, base, dataset, Settings())
    log_report(run.run_id, "audit", report, Settings())
    create_table_artifact(key="audit", table=[row.model_dump(mode="json") for row in report.families])
    return report
