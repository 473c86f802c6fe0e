"""Guards: which bound was broken, since when, and what becomes of the training then."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_checkpoints import _checkpoint as write_checkpoint

from medgrpo import tracking
from medgrpo.config import Config, GrpoConfig, GuardConfig
from medgrpo.errors import ConfigError, TrainingRefused
from medgrpo.grpo.checkpoints import verified
from medgrpo.grpo.guards import OVERFLOWS, Broken, Guard
from medgrpo.grpo.launch import train
from medgrpo.grpo.refusals import max_positions, refuse_early
from medgrpo.grpo.rollback import ASIDE, after_rollbacks, read_rollbacks, roll_back
from medgrpo.grpo.rollouts import collect, write_step
from medgrpo.keys import train_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

GOOD = {"loss": 0.1, "grad_norm": 1.0, "entropy": 0.5, "kl": 0.1, "completions/clipped_ratio": 0.2}
GOOD |= {"frac_reward_zero_std": 0.2}
BOUNDS = {"min_entropy": 0.2, "max_kl": 1.0, "max_clipped_ratio": 0.8, "max_degenerate_ratio": 0.8, "patience": 3}


def _watch(guard: Guard, steps: list[dict[str, float]]) -> list[Broken | None]:
    return [guard.watch(GOOD | figures, step) for step, figures in enumerate(steps, 1)]


@pytest.mark.parametrize(
    ("figures", "key", "advice"),
    [
        ({"entropy": 0.1}, "grpo.guards.min_entropy = 0.2", "grpo.temperature"),
        ({"kl": 1.5}, "grpo.guards.max_kl = 1", "grpo.beta"),
        ({"completions/clipped_ratio": 0.9}, "grpo.guards.max_clipped_ratio = 0.8", "grpo.max_completion_tokens"),
        ({"frac_reward_zero_std": 0.9}, "grpo.guards.max_degenerate_ratio = 0.8", "grpo.redraws"),
    ],
)
def test_a_bound_must_be_broken_for_patience_steps_in_a_row(figures: dict[str, float], key: str, advice: str) -> None:
    found = _watch(Guard(GuardConfig(**BOUNDS)), [figures, figures, {}, {}, figures, figures, figures])
    assert found[:-1] == [None] * 6
    last = found[-1]
    assert last is not None and (last.first, last.step) == (5, 7)
    value = next(iter(figures.values()))
    for words in (key, "3 steps in a row, 5 to 7", f"{value}, {value}, {value}", advice):
        assert words in last.reason


@pytest.mark.parametrize("figures", [{"entropy": 0.2}, {"kl": 1.0}, {"completions/clipped_ratio": 0.8}])
def test_a_value_on_its_bound_is_good(figures: dict[str, float]) -> None:
    assert _watch(Guard(GuardConfig(**BOUNDS)), [figures] * 5) == [None] * 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_nan_ends_a_training_at_once(name: str, value: float) -> None:
    first, second = _watch(Guard(GuardConfig()), [{}, {name: value}])
    assert first is None
    assert second is not None and second.first == 2
    assert f"{name} is {value} at step 2" in second.reason and "lower grpo.learning_rate" in second.reason


def test_a_scaled_loss_may_overflow_some_steps_in_a_row() -> None:
    guard = Guard(GuardConfig(), scales_loss=True)
    steps = [{"grad_norm": math.inf}] * OVERFLOWS
    found = _watch(guard, steps)
    assert found[:-1] == [None] * (OVERFLOWS - 1) and found[-1] is not None
    assert guard.watch(GOOD | {"loss": math.nan}, 99) is not None


@given(st.lists(st.dictionaries(st.sampled_from(sorted(GOOD)), st.floats(-1e9, 1e9)), max_size=20))
def test_without_bounds_nothing_finite_ends_a_training(steps: list[dict[str, float]]) -> None:
    assert not any(_watch(Guard(GuardConfig()), steps))


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 6))
def test_patience_is_counted_from_the_first_broken_step(broken: list[bool], patience: int) -> None:
    guard = Guard(GuardConfig(**BOUNDS | {"patience": patience}))
    streak = 0
    for step, is_broken in enumerate(broken, 1):
        streak = streak + 1 if is_broken else 0
        found = guard.watch(GOOD | ({"entropy": 0.0} if is_broken else {}), step)
        assert (found is not None) == (streak >= patience)
        if found is not None:
            assert (found.first, found.step) == (step - streak + 1, step)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 20))
def test_a_resumed_training_counts_like_one_that_ran_through(broken: list[bool], cut: int) -> None:
    history = [GOOD | {"step": step, "entropy": 0.0 if bad else 0.5} for step, bad in enumerate(broken, 1)]
    whole, resumed = Guard(GuardConfig(**BOUNDS)), Guard(GuardConfig(**BOUNDS))
    for entry in history[:cut]:
        whole.watch(entry, int(entry["step"]))
    resumed.replay(history[:cut])
    for entry in history[cut:]:
        assert whole.watch(entry, int(entry["step"])) == resumed.watch(entry, int(entry["step"]))


def test_a_step_that_samples_nothing_neither_breaks_nor_mends() -> None:
    guard = Guard(GuardConfig(max_clipped_ratio=0.5, patience=2))
    assert guard.watch({"loss": 0.1, "completions/clipped_ratio": 0.9}, 1) is None
    assert guard.watch({"loss": 0.1}, 2) is None
    found = guard.watch({"loss": 0.1, "completions/clipped_ratio": 0.9}, 3)
    assert found is not None and found.first == 1


def test_after_redraws_counts_what_they_left() -> None:
    guard = Guard(GuardConfig(max_degenerate_ratio=0.5, patience=1))
    assert guard.watch(GOOD | {"frac_reward_zero_std": 0.9, "degenerate_groups": 0.1}, 1) is None
    assert guard.watch(GOOD | {"frac_reward_zero_std": 0.1, "degenerate_groups": 0.9}, 2) is not None


def test_a_bound_on_kl_needs_a_reference() -> None:
    with pytest.raises(ValidationError, match=r"guards\.max_kl needs beta above 0"):
        GrpoConfig(guards=GuardConfig(max_kl=1.0))
    assert GrpoConfig(beta=0.01, guards=GuardConfig(max_kl=1.0)).guards.max_kl == 1.0


# --- rollbacks


def _broken(first: int, step: int) -> Broken:
    return Broken(first, step, "the entropy fell")


@pytest.mark.parametrize(
    ("first", "kept", "to"),
    [(26, [10, 20], 20), (21, [10], 10), (22, [10, 20], 20), (12, [10], 10), (11, [], 0), (2, [], 0)],
)
def test_training_goes_back_to_a_checkpoint_whose_policy_was_still_good(
    tmp_path: Path, first: int, kept: list[int], to: int
) -> None:
    """The policy of checkpoint k is what step k + 1 measured."""
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)
        write_step(tmp_path, step, pd.DataFrame({"example": ["a"], "correct": [True]}))
    roll_back(tmp_path, GuardConfig(), _broken(first, 31))
    assert [step for step, _ in verified(tmp_path)] == kept
    (entry,) = read_rollbacks(tmp_path)
    assert (entry.first, entry.step, entry.to) == (first, 31, to)
    aside = {folder.name for folder in (tmp_path / ASIDE).iterdir()}
    gone = [step for step in (10, 20, 30) if step not in kept]
    assert aside == {name for step in gone for name in (f"1-checkpoint-{step}", f"1-completions_{step:05d}.parquet")}
    assert collect(tmp_path)["step"].tolist() == kept


def test_rollbacks_end_after_so_many(tmp_path: Path) -> None:
    guards = GuardConfig(max_rollbacks=2)
    for step in (12, 14):
        roll_back(tmp_path, guards, _broken(step, step))
    with pytest.raises(TrainingRefused, match=r"the entropy fell \(after 2 rollbacks"):
        roll_back(tmp_path, guards, _broken(16, 16))
    assert len(read_rollbacks(tmp_path)) == 2


def test_a_first_step_that_breaks_a_bound_is_no_matter_of_the_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="nothing good to go back to"):
        roll_back(tmp_path, GuardConfig(), _broken(1, 5))
    assert read_rollbacks(tmp_path) == []


def test_a_rollback_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    """Checkpoints are set aside before the rollback counts; one that is there already is replaced."""
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)
    (tmp_path / ASIDE).mkdir()
    (tmp_path / "checkpoint-30").rename(tmp_path / ASIDE / "1-checkpoint-30")  # here it was cut off
    assert read_rollbacks(tmp_path) == []
    write_checkpoint(tmp_path, 30)  # made again from checkpoint 20, and broken again
    roll_back(tmp_path, GuardConfig(), _broken(15, 31))
    assert [step for step, _ in verified(tmp_path)] == [10]
    assert {folder.name for folder in (tmp_path / ASIDE).iterdir()} == {"1-checkpoint-20", "1-checkpoint-30"}


def test_the_learning_rate_falls_with_each_rollback(config: Config) -> None:
    rates = [after_rollbacks(config, count).grpo.learning_rate for count in (0, 1, 2)]
    factor = config.grpo.guards.learning_rate_factor
    assert rates == [config.grpo.learning_rate * factor**count for count in (0, 1, 2)]


# --- refused before anything is loaded


@pytest.mark.parametrize(
    ("changes", "rows", "longest", "processes", "said"),
    [
        ({}, 1, 10, 1, r"1 train rows don't fill one step of grpo\.prompts_per_step = 2"),
        ({}, 60, 1000, 1, r"a prompt of 1000 tokens and grpo\.max_completion_tokens = 48 are more than the 1024"),
        ({"redraws": 1}, 60, 10, 2, r"grpo\.redraws = 1 works in one process only"),
    ],
)
def test_what_can_not_train_is_refused_early(
    config: Config, base: BaseRef, changes: dict[str, Any], rows: int, longest: int, processes: int, said: str
) -> None:
    changed = config.model_copy(update={"grpo": config.grpo.model_copy(update=changes)})
    assert max_positions(base) == 1024
    with pytest.raises(ConfigError, match=said):
        refuse_early(changed, base, rows, longest, processes)


def test_what_can_train_is_not_refused(config: Config, base: BaseRef) -> None:
    refuse_early(config, base, 2, 1024 - 48, 2)


def test_a_base_that_names_no_positions_has_room(config: Config, base: BaseRef, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8}}), encoding="utf-8")
    refuse_early(config, base.model_copy(update={"folder": str(tmp_path)}), 2, 10**9)


# --- the whole way, with a training process


def _train(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> tuple[str, Path, Any]:
    key = train_key(config, dataset, base)
    run = tracking.open_run(config, dataset, key, settings, {})
    output = settings.training(key)
    try:
        return run.run_id, output, train(config, base, dataset, run, settings)
    except TrainingRefused as error:
        return run.run_id, output, error


def _changed(config: Config, seed: int, guards: GuardConfig, **grpo: Any) -> Config:
    """A training that the session's others don't find again, with a flat learning rate after one step without."""
    flat = {"lr_schedule": "constant_with_warmup", "warmup_ratio": 0.25, "guards": guards}
    return config.model_copy(update={"seed": seed, "grpo": config.grpo.model_copy(update=flat | grpo)})


@pytest.mark.slow
def test_a_training_that_explodes_goes_on_from_before_with_a_lower_rate(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    guards = GuardConfig(action="rollback", learning_rate_factor=1e-33)
    changed = _changed(config, 21, guards, learning_rate=1e30, checkpoints=4)
    run_id, output, training = _train(changed, base, dataset, settings)
    (entry,) = read_rollbacks(output)
    assert (entry.first, entry.to) == (3, 1), "step 2 made the weights huge, and step 3 met them"
    assert [checkpoint.step for checkpoint in training.checkpoints] == [1, 2, 3, 4]
    rates = dict(tracking.history(run_id, "train/learning_rate", settings)[-2:])
    assert rates == {3: pytest.approx(1e-3), 4: pytest.approx(1e-3)}
    assert tracking.history(run_id, "train/rollbacks", settings)[-1] == (4, 1.0)
    run = tracking.connect(settings).get_run(run_id)
    assert run.data.tags["medgrpo.rollbacks"] == "1"
    for step, folder in verified(output):
        if step > 2:  # as if it had been killed there: what it remembers of the rollback is in the folder
            folder.rename(output / f"lost-{step}")
    again = _train(changed, base, dataset, settings)[2]
    assert again == training


def test_a_broken_bound_stops_with_the_reason_and_shows_what_was_said(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    guards = GuardConfig(max_clipped_ratio=0.5, patience=2)
    changed = _changed(config, 22, guards, max_completion_tokens=4)
    run_id, _, error = _train(changed, base, dataset, settings)
    assert isinstance(error, TrainingRefused)
    assert "grpo.guards.max_clipped_ratio = 0.5 was broken for 2 steps in a row, 1 to 2" in str(error)
    stored = {item.path for item in tracking.connect(settings).list_artifacts(run_id)}
    assert {"rollouts", "rollouts.json", "ledger"} <= stored
