"""MLflow's trash, and what may not be thrown away yet: runs that are deleted, runs that are not finished."""

from datetime import timedelta

from medgrpo.settings import Settings
from medgrpo.tracking import KEY_TAG, connect, find_runs


def running_keys(settings: Settings) -> set[str]:
    """Training keys of the runs that are not finished."""
    running = find_runs("attributes.status = 'RUNNING'", settings)
    return {run.data.tags[KEY_TAG] for run in running if KEY_TAG in run.data.tags}


def has_server(settings: Settings) -> bool:
    """Whether an MLflow server keeps the runs, and not a file under the home folder."""
    return settings.mlflow_uri.startswith("http")


def deleted_runs(age: timedelta, settings: Settings) -> dict[str, str]:
    """MLflow's trash: id → name of runs that somebody deleted at least so long ago, and that can still be restored.

    A server doesn't tell when they were deleted, nor erases them: then all of them, whatever their age.
    """
    runs = {run.info.run_id: run.info.run_name for run in find_runs("", settings, deleted=True)}
    if has_server(settings):
        return runs
    store = connect(settings)._tracking_client.store
    old = store._get_deleted_runs(older_than=age // timedelta(milliseconds=1))
    return {run_id: name for run_id, name in runs.items() if run_id in old}


def erase_run(run_id: str, settings: Settings) -> None:
    """Take a deleted run out of MLflow's trash, with its artifacts, for good; not where a server keeps it.

    MLflow's own `gc` would erase deleted experiments and LoggedModels with it, which we may have promised to keep.
    """
    inner = connect(settings)._tracking_client
    inner._get_artifact_repo(run_id).delete_artifacts()
    inner.store._hard_delete_run(run_id)
