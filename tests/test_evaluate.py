"""Evaluation as a whole, on a tiny policy: the same figures whatever was killed, cached or evaluated beside it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from peft import get_peft_model

import medgrpo.evaluation.policies as policies
from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_benchmark, read_manifest, read_split
from medgrpo.errors import ConfigError, MedgrpoError, NotFoundError
from medgrpo.evaluation import (
    check_figures,
    evaluate,
    evaluate_all,
    generate,
    publish,
    read_report,
    read_tables,
    recompute,
)
from medgrpo.generation import Completer
from medgrpo.keys import eval_key
from medgrpo.policy import adapter_digest, attach, load_base, lora_settings
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport

BASE = CheckpointRef.base()
CONFIG = {
    "name": "evaluated",
    "data": {
        "source": {"kind": "clinical", "rows": 60, "topics": ["blood-count", "blood-chemistry", "ion-disorder"]},
        "benchmarks": [
            {"kind": "clinical", "rows": 40, "topics": ["anaemia-severity", "albuminuria"]},
            {"kind": "clinical", "rows": 9, "topics": ["mean-arterial-pressure"]},
        ],
        "validation_rows": 6,
        "test_rows": 12,
    },
    "policy": {"base": {"kind": "tiny"}},
    "evaluation": {"samples": 3, "orders": 3, "benchmark_rows": 10, "batch_size": 5, "max_completion_tokens": 24}
    | {"resamples": 200},
}


@pytest.fixture(scope="module")
def home(base: BaseRef, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of its own, with the tiny base."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(settings.root / "base_models", root / "base_models")
    return Settings(home=root)


@pytest.fixture(scope="module")
def asked() -> Config:
    return Config.model_validate(CONFIG)


@pytest.fixture(scope="module")
def rows(asked: Config, base: BaseRef, home: Settings) -> DatasetRef:
    return prepare(asked, base, home)


def make_adapter(config: Config, base: BaseRef, home: Settings, step: int) -> CheckpointRef:
    """A checkpoint with random weights."""
    plain = load_base(base.folder)
    torch.manual_seed(step)
    model = get_peft_model(plain.model, lora_settings(config.policy.lora))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.03)
    draft = home.root / f"draft-{step}"
    model.save_pretrained(draft)
    digest = adapter_digest(draft)
    draft.rename(home.adapter(digest))
    return CheckpointRef(train_key="training", step=step, adapter_digest=digest)


@pytest.fixture(scope="module")
def checkpoints(asked: Config, base: BaseRef, home: Settings) -> list[CheckpointRef]:
    home.adapter("x").parent.mkdir(parents=True, exist_ok=True)
    return [make_adapter(asked, base, home, step) for step in (1, 2)]


@pytest.fixture(scope="module")
def report(
    asked: Config, base: BaseRef, rows: DatasetRef, checkpoints: Sequence[CheckpointRef], home: Settings
) -> EvalReport:
    """Of the first checkpoint on the test rows, with everything that can be asked for."""
    return evaluate(asked, base, rows, checkpoints[0], "test", home)


@pytest.fixture
def other(home: Settings, tmp_path: Path) -> Settings:
    """Another home with the same base, rows and adapters, and no evaluation."""
    for name in ("base_models", "datasets", "adapters"):
        shutil.copytree(home.root / name, tmp_path / name)
    return Settings(home=tmp_path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders that bases are loaded from."""
    folders: list[str] = []

    def counted(folder: str, *rest: Any) -> Any:
        folders.append(folder)
        return load_base(folder, *rest)

    monkeypatch.setattr(policies, "load_base", counted)
    yield folders


def test_a_report_has_everything_that_was_asked_for(report: EvalReport, rows: DatasetRef) -> None:
    assert (report.rows, len(report.correct), report.rows_digest) == (12, 12, rows.digests["test"])
    assert report.sampled is not None and report.orders is not None
    assert report.sampled.pass_at.keys() == {1, 2}
    assert report.sampled.pass_at[1].mean == pytest.approx(report.sampled.accuracy.mean)
    assert report.orders.orders == 3
    assert 0 < report.orders.rows < 12, "some rows are of kind choice, and those alone are asked in other orders"
    assert report.lenient_accuracy.mean >= report.accuracy.mean


def test_every_figure_is_computed_again_from_the_stored_tables(
    report: EvalReport, asked: Config, home: Settings
) -> None:
    assert recompute(report, asked.evaluation, home) == report
    check_figures(report, asked.evaluation, home)
    tables = read_tables(report, home)
    assert tables.sampled is not None and len(tables.sampled) == 36
    path = home.evaluation(report.key) / "sampled.parquet"
    whole = path.read_bytes()
    tables.sampled.assign(correct=~tables.sampled["correct"]).to_parquet(path)
    with pytest.raises(MedgrpoError, match="sampled of the evaluation in"):
        check_figures(report, asked.evaluation, home)
    path.write_bytes(whole)


def test_checkpoints_beside_one_another_get_the_figures_that_each_gets_alone(
    asked: Config,
    base: BaseRef,
    rows: DatasetRef,
    checkpoints: Sequence[CheckpointRef],
    other: Settings,
    loads: list[str],
) -> None:
    order = [checkpoints[0], BASE, checkpoints[1]]  # the base after an adapter was on it, and another one after that
    together = evaluate_all(asked, base, rows, order, "validation", other)
    assert len(loads) == 1, "one base serves all of them"
    assert [found.checkpoint for found in together] == order
    examples = read_split(rows, "validation", other)
    completions = []
    for checkpoint, found in zip(order, together, strict=True):
        plain = load_base(base.folder)
        policy = plain if checkpoint.is_base else attach(plain, other.adapter(checkpoint.adapter_digest))
        completions.append(generate(policy, asked, examples, "alone"))
        assert read_tables(found, other).rows["completion"].tolist() == completions[-1]
    assert completions[0] != completions[1] != completions[2] != completions[0]
    assert evaluate_all(asked, base, rows, order, "validation", other) == together
    assert len(loads) == 1, "what is found again needs no base"


def test_validation_rows_are_asked_once(
    asked: Config, base: BaseRef, rows: DatasetRef, checkpoints: Sequence[CheckpointRef], home: Settings
) -> None:
    found = evaluate(asked, base, rows, checkpoints[0], "validation", home)
    assert found.sampled is found.orders is None
    assert recompute(found, asked.evaluation, home) == found


def test_what_is_not_asked_on_rows_is_not_in_their_key(asked: Config, base: BaseRef, rows: DatasetRef) -> None:
    def keys(config: Config) -> tuple[str, str, str]:
        name = next(iter(rows.benchmarks))
        on_benchmark = eval_key(config, rows, base, BASE, "test", name)
        return (
            eval_key(config, rows, base, BASE, "validation"),
            eval_key(config, rows, base, BASE, "test"),
            on_benchmark,
        )

    def changed(**evaluation: Any) -> Config:
        return Config.model_validate({**CONFIG, "evaluation": CONFIG["evaluation"] | evaluation})

    validation, test, benchmark = keys(asked)
    assert len({validation, test, benchmark}) == 3
    for more in ({"samples": 4}, {"orders": 2}, {"temperature": 0.5}):
        found = keys(changed(**more))
        assert found[0] == validation
        assert found[1] != test and found[2] != benchmark
    assert keys(changed(benchmark_rows=4)) == (validation, test, benchmark)
    assert len({*keys(changed(max_completion_tokens=9)), validation, test, benchmark}) == 6
    seeded = keys(asked.model_copy(update={"seed": 9}))
    assert seeded[0] == validation
    assert seeded[1] != test, "sampling draws from the config's seed"


# --- shards

KILLED = """
import os, signal, sys
from pathlib import Path
from medgrpo.evaluation import evaluate
from medgrpo.evaluation.examiner import Shards
from medgrpo.config import Config
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef

home, config, base, rows, checkpoint, count = sys.argv[1:]
write, left = Shards.write, [int(count)]

def dying(self, *args):
    write(self, *args)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

Shards.write = dying
read = lambda kind, text: kind.model_validate_json(text)
evaluate(read(Config, config), read(BaseRef, base), read(DatasetRef, rows), read(CheckpointRef, checkpoint), "test",
    Settings(home=home))
"""


@pytest.mark.parametrize("count", [2, 5])
def test_a_killed_evaluation_goes_on_behind_its_last_batch(
    count: int,
    asked: Config,
    base: BaseRef,
    rows: DatasetRef,
    checkpoints: Sequence[CheckpointRef],
    report: EvalReport,
    home: Settings,
    other: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [one.model_dump_json() for one in (asked, base, rows, checkpoints[0])]
    command = [sys.executable, "-c", KILLED, str(other.root), *given, str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_report(report.key, other) is None
    kept = {path: path.read_bytes() for path in (other.evaluation(report.key) / "shards").iterdir()}
    assert len(kept) == count
    asked_again: list[int] = []
    complete = Completer.complete

    def counted(self: Completer, prompts: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list[str]:
        asked_again.append(len(prompts))
        return complete(self, prompts, *args, **kwargs)

    monkeypatch.setattr(Completer, "complete", counted)
    assert evaluate(asked, base, rows, checkpoints[0], "test", other) == report
    for mine, theirs in zip(read_tables(report, home), read_tables(report, other), strict=True):
        assert mine is not None and mine.equals(theirs)
    assert report.orders is not None
    batches = 3 + 8 + -(-report.orders.rows * 2 // 5)  # of 12 rows, of 12 x 3 completions, of two more orders
    assert len(asked_again) == batches - count
    assert not (other.evaluation(report.key) / "shards").exists()


def test_a_shard_of_other_prompts_is_not_taken(
    asked: Config,
    base: BaseRef,
    rows: DatasetRef,
    checkpoints: Sequence[CheckpointRef],
    report: EvalReport,
    other: Settings,
) -> None:
    shards = other.evaluation(report.key) / "shards"
    shards.mkdir(parents=True)
    (shards / "greedy-00000.json").write_text('{"key": "of other prompts", "completions": ["", "", "", "", ""]}')
    assert evaluate(asked, base, rows, checkpoints[0], "test", other) == report


# --- benchmarks


def test_benchmark_rows_are_drawn_once_and_measured_on(
    asked: Config, base: BaseRef, rows: DatasetRef, checkpoints: Sequence[CheckpointRef], home: Settings
) -> None:
    name, short = rows.benchmarks
    drawn = read_benchmark(rows, name, home)
    assert [len(drawn), len(read_benchmark(rows, short, home))] == [10, 9], "a small one gives all that it has"
    assert sorted({example.topic for example in drawn}) == ["albuminuria", "anaemia-severity"]
    whole = asked.data.benchmarks[0].load(asked.seed)
    assert {example.id for example in drawn} <= {example.id for example in whole}
    assert [example.id for example in drawn] != [example.id for example in whole[:10]]
    manifest = read_manifest(rows.key, home)
    assert manifest is not None and manifest.dataset == rows
    assert {"benchmark-1.parquet", "benchmark-2.parquet"} <= manifest.files.keys()
    assert prepare(asked, base, home) == rows

    found = evaluate(asked, base, rows, checkpoints[0], "test", home, name)
    assert (found.rows, found.rows_name, found.rows_digest) == (10, name, rows.benchmarks[name])
    assert found.sampled is not None
    with pytest.raises(NotFoundError, match="no rows of benchmark 'mmlu'; of these it has: 'clinical', "):
        evaluate(asked, base, rows, BASE, "test", home, "mmlu")


def test_more_rows_are_another_dataset_and_the_same_training(
    asked: Config, base: BaseRef, rows: DatasetRef, other: Settings
) -> None:
    more = Config.model_validate({**CONFIG, "evaluation": CONFIG["evaluation"] | {"benchmark_rows": 12}})
    found = prepare(more, base, other)
    assert found.key != rows.key
    assert found.digests == rows.digests
    drawn = [{example.id for example in read_benchmark(ref, "clinical", other)} for ref in (rows, found)]
    assert drawn[0] < drawn[1], "the first ones stay"


def test_rows_without_a_benchmark_to_draw_them_from_are_refused(base: BaseRef, home: Settings) -> None:
    lone = Config.model_validate({**CONFIG, "data": {**CONFIG["data"], "benchmarks": []}})
    with pytest.raises(ConfigError, match=r"evaluation\.benchmark_rows: there is no"):
        prepare(lone, base, home)


def test_rows_that_cannot_be_measured_are_left_out(
    base: BaseRef, home: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        "id,question,gold",
        "a,How many ribs?,24",
        f"b,{'How many ' * 900}?,2",
        "c,How many hearts?,one",
        "d,Lungs?,2",
    ]
    path = tmp_path / "benchmark.csv"
    path.write_text("\n".join(lines))
    source = {"kind": "file", "path": str(path), "example_kind": "numeric", "licence": "own"}
    source["columns"] = {name: name for name in ("id", "question", "gold")}  # type: ignore[assignment]
    config = Config.model_validate({**CONFIG, "data": {**CONFIG["data"], "benchmarks": [source]}})
    with caplog.at_level("WARNING", logger="medgrpo"):
        found = prepare(config, base, home)
    assert [example.id for example in read_benchmark(found, str(path), home)] == ["a", "d"]
    assert "of 4 rows drawn" in caplog.text and "1 are not measured on" in caplog.text


# --- MLflow


def test_the_report_and_its_tables_are_in_mlflow(
    asked: Config,
    base: BaseRef,
    rows: DatasetRef,
    checkpoints: Sequence[CheckpointRef],
    report: EvalReport,
    home: Settings,
) -> None:
    run = tracking.open_run(asked, rows, "training", home, {})
    on_benchmark = evaluate(asked, base, rows, checkpoints[0], "test", home, "clinical")
    for _ in range(2):  # the second time everything is found
        publish(run, rows, report, home)
        publish(run, rows, on_benchmark, home)
    client = tracking.connect(home)
    artifacts = {item.path for item in client.list_artifacts(run.run_id)}
    name = "evaluation-test-step-000001"
    assert {f"{name}.json", f"{name}-sampled.json", f"{name}-orders.json"} <= artifacts
    assert "evaluation-benchmark-clinical-step-000001.json" in artifacts
    metrics = client.get_run(run.run_id).data.metrics
    assert report.sampled is not None and report.orders is not None
    assert metrics["eval/test/accuracy"] == report.accuracy.mean
    assert metrics["eval/test/sampled/pass_at_2"] == report.sampled.pass_at[2].mean
    assert metrics["eval/test/orders/position_bias"] == report.orders.position_bias
    assert metrics["eval/benchmark/clinical/accuracy"] == on_benchmark.accuracy.mean
    (model,) = client.search_logged_models([run.experiment_id])
    digests = {metric.key: metric.dataset_digest for metric in model.metrics or []}
    assert digests["eval/test/accuracy"] == rows.digests["test"]
    assert digests["eval/benchmark/clinical/accuracy"] == rows.benchmarks["clinical"]
    assert len(tracking.history(run.run_id, "eval/test/accuracy", home)) == 1


def test_a_path_is_no_part_of_a_metric_s_name(report: EvalReport) -> None:
    named = report.model_copy(update={"benchmark": "/data/my set.csv (benchmark 2)"})
    assert tracking.rows_label(named) == "benchmark/_data_my_set.csv_benchmark_2_"
    assert tracking.rows_label(report) == "test"
