"""Stages: open and close the MLflow run that the pipeline writes to."""

from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.states import State

from medgrpo.config import Config
from medgrpo.keys import noted_train_key
from medgrpo.settings import Settings
from medgrpo.tracking import FLOW_RUN_TAG, describe_run, fail_runs_of, run_url
from medgrpo.tracking import close_run as close_mlflow_run
from medgrpo.tracking import open_run as open_mlflow_run
from medgrpo.types import BaseRef, DatasetRef, RunRef
from tasks.stage import stage


@stage("open-run", retries=3)
def open_run(config: Config, base: BaseRef, dataset: DatasetRef) -> RunRef:
    """Find or create the MLflow run of this training key, and tell it which flow run works on it."""
    tags = {
        FLOW_RUN_TAG: str(flow_run.id or ""),
        "prefect.flow_run_name": str(flow_run.name or ""),
        "prefect.flow_run_url": str(flow_run.ui_url or ""),
    }
    settings = Settings()
    run = open_mlflow_run(config, dataset, noted_train_key(config, dataset, base, settings), settings, tags)
    link = run_url(run, settings)
    if flow_run.ui_url:
        shown = f"Last worked on by Prefect's flow run [{flow_run.name}]({flow_run.ui_url})."
        describe_run(run, shown, settings)
    create_markdown_artifact(key="mlflow-run", markdown=f"[MLflow run {run.run_id}]({link}) of `{config.model_name}`")
    return run


@stage("close-run", retries=3)
def close_run(run: RunRef) -> None:
    """Mark the MLflow run as finished."""
    close_mlflow_run(run.run_id, Settings())


def fail_run(flow: Flow[Any, Any], run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow that did not finish: its MLflow run doesn't go on looking busy."""
    fail_runs_of(str(run.id), Settings())
