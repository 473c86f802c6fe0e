"""Stages of reconciling: what dead processes have left in Prefect, in MLflow, on this machine and on this disk."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from medgrpo.settings import Settings
from medgrpo.upkeep.reconcile import (
    Finding,
    FlowRunFacts,
    Report,
    find_moves,
    judge_flow_run,
    mend,
    reconcile_leftovers,
    reconcile_processes,
    reconcile_runs,
)

HEARTBEAT = "prefect.flow-run.heartbeat"
BUSY = (StateType.RUNNING, StateType.CANCELLING)
PAGE = 200
MESSAGE = "its process is gone: found by medgrpo reconcile"


@task(name="end-orphans")
def end_orphans(fix: bool) -> list[Finding]:
    """Find, and end, processes that outlived their starter."""
    return reconcile_processes(Settings(), fix)


@task(name="settle-flow-runs")
def settle_flow_runs(fix: bool, just_s: float) -> list[Finding]:
    """Find flow runs that look busy and are dead, and give them a terminal state."""
    settings = Settings()
    with get_client(sync_client=True) as client:
        judged = [judge_flow_run(_facts(client, run), settings, just_s) for run in _busy(client)]

        def settle(finding: Finding) -> None:
            # Judged once more: what was found may have ended, or gone on, since.
            facts = _facts(client, client.read_flow_run(UUID(finding.subject)))
            if judge_flow_run(facts, settings, just_s):
                _settle(client, facts)

        return mend([finding for finding in judged if finding], settle, fix)


@task(name="settle-runs")
def settle_runs(fix: bool) -> list[Finding]:
    """Find MLflow runs that look busy and that nobody works on, and close them."""
    with get_client(sync_client=True) as client:
        return reconcile_runs(lambda flow_run: _find(client, flow_run), Settings(), fix)


@task(name="remove-leftovers")
def remove_leftovers(fix: bool) -> list[Finding]:
    """Find, and remove, unfinished saves and drafts."""
    return reconcile_leftovers(Settings(), fix)


@task(name="look-for-moves")
def look_for_moves() -> list[Finding]:
    """Find moves of a champion that were cut off."""
    return find_moves(Settings())


@task(name="report")
def report(findings: list[Finding]) -> Report:
    """Show what was found as an artifact."""
    found = Report(findings=tuple(findings))
    table: list[dict[str, Any]] = [dict(row) for row in found.rows]
    create_table_artifact(key="reconcile", table=table, description=f"{len(table)} things that dead processes left")
    return found


def _busy(client: SyncPrefectClient) -> list[FlowRun]:
    found: list[FlowRun] = []
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": list(BUSY)}}})
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    return found


def _find(client: SyncPrefectClient, flow_run: str) -> FlowRunFacts | None:
    try:
        return _facts(client, client.read_flow_run(UUID(flow_run)))
    except (ObjectNotFound, ValueError):
        return None


def _facts(client: SyncPrefectClient, run: FlowRun) -> FlowRunFacts:
    state = run.state
    assert state is not None  # a flow run that was stored has one
    busy = state.type in BUSY
    return FlowRunFacts(
        id=str(run.id),
        name=run.name,
        state=state.type.value,
        since_s=_seconds_since(state.timestamp),
        silent_s=_silent_s(client, run) if busy else None,
    )


def _silent_s(client: SyncPrefectClient, run: FlowRun) -> float | None:
    """Seconds since its last heartbeat."""
    since = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    wanted = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "occurred": {"since": since},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    answer.raise_for_status()
    beats = answer.json()["events"]
    return _seconds_since(datetime.fromisoformat(beats[0]["occurred"])) if beats else None


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()


def _settle(client: SyncPrefectClient, run: FlowRunFacts) -> None:
    state = Cancelled(message=MESSAGE) if run.state == "CANCELLING" else Crashed(message=MESSAGE)
    client.set_flow_run_state(UUID(run.id), state, force=True)
    wanted = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    for busy in client.read_task_runs(flow_run_filter=wanted):
        if busy.state_type == StateType.RUNNING:
            client.set_task_run_state(busy.id, Crashed(message=MESSAGE), force=True)
