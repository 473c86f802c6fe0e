"""A training's metrics reach MLflow once each, whatever dies or doesn't answer meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.grpo.metrics import FILE, MetricWriter
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, RunRef


@pytest.fixture
def run(config: Config, dataset: DatasetRef, settings: Settings, tmp_path: Path) -> RunRef:
    return tracking.open_run(config, dataset, tmp_path.name, settings, {})


@pytest.fixture
def client(settings: Settings) -> Any:
    return tracking.connect(settings)


def rewards(run: RunRef, settings: Settings) -> list[tuple[int, float]]:
    return tracking.history(run.run_id, "train/reward", settings)


def write(writer: MetricWriter, *steps: int, factor: float = 0.125) -> None:
    for step in steps:
        sampled = {"reward": step * factor} if step % 2 else {}  # a step on old completions has no reward
        writer.write({"learning_rate": 0.5, **sampled}, step)


def test_a_step_that_is_made_again_is_not_logged_again(
    run: RunRef, client: Any, settings: Settings, tmp_path: Path
) -> None:
    write(MetricWriter(settings, run.run_id, tmp_path), 1, 2, 3, 4)
    write(MetricWriter(settings, run.run_id, tmp_path), 3, 4, 5)
    assert rewards(run, settings) == [(1, 0.125), (3, 0.375), (5, 0.625)]
    rates = tracking.history(run.run_id, "train/learning_rate", settings)
    assert [step for step, _ in rates] == [1, 2, 3, 4, 5]


class Away:
    """While it lasts, MLflow refuses writes: a deleted run does, as a server that is away would."""

    def __init__(self, client: Any, run: RunRef) -> None:
        self.client, self.run_id = client, run.run_id

    def __enter__(self) -> None:
        self.client.set_terminated(self.run_id)
        self.client.delete_run(self.run_id)

    def __exit__(self, *_: object) -> None:
        self.client.restore_run(self.run_id)


def test_what_mlflow_did_not_take_comes_with_a_later_step(
    run: RunRef, client: Any, settings: Settings, tmp_path: Path
) -> None:
    writer = MetricWriter(settings, run.run_id, tmp_path)
    with Away(client, run):
        write(writer, 1, 2, 3)
        assert not writer.flush()
    write(writer, 4, 5)
    assert [step for step, _ in rewards(run, settings)] == [1, 3, 5]


def test_what_a_dead_process_could_not_send_is_sent_by_the_next(
    run: RunRef, client: Any, settings: Settings, tmp_path: Path
) -> None:
    with Away(client, run):
        write(MetricWriter(settings, run.run_id, tmp_path), 1, 2, 3)
    after = MetricWriter(settings, run.run_id, tmp_path)
    write(after, 5)  # it goes on from a checkpoint at step 4: what came before isn't made again
    assert [step for step, _ in rewards(run, settings)] == [1, 3, 5]
    assert MetricWriter(settings, run.run_id, tmp_path).flush()
    assert [step for step, _ in rewards(run, settings)] == [1, 3, 5]


def test_a_write_that_arrived_though_the_answer_was_lost_is_not_repeated(
    run: RunRef, client: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = MetricWriter(settings, run.run_id, tmp_path)
    write(writer, 1)
    client = writer._client
    sent = client.log_batch

    def answer_lost(*args: Any, **kwargs: Any) -> None:
        sent(*args, **kwargs)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", answer_lost)
        write(writer, 3)
    write(writer, 5)
    assert [step for step, _ in rewards(run, settings)] == [1, 3, 5]


def test_a_lost_folder_does_not_log_the_run_anew(run: RunRef, client: Any, settings: Settings, tmp_path: Path) -> None:
    write(MetricWriter(settings, run.run_id, tmp_path), 1, 3)
    (tmp_path / FILE).unlink()
    write(MetricWriter(settings, run.run_id, tmp_path), 1, 3, 5)
    assert [step for step, _ in rewards(run, settings)] == [1, 3, 5]


def test_after_a_rollback_the_same_steps_are_logged_again_once(
    run: RunRef, client: Any, settings: Settings, tmp_path: Path
) -> None:
    write(MetricWriter(settings, run.run_id, tmp_path), 1, 3, 5)
    write(MetricWriter(settings, run.run_id, tmp_path, attempt=1), 3, 5, factor=0.25)
    write(MetricWriter(settings, run.run_id, tmp_path, attempt=1), 5, 7, factor=0.25)
    found = rewards(run, settings)
    assert found == [(1, 0.125), (3, 0.375), (3, 0.75), (5, 0.625), (5, 1.25), (7, 1.75)]


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_half_a_line_is_no_entry(run: RunRef, client: Any, settings: Settings, tmp_path: Path, kept: int) -> None:
    write(MetricWriter(settings, run.run_id, tmp_path), 1)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + whole[:kept])
    write(MetricWriter(settings, run.run_id, tmp_path), 3)
    lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert [step for step, _ in rewards(run, settings)] == [1, 3]
