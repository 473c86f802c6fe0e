"""The only writer of MLflow runs. One run per training key, found by its tag, so that a rerun goes on in it."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medgrpo.config import Config
from medgrpo.errors import TrackingError
from medgrpo.metric_names import report_figures, rows_label
from medgrpo.processes import hold, is_held_elsewhere
from medgrpo.settings import Settings
from medgrpo.stage_runs import log_stage
from medgrpo.types import CheckpointRef, DatasetRef, EvalReport, Frozen, RunRef, Split

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from pandas import DataFrame

log = logging.getLogger(__name__)

KEY_TAG = "medgrpo.key"
FLOW_RUN_TAG = "prefect.flow_run_id"
RETIRED_TAG = "medgrpo.key_before"
"""Key of a run whose training was done once more, with `--from`."""
MOST_RUNS = 10_000
"""Runs that one question to MLflow gives at most."""
SYSTEM_S = 10
"""Seconds between two looks at the machine."""
UNCOMPARED = {"guards", "fast_path", "rollouts", "gradient_accumulation_steps"}
"""Keys of the config's `grpo` that change how a training is made, not what it learns."""
MAX_PARAM = 500
"""MLflow's longest parameter value, in characters, that every store takes."""


class OpenRun(Frozen):
    """A run that looks busy, and what could tell whether it is."""

    run_id: str
    name: str
    parent: str
    """The run that it is nested in; empty: none."""
    flow_run: str
    """Id of the Prefect flow run that opened it last; empty: it was opened without Prefect."""
    key: str
    """Its training's key."""


def connect(settings: Settings) -> "MlflowClient":
    """A client of the tracking server or file that the settings name.

    Raises:
        TrackingError: another folder named mlflow hides the library, or the server doesn't answer.
    """
    import mlflow

    if getattr(mlflow, "__file__", None) is None:
        raise TrackingError("MLflow is not installed: 'import mlflow' found only the project's mlflow/ folder")
    mlflow.set_tracking_uri(settings.mlflow_uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        client = mlflow.MlflowClient(settings.mlflow_uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow raises requests', SQLAlchemy's and its own types here
        told = settings.without_secrets(f"MLflow at {settings.mlflow_uri} does not answer: {error}")
        raise TrackingError(told) from error
    return client


def open_run(config: Config, dataset: DatasetRef, key: str, settings: Settings, tags: Mapping[str, str]) -> RunRef:
    """Find the run of this training key, or create it, and say what it is about.

    Args:
        tags: extra tags, such as the Prefect flow run that works on it now.
    """
    from mlflow.entities import DatasetInput, InputTag, Param

    client = connect(settings)
    experiment = _experiment(client, config.model_name, settings)
    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    if found:
        run = found[0]
        hold(run.info.run_id, settings)  # before it looks busy
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        run = client.create_run(experiment, run_name=f"{config.name}-{key[:8]}")
        hold(run.info.run_id, settings)
        client.log_batch(run.info.run_id, params=[Param(name, value) for name, value in _params(config).items()])
        client.log_dict(run.info.run_id, config.model_dump(mode="json"), "config.json")
        inputs = [
            DatasetInput(_mlflow_dataset(dataset, split), [InputTag("mlflow.data.context", split)])
            for split in dataset.digests
        ]
        client.log_inputs(run.info.run_id, datasets=inputs)
        client.set_tag(run.info.run_id, KEY_TAG, key)  # last: a run that is found is whole
    for name, value in tags.items():
        client.set_tag(run.info.run_id, name, value)
    opened = RunRef(run_id=run.info.run_id, key=key, experiment_id=experiment)
    rows = {f"rows/{split}": float(count) for split, count in dataset.rows.items()}
    log_stage(
        client,
        opened,
        "data",
        dataset.key,
        rows,
        0,
        [(split, _mlflow_dataset(dataset, split)) for split in dataset.rows],
    )
    return opened


@contextmanager
def watching_system(run_id: str, settings: Settings) -> Iterator[None]:
    """Log what this process's machine does to a run, under `system/`: CPU, memory, disk, network, and NVIDIA's GPUs.

    Nothing here ends a training: where MLflow doesn't take it, there is a gap.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    connect(settings)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, SYSTEM_S, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        try:  # it drops the interval that it was in: short trainings would have nothing
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()
        except Exception as error:  # MLflow raises requests', SQLAlchemy's and its own types here
            log.warning("MLflow did not take the last system metrics: %s", settings.without_secrets(str(error)))


def describe_run(run: RunRef, markdown: str, settings: Settings) -> None:
    """Put a text with links on top of a run's page."""
    connect(settings).set_tag(run.run_id, "mlflow.note.content", markdown)


def find_run(config: Config, key: str, settings: Settings) -> "Run | None":
    """The run of a training key, or None; creates nothing."""
    client = connect(settings)
    experiment = client.get_experiment_by_name(config.model_name)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def is_open_for(config: Config, key: str, flow_run_id: str, settings: Settings) -> bool:
    """Whether a training key's run is open, and a flow run works on it."""
    run = find_run(config, key, settings)
    return run is not None and run.info.status == "RUNNING" and run.data.tags.get(FLOW_RUN_TAG) == flow_run_id


def retire_run(config: Config, key: str, settings: Settings) -> None:
    """Let a training key's run be found no more, so that a training from the start gets a run of its own."""
    if run := find_run(config, key, settings):
        client = connect(settings)
        client.set_tag(run.info.run_id, RETIRED_TAG, key)
        client.delete_tag(run.info.run_id, KEY_TAG)


def run_url(run: RunRef, settings: Settings) -> str:
    """Where MLflow's UI shows a run; for the SQLite file, where `medgrpo ui mlflow` will show it."""
    uri = settings.without_secrets(settings.tracking_uri)
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def close_run(run_id: str, settings: Settings) -> None:
    """Mark a run as finished."""
    connect(settings).set_terminated(run_id, "FINISHED")


def fail_run(run_id: str, settings: Settings) -> None:
    """Mark a run as failed."""
    connect(settings).set_terminated(run_id, "FAILED")


def end_runs_of(flow_run_id: str, status: Literal["FAILED", "KILLED"], settings: Settings) -> None:
    """Mark the runs that a Prefect flow run has opened, and not closed; not those that its next attempt works on."""
    for run in find_runs(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}' and attributes.status = 'RUNNING'", settings):
        if not is_held_elsewhere(run.info.run_id, settings):
            end_run(run.info.run_id, status, settings)


def open_runs(settings: Settings) -> list[OpenRun]:
    """All runs that look busy."""
    return [
        OpenRun(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            parent=run.data.tags.get("mlflow.parentRunId", ""),
            flow_run=run.data.tags.get(FLOW_RUN_TAG, ""),
            key=run.data.tags.get(KEY_TAG, ""),
        )
        for run in find_runs("attributes.status = 'RUNNING'", settings)
    ]


def end_run(run_id: str, status: Literal["FAILED", "KILLED"], settings: Settings) -> None:
    """Mark a run that nobody works on any more."""
    connect(settings).set_terminated(run_id, status)


def find_runs(wanted: str, settings: Settings, *, deleted: bool = False) -> list["Run"]:
    """The runs of all experiments that fit MLflow's filter: those that are there, or those that somebody deleted."""
    from mlflow.entities import ViewType

    client = connect(settings)
    experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    return list(client.search_runs(experiments, wanted, kind, max_results=MOST_RUNS))


def tag_run(run_id: str, name: str, value: str, settings: Settings) -> None:
    """Set a tag of a run."""
    connect(settings).set_tag(run_id, name, value)


def log_report(run_id: str, name: str, report: Frozen, settings: Settings) -> None:
    """Store a report as JSON in the run's artifacts."""
    connect(settings).log_dict(run_id, report.model_dump(mode="json"), f"{name}.json")


def log_files(run_id: str, paths: list[Path], folder: str, settings: Settings) -> None:
    """Store files in the run's artifacts."""
    client = connect(settings)
    for path in paths:
        client.log_artifact(run_id, str(path), folder)


def log_rows(run_id: str, name: str, rows: "DataFrame", settings: Settings) -> None:
    """Store a table that MLflow's UI shows as one; replaces an earlier one of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.json"
        path.write_text(json.dumps(json.loads(rows.to_json(orient="split", index=False))), encoding="utf-8")
        client = connect(settings)
        client.log_artifact(run_id, str(path))
        # MLflow's UI offers its table view for the artifacts that this tag lists.
        tables = [{"path": path.name, "type": "table"}]
        logged = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        merged = logged + [table for table in tables if table not in logged]
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(merged))


def log_evaluation(
    run: RunRef, dataset: DatasetRef, report: EvalReport, adapter: Path | None, settings: Settings
) -> None:
    """Tie an evaluation's figures to its checkpoint (a LoggedModel) and to the rows' digest.

    An incumbent from another training is measured on this one's rows under names of its own.

    Args:
        adapter: the checkpoint's adapter folder, stored with the LoggedModel; None for the base model.
    """
    from mlflow.entities import Metric

    client = connect(settings)
    model = ensure_logged_model(client, run, report.checkpoint, adapter)
    label = rows_label(report)
    rows = _mlflow_rows(dataset, label, report.rows_digest, report.rows)
    prefix = f"eval/{label}" + ("/incumbent" if is_foreign(report.checkpoint, run) else "")
    figures = {f"{prefix}/{name}": value for name, value in report_figures(report).items()}
    plain = {f"eval/{name}": value for name, value in report_figures(report).items()}
    log_stage(
        client, run, f"evaluation {label} {model.name}", report.key, plain, report.checkpoint.step, [(label, rows)]
    )
    logged = {metric.key: metric.value for metric in model.metrics or [] if metric.dataset_digest == rows.digest}
    if logged.items() >= figures.items():
        return
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, report.checkpoint.step, model.model_id, rows.name, rows.digest)
        for name, value in figures.items()
    ]
    client.log_batch(run.run_id, metrics=metrics)


def is_foreign(checkpoint: CheckpointRef, run: RunRef) -> bool:
    """Whether a checkpoint comes from another training than this run's."""
    return not checkpoint.is_base and checkpoint.train_key != run.key


def ensure_logged_model(
    client: "MlflowClient", run: RunRef, checkpoint: CheckpointRef, adapter: Path | None
) -> "LoggedModel":
    """Find the LoggedModel of a checkpoint in this run, or create it; its adapter is uploaded until that succeeds."""
    from mlflow.entities import LoggedModelStatus

    if checkpoint.is_base:
        name = "base"
    elif is_foreign(checkpoint, run):
        name = f"incumbent-{checkpoint.adapter_digest[:8]}"
    else:
        name = f"step-{checkpoint.step:06d}"
    wanted = f"source_run_id = '{run.run_id}' AND name = '{name}'"
    found = client.search_logged_models([run.experiment_id], filter_string=wanted)
    model = (
        client.get_logged_model(found[0].model_id)
        if found
        else client.create_logged_model(
            run.experiment_id,
            name=name,
            source_run_id=run.run_id,
            tags={"medgrpo.adapter_digest": checkpoint.adapter_digest},
            model_type="adapter" if adapter else "base",
        )
    )
    if model.status == LoggedModelStatus.READY:
        return model
    if adapter is not None:
        client.log_model_artifacts(model.model_id, str(adapter))
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def history(run_id: str, metric: str, settings: Settings) -> list[tuple[int, float]]:
    """All values of a metric, as (step, value); those of one step in the order that they were measured in."""
    found = connect(settings).get_metric_history(run_id, metric)
    ordered = sorted(found, key=lambda point: (point.step, point.timestamp, point.value))
    return [(point.step, point.value) for point in ordered]


def log_step(client: "MlflowClient", run_id: str, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
    """Log a training step's metrics, all or none, under `train/`."""
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(f"train/{name}", value, time_ms, step) for name, value in metrics.items()])


def metric_steps(client: "MlflowClient", run_id: str, name: str) -> list[int]:
    """The steps that a training metric was logged for, as often as it was."""
    return [point.step for point in client.get_metric_history(run_id, f"train/{name}")]


def _experiment(client: "MlflowClient", name: str, settings: Settings) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A server owns its artifacts; for the SQLite file they go under the home folder instead of the working folder.
    location = None if settings.tracking_uri else (settings.artifacts / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _mlflow_dataset(dataset: DatasetRef, split: Split) -> Any:
    """The split as MLflow names it."""
    return _mlflow_rows(dataset, split, dataset.digests[split], dataset.rows[split])


def _mlflow_rows(dataset: DatasetRef, label: str, digest: str, rows: int) -> Any:
    """Rows as MLflow names them: with our digest, since MLflow's own ignores columns that hold lists."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset

    return Dataset(
        name=f"{dataset.name}-{label}",
        digest=digest,
        source_type="code",
        source=CodeDatasetSource(tags={"medgrpo.dataset_key": dataset.key}).to_json(),
        profile=json.dumps({"num_rows": rows}),
    )


def _params(config: Config) -> dict[str, str]:
    """The settings that people compare runs by; the whole config is an artifact."""
    grpo = config.grpo.model_dump(mode="json")
    shown = {f"grpo.{name}": value for name, value in grpo.items() if name not in UNCOMPARED}
    shown |= {"seed": config.seed, "policy.lora.r": config.policy.lora.r, "policy.lora.alpha": config.policy.lora.alpha}
    shown |= {"policy.base": json.dumps(config.policy.base.model_dump(mode="json"))}
    shown |= {f"rewards.{reward.label}": reward.weight for reward in config.rewards}
    return {name: str(value)[:MAX_PARAM] for name, value in shown.items()}
