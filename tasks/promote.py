"""Stages: find the incumbent, let the gate decide, and do what it says."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from medgrpo import promotion
from medgrpo.audit_log import Mover
from medgrpo.config import Config
from medgrpo.promotion import Incumbent, Proposal
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, EvalReport, ModelVersionRef, Outcome
from tasks.stage import stage


@stage("find-incumbent", retries=3)
def find_incumbent(config: Config) -> Incumbent:
    """What the challenger must beat: the champion, or the base model where there is none."""
    return promotion.find_incumbent(config, Settings())


@stage("decide", retries=3)
def decide(
    config: Config,
    dataset: DatasetRef,
    version: ModelVersionRef,
    incumbent: Incumbent,
    reports: tuple[EvalReport, EvalReport],
    benchmarks: Sequence[tuple[EvalReport, EvalReport]],
) -> Proposal:
    """Ask the gate, and store its decision beside the version.

    Args:
        reports: challenger's and incumbent's, on the test rows.
        benchmarks: the same two's on each benchmark.
    """
    settings = Settings()
    champion = incumbent.version.version if incumbent.version else None
    evidence = promotion.gather_evidence(config, dataset, version, *reports, benchmarks, settings)
    proposal = promotion.weigh(config, version, champion, evidence, settings)
    create_markdown_artifact(key="decision", markdown=f"```\n{promotion.describe(proposal)}\n```")
    return proposal


@stage("read-proposal", retries=3)
def read_proposal(config: Config) -> Proposal:
    """The challenger with the decision that is stored about it."""
    return promotion.read_proposal(config, Settings())


@stage("promote", retries=3)
def promote(config: Config, proposal: Proposal, who: str = "", reason: str = "") -> Outcome:
    """Move the champion where decision and config allow it, or note the refusal.

    Args:
        who: the person who has approved it; empty: nobody was asked.
        reason: what that person said.
    """
    mover = Mover(who=_mover(who), reason=reason, approved=bool(who))
    return promotion.carry_out(config, proposal, mover, Settings())


@stage("turn-down", retries=3)
def turn_down(proposal: Proposal, who: str, reason: str) -> Outcome:
    """Note that a person doesn't approve of a promotion."""
    return promotion.turn_down(proposal, Mover(who=_mover(who), reason=reason), Settings())


def _mover(who: str) -> str:
    """Who moves, as the log names it: the flow run, and the person who approved."""
    run = f"flow run {flow_run.name} ({flow_run.id})"
    return f"{who}, {run}" if who else run
