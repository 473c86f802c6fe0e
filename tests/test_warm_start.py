"""The warm start: worked answers are learned, once, and GRPO goes on from there."""

import math
import shutil
from pathlib import Path

import pytest

from medgrpo import tracking
from medgrpo.config import Config, WarmStartConfig
from medgrpo.data.store import read_split
from medgrpo.errors import TrainingRefused
from medgrpo.evaluation import adapter_folder
from medgrpo.grpo.launch import train
from medgrpo.grpo.warm_start import LOSSES, WARM_START, finished, lessons, read_losses, warm_start
from medgrpo.keys import train_key
from medgrpo.policy import adapter_digest
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Example

WARM = WarmStartConfig(rows=24, epochs=2, batch_size=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def warmed(config: Config) -> Config:
    return config.model_copy(update={"warm_start": WARM, "seed": 31})


@pytest.fixture(scope="module")
def examples(dataset: DatasetRef, settings: Settings) -> list[Example]:
    return read_split(dataset, "train", settings)


@pytest.fixture(scope="module")
def output(warmed: Config, base: BaseRef, examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm")
    assert warm_start(warmed, base, examples, folder) == folder / WARM_START
    return folder


def test_its_losses_fall(output: Path) -> None:
    losses = read_losses(output / WARM_START)
    per_epoch = WARM.rows // WARM.batch_size
    assert len(losses) == WARM.epochs * per_epoch
    assert sum(losses[per_epoch:]) < 0.96 * sum(losses[:per_epoch]), "on the same rows"


def test_a_finished_one_is_found_again(warmed: Config, base: BaseRef, output: Path) -> None:
    assert warm_start(warmed, base, [], output) == output / WARM_START, "no row is looked at"


def test_a_damaged_one_is_made_again_to_the_same_bytes(
    warmed: Config, base: BaseRef, examples: list[Example], output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = output / WARM_START
    before = adapter_digest(folder)
    (folder / LOSSES).write_text("[]", encoding="utf-8")
    warm_start(warmed, base, examples, output)
    assert f"making the warm start again: {LOSSES} was changed" in caplog.text
    assert adapter_digest(folder) == before
    assert read_losses(folder)


def test_one_whose_adapter_was_damaged_is_not_evaluated(output: Path, tmp_path: Path) -> None:
    assert finished(output) == [output / WARM_START]
    assert finished(tmp_path) == []
    copy = tmp_path / WARM_START
    shutil.copytree(output / WARM_START, copy)
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert finished(tmp_path) == []


def test_nothing_is_made_where_the_config_asks_for_none(config: Config, base: BaseRef, tmp_path: Path) -> None:
    assert warm_start(config, base, [], tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_lessons_are_worked_rows_drawn_by_the_seed(examples: list[Example]) -> None:
    bare = [example.model_copy(update={"reasoning": ""}) for example in examples]
    mixed = [*bare[:5], *examples[5:]]
    chosen = lessons(mixed, WARM, 1)
    assert len(chosen) == WARM.rows
    assert all(example.reasoning for example in chosen)
    assert chosen == lessons(mixed, WARM, 1) != lessons(mixed, WARM, 2)
    with pytest.raises(TrainingRefused, match="no train row has a worked reasoning"):
        lessons(bare, WARM, 1)


def test_grpo_goes_on_from_it_and_it_is_evaluated_as_step_0(
    warmed: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    key = train_key(warmed, dataset, base)
    assert key != train_key(warmed.model_copy(update={"warm_start": None}), dataset, base)
    run = tracking.open_run(warmed, dataset, key, settings, {})
    training = train(warmed, base, dataset, run, settings)
    assert [checkpoint.label for checkpoint in training.checkpoints] == ["warm start", "step 2", "step 4"]
    start, *later = (checkpoint.adapter_digest for checkpoint in training.checkpoints)
    assert len({start, *later}) == 3
    assert start == adapter_digest(settings.training(key) / WARM_START)
    moved = _distance(
        adapter_folder(training.checkpoints[0], settings), adapter_folder(training.checkpoints[1], settings)
    )
    size = _distance(adapter_folder(training.checkpoints[0], settings), None)
    assert 0 < moved < 0.2 * size, "GRPO moves the adapter on; it doesn't begin with another one"
    losses = tracking.history(run.run_id, "train/warm_start/loss", settings)
    assert losses == list(enumerate(read_losses(settings.training(key) / WARM_START), 1))


def _distance(one: Path, other: Path | None) -> float:
    """Euclidean distance of two adapters; of one from nothing."""
    from safetensors.torch import load_file

    first = load_file(one / "adapter_model.safetensors")
    second = load_file(other / "adapter_model.safetensors") if other else {name: 0.0 * w for name, w in first.items()}
    return math.sqrt(sum(float(((weights - second[name]) ** 2).sum()) for name, weights in first.items()))
