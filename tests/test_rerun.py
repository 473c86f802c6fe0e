"""A rerun does again only what failed and what follows: real failures, a real Prefect server, a real training."""

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect_server import newest_flow_run

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.errors import NotFoundError, UserError
from medgrpo.report import Summary
from medgrpo.settings import Settings
from medgrpo.upkeep.redo import STAGES, Redo, is_from

pytestmark = pytest.mark.usefixtures("on_server")


def states(flow_run: Any) -> dict[str, set[str]]:
    """Stage → states of its task runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(flow_run))]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=wanted, limit=200)
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.name.rsplit("-", 1)[0], set()).add(str(run.state_name))
    return found


def newest() -> Any:
    return newest_flow_run("medgrpo")


def steps_logged(settings: Settings, key: str) -> int:
    """Steps that were trained in this folder: a training that runs again writes them again."""
    return (settings.training(key) / "train.log").stat().st_size


@pytest.fixture(scope="module")
def ours(config: Config) -> Config:
    grpo = config.grpo.model_copy(update={"steps": 2, "checkpoints": 1})
    return config.model_copy(update={"name": "rerun", "seed": 21, "grpo": grpo})


@pytest.mark.slow
def test_a_failure_in_evaluation_does_not_train_again(
    ours: Config, settings: Settings, tmp_path: Path, on_server: str
) -> None:
    from flows.pipeline import pipeline
    from flows.rerun import rerun

    kept = settings.root / "evaluations"
    if kept.exists():
        kept.rename(tmp_path / "evaluations")
    kept.write_text("not a folder: nothing can be stored under it", encoding="utf-8")
    try:
        with pytest.raises(OSError):
            pipeline(ours)
    finally:
        kept.unlink()
    failed = newest()
    assert failed.state_name == "Failed"
    (folder,) = (path for path in (settings.root / "training").iterdir() if is_of(path, ours))
    trained = steps_logged(settings, folder.name)

    summary = rerun("")
    assert isinstance(summary, Summary)
    again = newest()
    assert (again.id, again.run_count, again.state_name) == (failed.id, 2, "Completed")
    assert steps_logged(settings, folder.name) == trained, "it must not train again"
    found = states(again.id)
    for stage in ("resolve-base", "prepare", "validate", "audit", "train", "report"):
        assert "Cached" in found[stage], (stage, found)
    assert found["evaluate all"] == {"Failed", "Completed"}
    assert found["register"] == found["promote"] == {"Completed"}
    client = tracking.connect(settings)
    assert client.get_run(summary.run.run_id).info.status == "FINISHED"


def is_of(training: Path, config: Config) -> bool:
    order = training / "job.json"
    return order.is_file() and json.loads(order.read_text(encoding="utf-8"))["config"]["name"] == config.name


@pytest.mark.slow
def test_a_stage_is_forced_with_what_follows(ours: Config, settings: Settings) -> None:
    from flows.pipeline import pipeline
    from flows.rerun import rerun

    before = pipeline(ours)
    trained = steps_logged(settings, before.run.key)
    rows = settings.evaluation(before.challenger.key) / "rows.parquet"
    written = rows.stat().st_mtime_ns

    evaluated = rerun(newest().name, "evaluate")
    assert evaluated.run == before.run
    assert steps_logged(settings, before.run.key) == trained
    assert rows.stat().st_mtime_ns > written, "the evaluation must be done again, not found in the home folder"
    found = states(newest().id)
    assert found["train"] == found["audit"] == {"Cached"}
    assert found["evaluate"] == found["evaluate all"] == found["ask-served"] == {"Completed"}

    forced = rerun(str(newest().id), "train")
    assert forced.run.run_id != before.run.run_id, "a training from the start has a run of its own"
    assert forced.run.key == before.run.key
    client = tracking.connect(settings)
    tags = client.get_run(before.run.run_id).data.tags
    assert tags[tracking.RETIRED_TAG] == before.run.key and tracking.KEY_TAG not in tags
    assert [step for step, _ in tracking.history(forced.run.run_id, "train/reward", settings)] == [1, 2]
    assert [report.checkpoint.adapter_digest for report in forced.checkpoints] == [
        report.checkpoint.adapter_digest for report in before.checkpoints
    ], "the same training makes the same bytes"
    assert forced.version == before.version, "and no second version of them"


@pytest.mark.slow
def test_a_lost_home_is_made_again_under_the_same_run(ours: Config, settings: Settings, tmp_path: Path) -> None:
    from flows.pipeline import pipeline
    from flows.rerun import rerun

    before = pipeline(ours)
    run = newest()
    lost = ("training", "evaluations", "datasets", "audits", "adapters", "redo")
    for name in lost:
        if (settings.root / name).exists():
            shutil.move(settings.root / name, tmp_path / name)
    try:
        after = rerun(str(run.id))
    finally:
        for name in lost:
            shutil.rmtree(settings.root / name, ignore_errors=True)
            if (tmp_path / name).exists():
                shutil.move(tmp_path / name, settings.root / name)
    assert after.run == before.run and after.version == before.version
    assert after.decision == before.decision


def test_what_cannot_run_again_is_one_message() -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.pipeline import pipeline
    from flows.rerun import rerun

    with pytest.raises(NotFoundError, match="no flow run 'nobody'"):
        rerun("nobody")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(pipeline, parameters={}, state=Running())
        with pytest.raises(UserError, match=f"{run.name} is Running"):
            rerun(str(run.id))
        client.delete_flow_run(run.id)


def test_a_forced_run_throws_away_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = Redo("run-1", ["train", 1], settings)
    assert first.begin() and not first.is_finished
    assert not Redo("run-1", ["train", 1], settings).begin(), "a retry keeps what was made since"
    first.finish()
    assert Redo("run-1", ["train", 1], settings).is_finished
    assert Redo("run-2", ["train", 1], settings).begin(), "another run is forced anew"
    assert [stage for stage in STAGES if is_from("evaluate", stage)] == ["evaluate", "register", "promote"]
    assert not any(is_from(None, stage) for stage in STAGES)
