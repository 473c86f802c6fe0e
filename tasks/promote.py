"""Stages: find the incumbent, let the gate decide, and do what it says."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from medgrpo import promotion
from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.promotion import Incumbent, Proposal, moves
from medgrpo.promotion.audit_log import Mover
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, EvalReport, ModelVersionRef, Outcome
from tasks.notices import tell
from tasks.stage import GPU, Parameters, stage, this_run


def _incumbent_key(parameters: Parameters) -> str:
    """Found again as long as nobody has moved the champion; a move that was cut off is finished first."""
    name, settings = parameters["config"].model_name, Settings()
    return digest(["find-incumbent", this_run(), parameters["config"], moves.position(name, settings)])


@stage("find-incumbent", of="evaluate", key=_incumbent_key, retries=3)
def find_incumbent(config: Config) -> Incumbent:
    """What the challenger must beat: the champion, or the base model where there is none."""
    return promotion.find_incumbent(config, Settings())


@stage("decide", of="promote", retries=3)
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


@stage("read-proposal", of="promote", retries=3)
def read_proposal(config: Config) -> Proposal:
    """The challenger with the decision that is stored about it."""
    return promotion.read_proposal(config, Settings())


@stage("promote", of="promote", tags=[GPU], retries=3)
def promote(config: Config, proposal: Proposal, who: str = "", reason: str = "") -> Outcome:
    """Move the champion where decision and config allow it, or note the refusal.

    Args:
        who: the person who has approved it; empty: nobody was asked.
        reason: what that person said.
    """
    mover = Mover(who=_mover(who), reason=reason, approved=bool(who))
    outcome: Outcome = promotion.carry_out(config, proposal, mover, Settings())
    tell(proposal, outcome, mover.who)
    return outcome


@stage("turn-down", of="promote", retries=3)
def turn_down(proposal: Proposal, who: str, reason: str) -> Outcome:
    """Note that a person doesn't approve of a promotion."""
    mover = Mover(who=_mover(who), reason=reason)
    outcome: Outcome = promotion.turn_down(proposal, mover, Settings())
    tell(proposal, outcome, mover.who)
    return outcome


def _mover(who: str) -> str:
    """Who moves, as the log names it: the flow run, and the person who approved."""
    run = f"flow run {flow_run.name} ({flow_run.id})"
    return f"{who}, {run}" if who else run
