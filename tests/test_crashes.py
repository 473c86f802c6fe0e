"""The crash matrix: real processes are killed, stopped and starved in the middle of a training, and what is left is looked at.

A row breaks something once a checkpoint is sealed. Then: the flow run's documented state, no process that outlived its
starter, one MLflow run, one version, every step logged once, and a rerun that finishes.
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest
from crash_driver import ROOT, Prefect, Server, answers, flow_process, free_port, trainers, until

from medgrpo import tracking
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.data.prepare import prepare
from medgrpo.keys import train_key
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

pytestmark = pytest.mark.slow
STEPS = 60


class Stack:
    """One server, one worker, one home folder for all rows; each row trains something else in it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            "PREFECT_HOME": str(settings.prefect_home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "medgrpo",
            "MEDGRPO_HOME": str(settings.root),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
        }
        at = ["--host", "127.0.0.1", "--port", str(port)]
        self.server = Server(
            ["prefect", "server", "start", *at],
            self.environment,
            folder / "server.log",
            lambda: answers(f"{self.url}/ready"),
        )
        self.worker = Server(
            ["prefect", "worker", "start", "--pool", "crashes", "--name", "crashes"],
            self.environment,
            folder / "worker.log",
            lambda: True,
        )
        self.prefect = Prefect(self.url)

    def end(self) -> None:
        for server in (self.worker, self.server):
            server.end()


@pytest.fixture(scope="module")
def stack(
    settings: Settings, base: BaseRef, dataset: DatasetRef, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("crashes")
    for part in ("base_models", "datasets"):
        shutil.copytree(settings.root / part, home / "home" / part)
    made = Stack(Settings(home=home / "home"), home)
    try:
        made.server.start()
        made.deployment = made.prefect.deploy()
        yield made
    finally:
        made.end()


class Case:
    """A row's training."""

    def __init__(self, stack: Stack, config: Config, path: Path, dataset: DatasetRef, base: BaseRef) -> None:
        self.stack, self.config, self.path = stack, config, path
        self.settings = stack.settings
        self.key = train_key(config, dataset, base)
        self.output = self.settings.training(self.key)
        self.variables: dict[str, str] = {}
        self.flow_run = ""

    def start(self) -> None:
        """Let the worker begin, up to the first sealed checkpoint."""
        if self.stack.worker.process is None or self.stack.worker.process.poll() is not None:
            self.stack.worker.start()
        self.flow_run = self.stack.prefect.start(self.stack.deployment, self.path, self.variables)
        self.until_checkpoint()

    def until_checkpoint(self) -> None:
        def sealed() -> bool:
            return bool(list(self.output.glob("checkpoint-*/medgrpo-manifest.json"))) and bool(trainers(self.output))

        until(sealed, "no checkpoint appeared")

    def engine(self) -> psutil.Process:
        process = flow_process(self.flow_run)
        assert process is not None
        return process

    def trainer(self) -> psutil.Process:
        (process,) = trainers(self.output)
        return process

    def rerun(self) -> None:
        """What `prefect flow-run retry` does."""
        if self.stack.worker.process is None or self.stack.worker.process.poll() is not None:
            self.stack.worker.start()
        self.stack.prefect.set_state(self.flow_run, "SCHEDULED", "AwaitingRetry")

    def log(self) -> str:
        return (self.output / "train.log").read_text(encoding="utf-8", errors="replace")

    def status(self) -> str:
        return str(self.run().info.status)

    def run(self) -> "object":
        client = tracking.connect(self.tracked)
        experiment = client.get_experiment_by_name(self.config.model_name)
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`{tracking.KEY_TAG}` = '{self.key}'")
        return run

    @property
    def tracked(self) -> Settings:
        return Settings(home=self.settings.home, tracking_uri=self.variables.get("MEDGRPO_TRACKING_URI", ""))

    def is_alone(self) -> None:
        """Nothing that was started for this row still runs."""
        until(
            lambda: not trainers(self.output) and flow_process(self.flow_run) is None,
            "a process outlived its starter",
        )

    def is_whole(self) -> None:
        """The training is there once, and all of it."""
        run = self.run()
        assert run.info.status == "FINISHED"
        steps = [step for step, _ in tracking.history(run.info.run_id, "train/loss", self.tracked)]
        assert steps == list(range(1, STEPS + 1)), "each step is logged once"
        versions = tracking.connect(self.tracked).search_model_versions(f"name = '{self.config.model_name}'")
        assert len(versions) == 1


@pytest.fixture
def case(
    request: pytest.FixtureRequest, stack: Stack, config: Config, dataset: DatasetRef, base: BaseRef, tmp_path: Path
) -> Case:
    row = Row(request.node.callspec.params.get("row", request.node.name))
    grpo = {"steps": STEPS, "checkpoints": 6, "max_completion_tokens": 8, "num_generations": 4, "prompts_per_step": 2}
    rate = 1e-4 * (1 + sum(map(ord, row)) / 1e6)
    text = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
    text = text.replace('name = "smoke"', f'name = "{row}"').partition("[grpo]")[0]
    text = text.replace("rows = 240", "rows = 60").replace("validation_rows = 24", "validation_rows = 6")
    text = text.replace("test_rows = 48", "test_rows = 12")
    lines = "".join(f"{name} = {value}\n" for name, value in (grpo | {"learning_rate": rate}).items())
    path = tmp_path / "config.toml"
    path.write_text(f"{text}[grpo]\n{lines}", encoding="utf-8")
    own = read_config(path)
    return Case(stack, own, path, prepare(own, resolve(own.policy.base, stack.settings), stack.settings), base)


class Row(str):
    """A row's name, as a config's name."""

    def __new__(cls, name: str) -> "Row":
        return super().__new__(cls, "".join(c if c.isalnum() else "-" for c in name)[:40].strip("-"))


# --- what is done, and what state follows


def kill_flow(case: Case) -> None:
    case.engine().kill()


def kill_trainer(case: Case) -> None:
    case.trainer().kill()


def kill_worker(case: Case) -> None:
    """Only the worker, as the kernel does when memory runs out."""
    worker = case.stack.worker.process
    assert worker is not None
    worker.kill()
    worker.wait()


def terminate_worker(case: Case) -> None:
    worker = case.stack.worker.process
    assert worker is not None
    worker.terminate()
    worker.wait(90)


def cancel(case: Case) -> None:
    case.stack.prefect.set_state(case.flow_run, "CANCELLING", "Cancelling")


def restart_server(case: Case) -> None:
    case.stack.server.end(signal.SIGTERM)
    case.stack.server.start()


def lock_databases(case: Case) -> None:
    """Somebody else's transaction, over several seconds."""
    names = (case.settings.root / "mlflow.db", case.settings.prefect_home / "prefect.db")
    connections = [sqlite3.connect(path, timeout=30, isolation_level=None) for path in names]
    try:
        for connection in connections:
            connection.execute("BEGIN EXCLUSIVE")
        Event().wait(6)  # how long the lock lasts, not a wait for anything
    finally:
        for connection in connections:
            connection.close()


GOES_ON: dict[str, Callable[[Case], None]] = {
    "trainer killed": kill_trainer,
    "worker killed": kill_worker,
    "Prefect's server restarted": restart_server,
    "databases locked": lock_databases,
}
ENDS: dict[str, tuple[Callable[[Case], None], str, str]] = {
    "flow killed": (kill_flow, "CRASHED", "FAILED"),
    "worker asked to end": (terminate_worker, "CRASHED", "FAILED"),
    "cancelled": (cancel, "CANCELLED", "FAILED"),
}


@pytest.mark.parametrize("row", GOES_ON)
def test_what_a_flow_run_survives(row: str, case: Case) -> None:
    case.start()
    GOES_ON[row](case)
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    case.is_whole()
    case.is_alone()


@pytest.mark.parametrize("row", ENDS)
def test_what_ends_a_flow_run_leaves_nothing_behind_and_a_rerun_finishes(row: str, case: Case) -> None:
    act, state, status = ENDS[row]
    case.start()
    act(case)
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED") == state
    case.is_alone()
    until(lambda: case.status() == status, "the MLflow run goes on looking busy")
    case.rerun()
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    assert "going on from step" in case.log()
    case.is_whole()
    case.is_alone()
