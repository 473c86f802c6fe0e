"""The whole flow on a tiny policy: a real Prefect server, a real MLflow on SQLite, a real training process."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from serve_driver import served_answer

from medgrpo import registry, tracking
from medgrpo.answer import render_question
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_split
from medgrpo.evaluation import generate, read_rows
from medgrpo.grpo.checkpoints import verified
from medgrpo.grpo.launch import train
from medgrpo.keys import train_key
from medgrpo.policy import attach, load_base
from medgrpo.report import Summary, render
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

DATA = {"validation_rows": 6, "test_rows": 12}


@pytest.fixture(scope="module", autouse=True)
def prefect_server(settings: Settings) -> Iterator[None]:
    """One real Prefect server for the module, in a home folder of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDGRPO_HOME", str(settings.root))
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(scope="module")
def first(config: Config) -> Summary:
    """The pipeline's first run."""
    return _run(config)


def _run(config: Config) -> Summary:
    from flows.pipeline import pipeline

    summary: Summary = pipeline(config)
    return summary


def _task_runs() -> list[TaskRun]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_task_runs(sort=TaskRunSort.END_TIME_DESC, limit=200)


def _newest_flow() -> UUID | None:
    return _task_runs()[0].flow_run_id


def test_every_stage_leaves_what_it_promises(first: Summary, config: Config, settings: Settings) -> None:
    assert [report.checkpoint.step for report in first.checkpoints] == [2, 4]
    assert {report.rows for report in (first.base, *first.checkpoints)} == {6}
    assert first.challenger.split == first.incumbent.split == "test"
    assert first.version.version == 1
    assert first.served.version == (f"{config.model_name}/1" if first.decision.promote else "base")
    assert Path(first.curve).read_bytes().startswith(b"\x89PNG")
    text = render(first, settings)
    for words in ("accuracy", "format rate", first.run.run_id, "medgrpo ui mlflow", first.served.version):
        assert words in text


def test_mlflow_shows_the_run_with_its_stages(first: Summary, settings: Settings) -> None:
    client = tracking.connect(settings)
    run = client.get_run(first.run.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[tracking.FLOW_RUN_TAG] in {str(task.flow_run_id) for task in _task_runs()}
    assert [step for step, _ in tracking.history(first.run.run_id, "train/reward", settings)] == [1, 2, 3, 4]
    artifacts = {item.path for item in client.list_artifacts(first.run.run_id)}
    assert {"config.json", "data", "audit", "rollouts", "rollouts.json", "plots"} <= artifacts
    tables = {table["path"] for table in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert {"rollouts.json", "evaluation-validation-base.json", "evaluation-test-base.json"} <= tables
    models = client.search_logged_models([first.run.experiment_id])
    metrics = {(m.name, metric.key, metric.dataset_digest) for m in models for metric in m.metrics or []}
    names = {name for name, key, _ in metrics if key == "eval/validation/accuracy"}
    assert names == {"base", "step-000002", "step-000004"}
    assert None not in {digest for _, _, digest in metrics}


def test_the_audit_and_what_rewards_took_are_in_mlflow(first: Summary, settings: Settings) -> None:
    client = tracking.connect(settings)
    stored = {item.path for item in client.list_artifacts(first.run.run_id, "audit")}
    assert stored == {"audit/report.html", "audit/report.json"}
    for reward in ("correct", "format", "semantic", "fluency"):
        for figure in ("mean", "std", "seconds", "cache_hits"):
            steps = tracking.history(first.run.run_id, f"train/rewards/{reward}/{figure}", settings)
            assert [step for step, _ in steps] == [1, 2, 3, 4], f"{reward}/{figure}"
    shares = [share for _, share in tracking.history(first.run.run_id, "train/rewards/share_of_step", settings)]
    assert len(shares) == 4 and all(0 < share < 1 for share in shares)


def test_the_data_report_is_in_mlflow_and_linked_from_prefect(first: Summary, settings: Settings) -> None:
    from prefect.client.orchestration import get_client

    client = tracking.connect(settings)
    stored = {item.path for item in client.list_artifacts(first.run.run_id, "data")}
    assert stored == {"data/report.html", "data/report.json", "data/validation.json"}
    with get_client(sync_client=True) as prefect:
        shown = [artifact.data for artifact in prefect.read_artifacts() if artifact.key == "data-report"]
    assert any(f"runs/{first.run.run_id}/artifacts/data/report.html" in str(markdown) for markdown in shown)


@pytest.mark.slow
def test_a_changed_row_misses_the_cache_and_the_flow_says_why(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [example.model_dump(mode="json") for example in config.data.source.load(0)]
    columns = {name: name for name in ("id", "question", "gold", "options", "tolerance", "unit", "topic", "kind")}
    source = {"kind": "file", "path": str(path), "example_kind": "choice", "columns": columns, "licence": "own"}
    grpo = config.grpo.model_dump(mode="json") | {"steps": 1, "checkpoints": 1}
    ours = Config.model_validate(
        config.model_dump(mode="json") | {"name": "ours", "grpo": grpo, "data": {**DATA, "source": source}}
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = _run(ours)
    rows[0]["question"] += " "  # which is no change: texts are normalised
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert _run(ours).run == before.run
    rows[0]["question"] = rows[0]["question"].strip() + "!"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    # Prefect empties the root logger's handlers, caplog's among them, when it first runs a flow.
    logging.getLogger("medgrpo").addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="medgrpo"):
        after = _run(ours)
    logging.getLogger("medgrpo").removeHandler(caplog.handler)
    assert after.run != before.run
    states = {(run.name.rsplit("-", 1)[0], run.state_name) for run in _task_runs() if run.flow_run_id == _newest_flow()}
    assert ("validate", "Completed") in states
    assert "the dataset of 'ours' has another key than last time, since these changed: rows" in caplog.text
    assert f"the source of 'ours' has 1 row changed: {rows[0]['id']!r}" in caplog.text


def test_completions_are_kept_with_rewards_and_advantages(first: Summary, config: Config, settings: Settings) -> None:
    table = pd.read_parquet(settings.training(first.run.key) / "rollouts.parquet")
    grpo = config.grpo
    assert len(table) == grpo.steps * grpo.prompts_per_step * grpo.num_generations
    assert {"step", "prompt", "completion", "correct", "format", "semantic", "fluency", "advantage"} <= set(table)
    by_group = table.groupby(["step", "prompt"])["advantage"].mean()
    assert by_group.abs().max() < 1e-5, "advantages are centred on their group"


def test_figures_can_be_computed_again_from_the_rows(first: Summary, settings: Settings) -> None:
    rows = read_rows(first.challenger, settings)
    assert rows["correct"].mean() == pytest.approx(first.challenger.accuracy.mean)
    assert rows["strict"].mean() == pytest.approx(first.challenger.format_rate.mean)
    assert not rows.loc[~rows["strict"], "correct"].any(), "an answer outside the grammar is never right"


def test_a_second_run_reuses_every_finished_stage(first: Summary, config: Config, settings: Settings) -> None:
    trained = (settings.training(first.run.key) / "train.log").stat().st_size
    runs = len(tracking.connect(settings).search_runs([first.run.experiment_id]))  # others' tests have some there, too
    again = _run(config)
    assert again.run == first.run
    assert again.version == first.version
    assert again.decision == first.decision
    assert again.checkpoints == first.checkpoints
    assert (settings.training(first.run.key) / "train.log").stat().st_size == trained, "it must not train again"
    states = {(run.name.rsplit("-", 1)[0], run.state_name) for run in _task_runs() if run.flow_run_id == _newest_flow()}
    for stage in ("validate", "audit", "train", "evaluate"):
        assert {state for name, state in states if name == stage} == {"Cached"}
    assert len(tracking.connect(settings).search_runs([first.run.experiment_id])) == runs


def test_a_lost_output_is_made_again(first: Summary, config: Config, settings: Settings) -> None:
    path = settings.evaluation(first.base.key) / "report.json"
    whole = path.read_text(encoding="utf-8")
    path.unlink()
    assert _run(config).base == first.base
    assert path.read_text(encoding="utf-8") == whole


def test_a_killed_training_goes_on_where_it_was(config: Config, settings: Settings, tmp_path: Path) -> None:
    from flows.pipeline import pipeline

    changed = config.model_copy(update={"seed": 11, "grpo": config.grpo.model_copy(update={"steps": 6})})
    killed = threading.Event()
    watcher = threading.Thread(target=_kill_trainer_at_checkpoint, args=(settings, killed), daemon=True)
    watcher.start()
    summary: Summary = pipeline(changed)
    assert killed.is_set(), "the training ended before it could be killed"
    assert [report.checkpoint.step for report in summary.checkpoints] == [3, 6]
    steps = [step for step, _ in tracking.history(summary.run.run_id, "train/reward", settings)]
    assert steps == [1, 2, 3, 4, 5, 6], "each step is logged once"
    log = (settings.training(summary.run.key) / "train.log").read_text(encoding="utf-8")
    assert "going on from step 3" in log
    client = tracking.connect(settings)
    found = client.search_runs([summary.run.experiment_id], f"tags.`{tracking.KEY_TAG}` = '{summary.run.key}'")
    assert len(found) == 1
    wanted = f"name = '{changed.model_name}' and tags.`medgrpo.train_key` = '{summary.run.key}'"
    assert len(client.search_model_versions(wanted)) == 1


def _kill_trainer_at_checkpoint(settings: Settings, killed: threading.Event) -> None:
    """SIGKILL the training process once its first checkpoint is sealed."""
    import psutil

    before = set((settings.root / "training").iterdir())
    while not killed.is_set():
        for output in set((settings.root / "training").iterdir()) - before:
            if not list(output.glob("checkpoint-*/medgrpo-manifest.json")):
                continue
            for process in psutil.process_iter(["pid", "cmdline"]):
                if str(output / "job.json") in (process.info["cmdline"] or []):
                    os.kill(process.info["pid"], signal.SIGKILL)
                    killed.set()
                    return


def test_the_training_process_dies_with_its_parent(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path
) -> None:
    import psutil

    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import os, sys, time; sys.path.insert(0, os.getcwd());'\n"
        "  'from medgrpo.grpo.__main__ import die_with_parent; die_with_parent(); print(1, flush=True); time.sleep(600)'],\n"
        "  stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nsys.stdin.readline()\n",
        encoding="utf-8",
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert child.wait(timeout=30) is not None or not child.is_running()


def test_resuming_after_damage_gives_the_same_adapter(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path
) -> None:
    changed = config.model_copy(update={"seed": 5})
    key = train_key(changed, dataset, base)
    run = tracking.open_run(changed, dataset, key, settings, {})
    whole = train(changed, base, dataset, run, settings)
    output = settings.training(key)
    (step, newest) = verified(output)[-1]
    assert step == changed.grpo.steps
    (newest / "adapter_model.safetensors").write_bytes(b"half a file")
    again = train(changed, base, dataset, run, settings)
    assert again == whole, "the last steps, done again from the checkpoint before, give the same bytes"


def test_a_refused_training_names_its_reason_and_is_not_retried(config: Config, settings: Settings) -> None:
    from flows.pipeline import pipeline
    from medgrpo.errors import TrainingRefused

    grpo: dict[str, Any] = {"learning_rate": 1e30, "steps": 8, "checkpoints": 1, "max_grad_norm": 1e30}
    changed = config.model_copy(update={"seed": 9, "grpo": config.grpo.model_copy(update=grpo)})
    with pytest.raises(TrainingRefused, match=r"lower grpo\.learning_rate"):
        pipeline(changed)
    failed = next(run for run in _task_runs() if run.name.startswith("train") and run.state_name == "Failed")
    assert failed.run_count == 1
    client = tracking.connect(settings)
    experiment = client.get_experiment_by_name(changed.model_name)
    ours = f"tags.`{tracking.KEY_TAG}` != ''"
    newest = client.search_runs([experiment.experiment_id], ours, order_by=["attributes.start_time DESC"])[0]
    assert newest.info.status == "FAILED"


def test_what_is_promoted_is_what_is_served(first: Summary, config: Config, settings: Settings) -> None:
    """Last in this module: it moves the champion."""
    version = first.version
    registry.set_aliases(version.name, registry.Aliases(champion=version.version), settings)
    base = resolve(config.policy.base, settings)
    policy = attach(load_base(base.folder), settings.adapter(version.adapter_digest))
    example = read_split(prepare(config, base, settings), "test", settings)[0]
    (evaluated,) = generate(policy, config, [example], "one row")
    served, text = served_answer(config, settings, render_question(example))
    assert (served.version, served.run_id) == (f"{version.name}/{version.version}", first.run.run_id)
    assert text == evaluated, "what was evaluated is what is served"
