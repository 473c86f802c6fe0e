"""What MLflow shows of a training: its run, the stages below it, the machine; and that nothing of it is made twice."""

from pathlib import Path

import pytest

from medgrpo.config import Config
from medgrpo.settings import Settings
from medgrpo.stage_runs import PARENT_TAG, STAGE_KEY_TAG, log_stage
from medgrpo.tracking import (
    KEY_TAG,
    connect,
    describe_run,
    open_run,
    watching_system,
)
from medgrpo.types import DatasetRef, RunRef
from medgrpo.upkeep.trash import running_keys


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="module")
def run(config: Config, dataset: DatasetRef, place: Settings) -> RunRef:
    return open_run(config, dataset, "a-key", place, {"prefect.flow_run_id": "one"})


def _stages(run: RunRef, place: Settings) -> dict[str, dict[str, float]]:
    found = connect(place).search_runs([run.experiment_id], f"tags.`{PARENT_TAG}` = '{run.run_id}'")
    names = [one.info.run_name for one in found]
    assert len(names) == len(set(names)), "a stage is there twice"
    assert {one.info.status for one in found} == {"FINISHED"}
    return {one.info.run_name: one.data.metrics for one in found}


def test_a_key_has_one_run_with_its_data_below_it(
    run: RunRef, config: Config, dataset: DatasetRef, place: Settings
) -> None:
    again = open_run(config, dataset, "a-key", place, {"prefect.flow_run_id": "two"})
    assert again == run
    client = connect(place)
    assert len(client.search_runs([run.experiment_id], f"tags.`{KEY_TAG}` = 'a-key'")) == 1
    assert client.get_run(run.run_id).data.tags["prefect.flow_run_id"] == "two"
    assert _stages(run, place)["data"] == {f"rows/{split}": count for split, count in dataset.rows.items()}


def test_the_data_are_logged_with_our_digests(run: RunRef, dataset: DatasetRef, place: Settings) -> None:
    client = connect(place)
    (data,) = client.search_runs([run.experiment_id], "attributes.run_name = 'data'")
    for shown in (data, client.get_run(run.run_id)):
        inputs = {one.tags[0].value: one.dataset.digest for one in shown.inputs.dataset_inputs}
        assert inputs == dict(dataset.digests)


def test_parameters_are_those_that_people_compare_runs_by(run: RunRef, config: Config, place: Settings) -> None:
    shown = connect(place).get_run(run.run_id).data.params
    assert shown["grpo.learning_rate"] == str(config.grpo.learning_rate)
    assert {"seed", "policy.base", "policy.lora.r", "grpo.beta", "rewards.correct"} <= set(shown)
    assert not [name for name in shown if "guards" in name or "fast_path" in name]
    assert len(shown) < 30


def test_a_stage_is_logged_once_and_again_only_for_another_key(run: RunRef, place: Settings) -> None:
    client = connect(place)
    for key, right in (("k", 0.25), ("k", 0.25), ("other", 0.5)):
        log_stage(client, run, "evaluation test step-000002", key, {"eval/accuracy": right}, 2)
    assert _stages(run, place)["evaluation test step-000002"] == {"eval/accuracy": 0.5}
    (stage,) = client.search_runs([run.experiment_id], f"tags.`{STAGE_KEY_TAG}` = 'other'")
    points = client.get_metric_history(stage.info.run_id, "eval/accuracy")
    assert [(point.step, point.value) for point in points] == [(2, 0.25), (2, 0.5)]


def test_a_stage_that_was_cut_off_is_completed(run: RunRef, place: Settings) -> None:
    client = connect(place)
    client.create_run(run.experiment_id, run_name="gate version 1", tags={PARENT_TAG: run.run_id})
    log_stage(client, run, "gate version 1", "decision", {"gate/promote": 1.0})
    assert _stages(run, place)["gate version 1"] == {"gate/promote": 1.0}


def test_the_machine_is_watched_however_short_a_training_is(run: RunRef, place: Settings) -> None:
    client = connect(place)
    for times in (1, 2):
        with watching_system(run.run_id, place):
            pass
        points = client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")
        assert [point.step for point in points] == list(range(times)), "a resumed training goes on counting"
    shown = client.get_run(run.run_id).data.metrics
    assert shown["system/system_memory_usage_megabytes"] > 0


def test_a_training_goes_on_where_mlflow_takes_no_system_metrics(
    run: RunRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watching_system(run.run_id, Settings(home=tmp_path)):  # a database that doesn't know this run
        pass
    assert "did not take the last system metrics" in caplog.text


def test_a_run_says_on_top_what_it_is_told(run: RunRef, place: Settings) -> None:
    describe_run(run, "[flow run](http://127.0.0.1)", place)
    assert connect(place).get_run(run.run_id).data.tags["mlflow.note.content"] == "[flow run](http://127.0.0.1)"


def test_running_trainings_are_known_by_their_keys(run: RunRef, place: Settings) -> None:
    assert running_keys(place) == {"a-key"}
    connect(place).set_terminated(run.run_id)
    assert running_keys(place) == set()
