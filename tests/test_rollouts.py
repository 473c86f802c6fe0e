"""What a training leaves in MLflow: all completions, a page, traces, the ledger; twice gives nothing twice."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.grpo.publish import SENT, TRACED_GROUPS, TRACED_STEPS, is_published, publish, sampled_groups
from medgrpo.grpo.rollouts import collect, write_step
from medgrpo.settings import Settings
from medgrpo.traces import PLACE_TAG, traced_places
from medgrpo.types import DatasetRef, RunRef

SIZE = 4
PATIENT = "Mr. John Smith, phone (312) 555-0167, has urea 9. Is it high?"


def _record(tmp_path: Path, steps: range, groups: int = 2) -> None:
    """Completions as a training records them: in each step the first group is always right, the second never."""
    for step in steps:
        rows = pd.DataFrame(
            {
                "group": [group for group in range(groups) for _ in range(SIZE)],
                "example": [f"row-{step % 3}-{group}" for group in range(groups) for _ in range(SIZE)],
                "prompt": PATIENT,
                "completion": [f"completion {number} of step {step}" for number in range(groups * SIZE)],
                "tokens": 7,
                "correct": [group == 0 for group in range(groups) for _ in range(SIZE)],
                "format": 0.5,
                "total": [float(number % SIZE) for number in range(groups * SIZE)],
                "advantage": [number % SIZE - 1.5 for number in range(groups * SIZE)],
                "redraw": 0,
                "used": True,
            }
        )
        write_step(tmp_path, step, rows)


@pytest.fixture
def run(config: Config, dataset: DatasetRef, settings: Settings, request: pytest.FixtureRequest) -> RunRef:
    """A run of this test alone, in the session's MLflow."""
    return tracking.open_run(config, dataset, request.node.name, settings, {})


def test_groups_become_traces_that_are_found_by_run_step_and_group(
    tmp_path: Path, settings: Settings, run: RunRef
) -> None:
    _record(tmp_path, range(1, 3))
    assert publish(tmp_path, run.run_id, settings)
    assert traced_places(run.run_id, settings) == {"1/0", "1/1", "2/0", "2/1"}
    client = tracking.connect(settings)
    wanted = "tag.`medgrpo.step` = '2' AND tag.`medgrpo.group` = '1' AND tag.`medgrpo.used` = 'true'"
    (trace,) = client.search_traces(locations=[run.experiment_id], run_id=run.run_id, filter_string=wanted)
    assert trace.info.tags["medgrpo.example"] == "row-2-1"
    assert trace.info.request_metadata["mlflow.sourceRun"] == run.run_id
    root, *spans = trace.data.spans
    assert len(spans) == SIZE and {span.parent_id for span in spans} == {root.span_id}
    assert [span.outputs for span in spans] == [f"completion {number} of step 2" for number in range(SIZE, 2 * SIZE)]
    figures = spans[3].attributes
    assert figures["reward.format"] == 0.5 and figures["total"] == 3.0 and figures["advantage"] == 1.5
    assert figures["correct"] is False
    other = tracking.connect(settings).create_run(run.experiment_id).info.run_id
    assert traced_places(other, settings) == set()


def test_publishing_twice_makes_nothing_twice(tmp_path: Path, settings: Settings, run: RunRef) -> None:
    _record(tmp_path, range(1, 3))
    assert publish(tmp_path, run.run_id, settings) and publish(tmp_path, run.run_id, settings)
    (tmp_path / SENT).unlink()  # as if it had died right before
    assert publish(tmp_path, run.run_id, settings)
    found = tracking.connect(settings).search_traces(locations=[run.experiment_id], run_id=run.run_id)
    assert sorted(trace.info.tags[PLACE_TAG] for trace in found) == ["1/0", "1/1", "2/0", "2/1"]


def test_what_was_recorded_since_is_sent_too(tmp_path: Path, settings: Settings, run: RunRef) -> None:
    _record(tmp_path, range(1, 3))
    publish(tmp_path, run.run_id, settings)
    _record(tmp_path, range(3, 5))
    assert not is_published(tmp_path)
    assert publish(tmp_path, run.run_id, settings)
    stored = mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path="rollouts/rollouts.parquet")
    assert len(pd.read_parquet(stored)) == 4 * 2 * SIZE


def test_a_failed_write_ends_nothing_and_is_sent_by_the_next_run(
    tmp_path: Path, settings: Settings, run: RunRef, caplog: pytest.LogCaptureFixture
) -> None:
    _record(tmp_path, range(1, 3))
    away = Settings(home=settings.home, tracking_uri="nothing-known://here")
    with caplog.at_level(logging.WARNING, logger="medgrpo"):
        assert not publish(tmp_path, run.run_id, away)
    assert "the next run sends them" in caplog.text
    assert not is_published(tmp_path)
    assert (tmp_path / "rollouts.parquet").is_file() and (tmp_path / "ledger.parquet").is_file()
    assert publish(tmp_path, run.run_id, settings) and is_published(tmp_path)
    assert len(traced_places(run.run_id, settings)) == 4


def test_the_run_has_tables_ledger_and_plot_with_patients_masked(
    tmp_path: Path, settings: Settings, run: RunRef
) -> None:
    _record(tmp_path, range(1, 4))
    publish(tmp_path, run.run_id, settings)
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path=""))
    assert (folder / "ledger" / "shares.png").read_bytes().startswith(b"\x89PNG")
    ledger = pd.read_parquet(folder / "ledger" / "ledger.parquet")
    assert len(ledger) == 3 * 2 and set(ledger["pass_rate"]) == {0.0, 1.0}
    page = json.loads((folder / "rollouts.json").read_text(encoding="utf-8"))
    assert "advantage" in page["columns"] and len(page["data"]) == 3 * 2 * SIZE
    (trace, *_) = tracking.connect(settings).search_traces(locations=[run.experiment_id], run_id=run.run_id)
    table = pd.read_parquet(folder / "rollouts" / "rollouts.parquet")
    for told in (*table["prompt"], json.dumps(page), json.dumps(trace.data.spans[0].inputs)):
        assert "Smith" not in told and "555-0167" not in told and "urea 9" in told
    assert collect(tmp_path)["prompt"].iloc[0] == PATIENT, "what stays on this disk is as it was"


def test_a_training_that_recorded_nothing_has_nothing_to_send(tmp_path: Path, settings: Settings, run: RunRef) -> None:
    assert is_published(tmp_path) and publish(tmp_path, run.run_id, settings)
    assert {item.path for item in tracking.connect(settings).list_artifacts(run.run_id)} == {"config.json"}


def test_few_steps_are_traced_from_the_first_to_the_last(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 32), groups=TRACED_GROUPS + 2)
    groups = sampled_groups(collect(tmp_path))
    steps = sorted({group.step for group in groups})
    assert len(steps) == TRACED_STEPS and (steps[0], steps[-1]) == (1, 31)
    assert max(later - earlier for earlier, later in pairwise(steps)) <= 8
    assert len(groups) == TRACED_STEPS * TRACED_GROUPS


def test_a_short_training_is_traced_whole(tmp_path: Path) -> None:
    _record(tmp_path, range(1, 2))
    assert [group.place for group in sampled_groups(collect(tmp_path))] == ["1/0", "1/1"]
