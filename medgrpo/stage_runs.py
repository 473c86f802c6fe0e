"""A stage as an MLflow run of its own, below the run of its training."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medgrpo.types import RunRef

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
STAGE_TAG, STAGE_KEY_TAG = "medgrpo.stage", "medgrpo.stage_key"
"""Tags of a stage's run: which stage, and the content key of what it shows."""


def log_stage(
    client: "MlflowClient",
    run: RunRef,
    name: str,
    key: str,
    figures: Mapping[str, float],
    step: int = 0,
    rows: Sequence[tuple[str, Any]] = (),
) -> None:
    """Show a stage as a run below the training's, once: MLflow's table unfolds it, and compares its figures.

    Args:
        name: of the stage and what it is about: there is one run of each name.
        key: content key of what the figures are of.
        rows: the datasets that they were measured on, each with its role.
    """
    from mlflow.entities import DatasetInput, InputTag, Metric

    wanted = f"tags.`{PARENT_TAG}` = '{run.run_id}' and attributes.run_name = '{name}'"
    found = client.search_runs([run.experiment_id], wanted, max_results=1)
    if found and found[0].data.tags.get(STAGE_KEY_TAG) == key:
        return
    tags = {PARENT_TAG: run.run_id, STAGE_TAG: name.partition(" ")[0]}
    stage = found[0] if found else client.create_run(run.experiment_id, run_name=name, tags=tags)
    now = int(time.time() * 1000)
    client.log_batch(stage.info.run_id, [Metric(label, value, now, step) for label, value in figures.items()])
    if rows:
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", role)]) for role, dataset in rows]
        client.log_inputs(stage.info.run_id, datasets=inputs)
    client.set_tag(stage.info.run_id, STAGE_KEY_TAG, key)  # last: a run that has it is whole
    client.set_terminated(stage.info.run_id)
