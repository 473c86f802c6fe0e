"""Stages: open and close the MLflow run that the pipeline writes to."""

from typing import Any
from uuid import uuid4

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.runtime import flow_run as this_flow_run
from prefect.states import State

from medgrpo.config import Config
from medgrpo.grpo.publish import publish
from medgrpo.keys import noted_train_key, train_key
from medgrpo.processes import hold
from medgrpo.progress import outlive_output
from medgrpo.settings import Settings
from medgrpo.tracking import FLOW_RUN_TAG, describe_run, end_runs_of, is_open_for, retire_run, run_url
from medgrpo.tracking import close_run as close_mlflow_run
from medgrpo.tracking import open_run as open_mlflow_run
from medgrpo.types import BaseRef, DatasetRef, RunRef
from medgrpo.upkeep.finished import find_outcome, note_finished
from tasks.stage import Parameters, stage, this_run


def _never_again(parameters: Parameters) -> str:
    """Asked each time: what it looks at changes without us."""
    return f"find-finished-{uuid4()}"


def _is_open(parameters: Parameters) -> bool:
    """Whether the MLflow run is still open for this flow run: a failure has closed it."""
    config, dataset, base = parameters["config"], parameters["dataset"], parameters["base"]
    return is_open_for(config, train_key(config, dataset, base), this_run(), Settings())


def _forget(parameters: Parameters) -> None:
    config, dataset, base = parameters["config"], parameters["dataset"], parameters["base"]
    retire_run(config, train_key(config, dataset, base), Settings())


@stage("open-run", of="train", there=_is_open, forget=_forget, retries=3)
def open_run(config: Config, base: BaseRef, dataset: DatasetRef) -> RunRef:
    """Find or create the MLflow run of this training key, and tell it which flow run works on it."""
    tags = {
        FLOW_RUN_TAG: str(this_flow_run.id or ""),
        "prefect.flow_run_name": str(this_flow_run.name or ""),
        "prefect.flow_run_url": str(this_flow_run.ui_url or ""),
    }
    settings = Settings()
    run = open_mlflow_run(config, dataset, noted_train_key(config, dataset, base, settings), settings, tags)
    link = run_url(run, settings)
    if this_flow_run.ui_url:
        shown = f"Last worked on by Prefect's flow run [{this_flow_run.name}]({this_flow_run.ui_url})."
        describe_run(run, shown, settings)
    create_markdown_artifact(key="mlflow-run", markdown=f"[MLflow run {run.run_id}]({link}) of `{config.model_name}`")
    return run


@stage("find-finished", of="train", key=_never_again, retries=3)
def find_finished(config: Config, base: BaseRef, dataset: DatasetRef) -> str:
    """What an earlier run of the same config, rows and code has come to, while its champion is the champion."""
    return find_outcome(config, base, dataset, Settings())


@stage("close-run", of="promote", retries=3)
def close_run(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, told: str) -> None:
    """Mark the MLflow run as finished, and note for later runs that there is nothing to do.

    Args:
        told: what has come of it, for people.
    """
    settings = Settings()
    publish(settings.training(run.key), run.run_id, settings)  # what MLflow didn't take when the training ended
    close_mlflow_run(run.run_id, settings)
    note_finished(config, base, dataset, run, told, settings)


# A worker calls the hooks of a run that it ended by these parameters' names, the flow's own process by their order.


def hold_run(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow that starts: as long as this process lives, nobody takes the flow run for a dead one."""
    hold(str(flow_run.id), Settings())
    outlive_output()  # a worker that is killed takes its end of our output with it


def fail_run(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow that did not finish: its MLflow run doesn't go on looking busy."""
    cancelled = state.is_cancelling() or state.is_cancelled()
    end_runs_of(str(flow_run.id), "KILLED" if cancelled else "FAILED", Settings())
