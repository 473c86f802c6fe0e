"""More than one training process: the same adapter, the same prompts, and nothing left behind."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from scale_worker import Case, run

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.errors import TrainingRefused
from medgrpo.grpo.command import launcher
from medgrpo.grpo.launch import train
from medgrpo.keys import train_key
from medgrpo.rewards import CorrectReward, CustomReward, FormatReward
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, TrainingRef

REWARDS = (CorrectReward(), FormatReward(weight=0.5))
TOLERANCE = 1e-6
"""Difference of an adapter weight between one process and two, after steps of up to 1e-3: sums in another order."""
AMPLIFIED = (0.001, 1e-4)
"""Share of the weights that may differ by more, and by how much: Adam divides a gradient near 0 by its own size."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": {"loss_type": "grpo", "gradient_accumulation_steps": 2},
    "iterations": {"loss_type": "dr_grpo", "num_iterations": 2, "beta": 0.04},
    "stock": {"fast_path": False},
}


def with_grpo(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"grpo": config.grpo.model_copy(update=changes)})


@pytest.fixture(scope="module")
def trained(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Number of processes → folder with what each case has left."""
    cases = [
        Case(
            name=name,
            config=with_grpo(config, learning_rate=1e-3, **changes).model_copy(update={"rewards": REWARDS}),
            base=base,
            dataset=dataset,
            settings=settings,
        )
        for name, changes in CASES.items()
    ]
    folders = {number: tmp_path_factory.mktemp(f"processes-{number}") for number in (1, 2)}
    orders = folders[2] / "cases.json"
    orders.write_text(json.dumps([case.model_dump(mode="json") for case in cases]), encoding="utf-8")
    with subprocess.Popen(
        [*launcher(Settings(processes=2)), str(ROOT / "tests" / "scale_worker.py"), str(orders), str(folders[2])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as two:
        for case in cases:
            run(case, folders[1])
        _, said = two.communicate(timeout=400)
    assert two.returncode == 0, said[-3000:]
    return folders


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_the_adapter_that_one_trains(trained: dict[int, Path], name: str) -> None:
    one, two = (load_file(trained[number] / f"{name}.safetensors") for number in (1, 2))
    assert one.keys() == two.keys()
    assert max(float(value.abs().max()) for key, value in one.items() if "lora_B" in key) > 1e-4, "nothing was trained"
    differences = torch.cat([(two[key] - value).abs().flatten() for key, value in one.items()])
    share, most = AMPLIFIED
    assert float((differences > TOLERANCE).float().mean()) < share
    assert float(differences.max()) < most


def prompts(folder: Path, name: str, rank: int) -> list[str]:
    seen: list[str] = json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8"))
    return seen


@pytest.mark.parametrize("name", CASES)
def test_each_process_gets_its_share_of_the_prompts_in_whole_groups(
    trained: dict[int, Path], name: str, config: Config
) -> None:
    alone = prompts(trained[1], name, 0)
    group = config.grpo.num_generations
    share = config.grpo.completions_per_step // 2
    halves = [prompts(trained[2], name, rank) for rank in (0, 1)]
    assert len(alone) == 2 * len(halves[0]) == 2 * len(halves[1])
    for start in range(0, len(halves[0]), share):
        both = [question for half in halves for question in half[start : start + share]]
        assert both == alone[2 * start : 2 * (start + share)]
    assert all(len(set(half[i : i + group])) == 1 for half in halves for i in range(0, len(half), group))
    assert halves[0] != halves[1]


# --- whole trainings, through the launcher


def start(config: Config, base: BaseRef, dataset: DatasetRef, home: Settings) -> tuple[TrainingRef, Path]:
    """Train with two processes; the training and its folder."""
    both = Settings.model_validate(home.model_dump() | {"processes": 2})
    key = train_key(config, dataset, base)
    run = tracking.open_run(config, dataset, key, both, {})
    return train(config, base, dataset, run, both), both.training(key)


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bytes_and_write_everything_once(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    changed = config.model_copy(update={"seed": 21})
    whole, output = start(changed, base, dataset, settings)
    assert [checkpoint.step for checkpoint in whole.checkpoints] == [2, 4]
    assert {path.name for path in (output / "checkpoint-4").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    steps = [step for step, _ in tracking.history(whole.run_id, "train/reward", settings)]
    assert steps == [1, 2, 3, 4]
    rows = pd.read_parquet(output / "rollouts.parquet")
    assert len(rows) == changed.grpo.steps * changed.grpo.completions_per_step
    (output / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"half a file")
    again, _ = start(changed, base, dataset, settings)
    assert again == whole, "the last steps, made again from the checkpoint before, give the same bytes"
    assert [step for step, _ in tracking.history(whole.run_id, "train/reward", settings)] == steps


@pytest.mark.slow
def test_a_refusal_by_one_process_comes_through_the_launcher(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    picky = CustomReward(function="scale_worker:only_on_rank_0")
    changed = config.model_copy(update={"seed": 22, "rewards": (*REWARDS, picky)})
    with pytest.raises(TrainingRefused, match="not on this rank"):
        start(changed, base, dataset, settings)


# --- processes that are killed

RANK = """
import os, time
from medgrpo.grpo.__main__ import die_with_parent
die_with_parent()
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys
started = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True)
print(started.pid, flush=True)
for line in started.stdout:
    print(line, end="", flush=True)
sys.exit(started.wait())
"""


@pytest.mark.parametrize("killed", ["medgrpo", "launcher"])
def test_no_process_outlives_what_started_it(tmp_path: Path, killed: str) -> None:
    """As `launch` starts them: the launcher in a session of its own with a pipe, each rank in one of its own."""
    (tmp_path / "rank.py").write_text(RANK, encoding="utf-8")
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    command = [*launcher(Settings(processes=2)), str(tmp_path / "rank.py")]
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        launched, *ranks = [psutil.Process(int(parent.stdout.readline())) for _ in range(3)]
        assert {os.getsid(process.pid) for process in ranks} == {process.pid for process in ranks}
        try:
            (parent if killed == "medgrpo" else launched).kill()
            assert psutil.wait_procs([launched, *ranks], timeout=30)[1] == []
            assert parent.wait(timeout=30) != 0
        finally:
            for process in (launched, *ranks):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            parent.kill()
