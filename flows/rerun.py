"""Running a failed flow run again: only what failed, and what comes after it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from flows.pipeline import pipeline
from medgrpo.config import Config
from medgrpo.errors import NotFoundError, UserError
from medgrpo.report import Summary
from medgrpo.upkeep.redo import StageName

FLOWS = ["medgrpo", "medgrpo-train"]
BROKEN = [StateType.FAILED, StateType.CRASHED]


@dataclass(frozen=True)
class Queued:
    """A flow run that a worker takes up: this process doesn't run it."""

    name: str
    run_id: str


def rerun(which: str, start_from: StageName | None = None) -> Summary | Queued:
    """Run a flow run again: finished tasks are found again, failed ones and those after them run.

    A run of a deployment goes to its worker, a run of `medgrpo run` is done here.

    Args:
        which: id or name of a flow run; empty: the newest one that failed or crashed.
        start_from: start a new flow run with the same parameters, in which this stage and those after it are forced.

    Raises:
        NotFoundError: there is no such flow run, or none that failed.
        UserError: it is still going on.
    """
    with get_client(sync_client=True) as client:
        found = _find(client, which)
        if start_from is not None:
            parameters = {**found.parameters, "start_from": start_from}
            if found.deployment_id is None:
                return _forced(parameters)
            made = client.create_flow_run_from_deployment(found.deployment_id, parameters=parameters)
            return Queued(made.name, str(made.id))
        if found.state is None or not found.state.is_final():
            state = found.state_name or "without a state"
            raise UserError(
                f"flow run {found.name} is {state}: only one that has ended can run again. Wait for it, cancel it, "
                f"or, if its process is gone, give it an end: prefect flow-run cancel {found.id}"
            )
        client.set_flow_run_state(found.id, Scheduled(name="AwaitingRetry", message="medgrpo rerun"), force=True)
        if found.deployment_id is not None:
            return Queued(found.name, str(found.id))
        again = client.read_flow_run(found.id)
    parameters = {"start_from": None, **again.parameters}
    summary: Summary = run_flow(pipeline, flow_run=again, parameters=parameters, return_type="result")
    return summary


def _forced(parameters: dict[str, Any]) -> Summary:
    summary: Summary = pipeline(Config.model_validate(parameters["config"]), parameters["start_from"])
    return summary


def _find(client: SyncPrefectClient, which: str) -> FlowRun:
    if not which:
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BROKEN)))
        runs = _read(client, wanted)
        if not runs:
            raise NotFoundError("no flow run has failed: name one to run it again, or start one with `medgrpo run`")
        return runs[0]
    try:
        return client.read_flow_run(UUID(which))
    except (ValueError, ObjectNotFound):
        runs = _read(client, FlowRunFilter(name=FlowRunFilterName(any_=[which])))
    if not runs:
        raise NotFoundError(f"there is no flow run '{which}': see `medgrpo ui prefect`, or `prefect flow-run ls`")
    return runs[0]


def _read(client: SyncPrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
    """Flow runs of the pipeline, the newest first."""
    ours = FlowFilter(name=FlowFilterName(any_=FLOWS))
    runs: list[FlowRun] = client.read_flow_runs(
        flow_filter=ours, flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC, limit=20
    )
    return runs
