"""Stages: find the incumbent, and let the gate decide whether the champion moves."""

from prefect.artifacts import create_markdown_artifact

from medgrpo.config import Config
from medgrpo.promotion import Incumbent, decide_and_promote
from medgrpo.promotion import find_incumbent as find_incumbent_version
from medgrpo.settings import Settings
from medgrpo.types import Decision, EvalReport, ModelVersionRef
from tasks.stage import stage


@stage("find-incumbent", retries=3)
def find_incumbent(config: Config) -> Incumbent:
    """What the challenger must beat: the champion, or the base model where there is none."""
    return find_incumbent_version(config, Settings())


@stage("promote", retries=3)
def promote(config: Config, version: ModelVersionRef, challenger: EvalReport, incumbent: EvalReport) -> Decision:
    """Decide, store the decision beside the version, and move the champion where the decision says so."""
    decision = decide_and_promote(config, version, challenger, incumbent, Settings())
    verdict = "Promoted" if decision.promote else "Not promoted"
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    create_markdown_artifact(key="decision", markdown=f"## {verdict}: {version.name} {version.version}\n{reasons}")
    return decision
