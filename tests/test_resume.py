"""A training that is killed anywhere and resumed ends with the bytes of one that ran through."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT

from medgrpo import tracking
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.fingerprint import file_digest
from medgrpo.grpo.checkpoints import adapters, newest, verified
from medgrpo.grpo.protocol import EXIT_STOPPED, STOPPED, Job
from medgrpo.policy import adapter_digest
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

DRIVER = Path(__file__).with_name("resume_driver.py")
STEPS = 12
"""Three epochs of two blocks of two steps."""


class Ended(NamedTuple):
    """What a training left."""

    adapter: str
    randomness: str
    reports: dict[int, str]
    steps: list[int]


@pytest.fixture(scope="module")
def short(config: Config) -> Config:
    """Nine train rows, four per block: two blocks an epoch and a row left out; two steps a block, in two parts each."""
    grpo = {"steps": STEPS, "checkpoints": 3, "prompts_per_step": 4, "num_generations": 2, "num_iterations": 2}
    grpo |= {"gradient_accumulation_steps": 2, "max_completion_tokens": 8, "learning_rate": 1e-2}
    data = config.data.model_dump(mode="json") | {"validation_rows": 4, "test_rows": 4}
    data["source"] |= {"rows": 17}
    changed = {"name": "resumed", "data": data, "rewards": [{"kind": "custom", "function": "resume_driver:shape"}]}
    return changing(Config.model_validate(config.model_dump(mode="json") | changed), grpo)


def changing(config: Config, grpo: dict[str, Any], **sections: Any) -> Config:
    """The config with other GRPO settings, and other sections."""
    whole = config.model_dump(mode="json")
    return Config.model_validate(whole | {"grpo": whole["grpo"] | grpo} | sections)


@pytest.fixture(scope="module")
def rows(short: Config, base: BaseRef, settings: Settings) -> DatasetRef:
    dataset = prepare(short, base, settings)
    assert dataset.rows["train"] == 9
    return dataset


@pytest.fixture(scope="module")
def driver(settings: Settings) -> Iterator[Callable[[dict[str, Any]], int]]:
    """Runs one training process; its exit status: below 0 the signal that ended it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(DRIVER.parent)])}
    process = subprocess.Popen(
        [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    assert stdout.readline() == "ready\n"

    def run(order: dict[str, Any]) -> int:
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return os.waitstatus_to_exitcode(int(stdout.readline()))

    yield run
    stdin.close()
    process.wait()


class Trial:
    """One training, in a folder and an MLflow run of its own."""

    def __init__(self, job: Job, driver: Callable[[dict[str, Any]], int]) -> None:
        self.job = job
        self.output = Path(job.output)
        self._driver = driver

    def start(self, end: dict[str, Any] | None = None, **more: Any) -> int:
        """Run the training process until it ends itself, or is done."""
        order = self.output / "job.json"
        order.write_text(self.job.model_dump_json(), encoding="utf-8")
        return self._driver({"job": str(order), "output": str(self.output), "end": end, **more})

    @property
    def log(self) -> str:
        return (self.output / "train.log").read_text(encoding="utf-8")

    def result(self) -> Ended:
        """What the finished training left."""
        found = newest(self.output)
        assert found is not None and found[0] == STEPS, self.log[-3000:]
        logged = tracking.history(self.job.run_id, "train/loss", self.job.settings)
        reports = {step: adapter_digest(self.output / f"checkpoint-{step}") for step in (4, 8, 12)}
        randomness = file_digest(found[1] / "rng_state.pth")
        return Ended(adapter_digest(found[1]), randomness, reports, [step for step, _ in logged])


@pytest.fixture(scope="module")
def trial(
    short: Config, base: BaseRef, rows: DatasetRef, settings: Settings, driver: Any, tmp_path_factory: Any
) -> Callable[..., Trial]:
    """Makes trainings that differ in nothing but their folder."""

    def make(name: str, config: Config = short) -> Trial:
        output = tmp_path_factory.mktemp("training")
        run = tracking.open_run(config, rows, name, settings, {})
        job = Job(config=config, base=base, dataset=rows, run_id=run.run_id, output=str(output), settings=settings)
        return Trial(job, driver)

    return make


@pytest.fixture(scope="module")
def whole(trial: Callable[..., Trial]) -> Ended:
    """The training that nothing happened to."""
    undisturbed = trial("whole")
    assert undisturbed.start() == 0, undisturbed.log[-3000:]
    return undisturbed.result()


def test_every_checkpoint_of_the_undisturbed_training_differs(whole: Ended) -> None:
    assert len(set(whole.reports.values())) == 3, "a policy that learns nothing would be resumed exactly by anything"
    assert whole.steps == list(range(1, STEPS + 1))


PLACES = [
    {"at": "rollout", "step": 6, "signal": "SIGKILL"},  # the second epoch's second block
    {"at": "unsealed", "step": 8, "signal": "SIGKILL"},  # in a save, at the end of the second epoch
    {"at": "loss", "step": 9, "signal": "SIGKILL"},  # the third epoch, inside a block
]


def name(end: dict[str, Any]) -> str:
    return f"{end['at']}-{end['step']}-{end['signal']}"


@pytest.mark.parametrize("end", PLACES, ids=name)
def test_a_training_that_died_anywhere_yields_the_same_bytes(
    end: dict[str, Any], trial: Callable[..., Trial], whole: Ended
) -> None:
    killed = trial(name(end))
    assert killed.start(end) == -signal.SIGKILL, killed.log[-3000:]
    assert killed.start() == 0, killed.log[-3000:]
    assert "going on from step 4" in killed.log or "going on from step 8" in killed.log
    assert killed.result() == whole


def test_a_training_that_is_asked_to_end_saves_between_two_blocks(trial: Callable[..., Trial], whole: Ended) -> None:
    stopped = trial("stopped")
    assert stopped.start({"at": "step", "step": 4, "signal": "SIGTERM"}) == EXIT_STOPPED, stopped.log[-3000:]
    assert [step for step, _ in verified(stopped.output)] == [4, 6], "the block of steps 5 and 6 is finished"
    assert (stopped.output / STOPPED).read_text(encoding="utf-8").endswith("saved after step 6")
    assert stopped.start() == 0, stopped.log[-3000:]
    assert "going on from step 6" in stopped.log
    assert stopped.result() == whole
    assert [step for step, _ in adapters(stopped.output)] == [4, 8, 12], "it stays as long as it may be needed"


def test_a_training_that_has_made_no_step_ends_at_once(trial: Callable[..., Trial]) -> None:
    stopped = trial("stopped early")
    assert stopped.start({"at": "rollout", "step": 0, "signal": "SIGTERM"}) == EXIT_STOPPED, stopped.log[-3000:]
    assert "too far away" in (stopped.output / STOPPED).read_text(encoding="utf-8")
    assert newest(stopped.output) is None


def test_a_save_that_is_too_far_away_is_not_waited_for(trial: Callable[..., Trial]) -> None:
    stopped = trial("too far")
    end = {"at": "step", "step": 5, "signal": "SIGTERM"}
    assert stopped.start(end, grace_s=0) == EXIT_STOPPED, stopped.log[-3000:]
    assert [step for step, _ in verified(stopped.output)] == [4]


def test_evaluation_between_steps_changes_nothing(trial: Callable[..., Trial], whole: Ended) -> None:
    evaluating = trial("evaluating")
    assert evaluating.start(evaluates=True) == 0, evaluating.log[-3000:]
    assert evaluating.result() == whole
    state = json.loads((evaluating.output / "checkpoint-12" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in state["log_history"] if "eval_reward" in entry] == [2, 4, 6, 8, 10, 12]


def test_old_checkpoints_keep_their_adapter_and_lose_the_rest(trial: Callable[..., Trial]) -> None:
    pruned = trial("pruned")
    assert pruned.start({"at": "pruned", "step": 4, "signal": "SIGKILL"}) == -signal.SIGKILL
    assert [step for step, _ in verified(pruned.output)] == [8, 12]
    assert [step for step, _ in adapters(pruned.output)] == [4, 8, 12]


VARIANTS = {
    "blocks of two steps": ({}, {}),
    "redraws": (
        {"num_iterations": 1, "redraws": 2},
        {"rewards": [{"kind": "custom", "function": "resume_driver:parity"}]},
    ),
    "stock steps": ({"fast_path": False, "num_iterations": 1, "beta": 0.1}, {}),
    "a warm start": ({"beta": 0.1}, {"warm_start": {"rows": 4, "batch_size": 2}}),
}
AT_ANY_STEP = ("loss", "step", "log", "unsent", "sent")
AT_A_SAVE = ("half-saved", "unsealed", "unnamed")


def draw(dice: random.Random) -> dict[str, Any]:
    """Somewhere to end."""
    at = dice.choice((*AT_ANY_STEP, *AT_A_SAVE, "rollout", "scoring", "named", "anywhere"))
    step: float = dice.randrange(STEPS)
    if at in AT_A_SAVE:
        step = dice.choice((4, 8, 12))
    elif at in ("rollout", "scoring"):
        step = dice.randrange(0, STEPS, 2)
    elif at == "anywhere":
        step = dice.uniform(0.5, 6)
    elif at in ("log", "unsent", "sent"):
        step += 1
    return {"at": at, "step": step, "signal": dice.choice(("SIGKILL", "SIGKILL", "SIGTERM"))}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_five_trainings_that_end_again_and_again_yield_the_same_bytes(
    variant: str, short: Config, trial: Callable[..., Trial]
) -> None:
    grpo, sections = VARIANTS[variant]
    config = changing(short, grpo, **sections)
    undisturbed = trial(variant, config)
    assert undisturbed.start() == 0, undisturbed.log[-3000:]
    dice = random.Random(variant)
    for number in range(5):
        killed = trial(f"{variant} {number}", config)
        ends = [draw(dice) for _ in range(dice.randint(1, 3))]
        codes = [killed.start(end) for end in ends]
        assert set(codes) <= {0, -signal.SIGKILL, EXIT_STOPPED}, killed.log[-3000:]  # 0: it was past that point
        assert killed.start() == 0, killed.log[-3000:]
        assert killed.result() == undisturbed.result(), ends
