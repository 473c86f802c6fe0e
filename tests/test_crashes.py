"""The crash matrix: real processes are killed, stopped and starved in the middle of a training, and what is left is looked at.

A row breaks something once a checkpoint is sealed. Then: the flow run's documented state, no process that outlived its
starter, one MLflow run, one version, every step logged once, and a rerun that finishes.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from crash_driver import ROOT, Prefect, Server, of_flow_run, processes, trainers
from prefect_server import answers, free_port, until

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

    def automate(self, silence_s: float) -> None:
        """What `medgrpo deploy` sets up to bring a run back, more impatient."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.automations import put, recovery

        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            for automation in recovery(silence_s):
                put(client, automation)

    def end(self) -> None:
        for server in (self.worker, self.server):
            server.end()
        for process in processes(lambda process: process.environ().get("MEDGRPO_HOME") == str(self.settings.root)):
            process.kill()  # what a failed row has left


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
        self.tags: list[str] = []
        self.flow_run = ""

    def start(self) -> None:
        """Let the worker begin, up to the first sealed checkpoint."""
        if self.stack.worker.process is None or self.stack.worker.process.poll() is not None:
            self.stack.worker.start()
        self.flow_run = self.stack.prefect.start(self.stack.deployment, self.path, self.variables, self.tags)
        self.until_checkpoint()

    def until_checkpoint(self) -> None:
        def sealed() -> bool:
            return bool(list(self.output.glob("checkpoint-*/medgrpo-manifest.json"))) and bool(trainers(self.output))

        until(sealed, "no checkpoint appeared")

    def engine(self) -> psutil.Process:
        """The process in which the flow's code runs."""
        process = self.trainer().parent()
        assert process is not None and process in of_flow_run(self.flow_run)
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

    def run(self) -> Any:
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
            lambda: not trainers(self.output) and not of_flow_run(self.flow_run),
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
    found = getattr(request.node, "callspec", None)
    row = Row(found.params["row"] if found else request.node.name)
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
        return super().__new__(cls, "".join(c if c.isalnum() else "-" for c in name.lower())[:40].strip("-"))


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
    "cancelled": (cancel, "CANCELLED", "KILLED"),
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
    until(lambda: case.status() == status, "the worker's hook did not close the MLflow run")
    case.rerun()
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    assert "going on from step" in case.log()
    case.is_whole()
    case.is_alone()


def test_flow_and_worker_killed_look_busy_until_reconciled(case: Case, stack: Stack) -> None:
    """Prefect doesn't notice: the one who could tell is dead, too. A living training beside it stays as it is."""
    case.start()
    engine = case.engine()
    kill_worker(case)
    engine.kill()
    case.is_alone()
    assert stack.prefect.state(case.flow_run) == "RUNNING"
    assert case.status() == "RUNNING"
    alive = sibling(case, "beside")
    alive.start()
    looked, mended = (reconciled(stack, fix) for fix in (False, True))
    assert {(row["what"], row["state"]) for row in looked if row["which"] == case.flow_run} == {("flow run", "found")}
    assert {row["which"] for row in mended if row["state"] == "fixed"} >= {case.flow_run, case.run().info.run_id}
    assert stack.prefect.state(case.flow_run) == "CRASHED"
    assert case.status() == "FAILED"
    assert alive.flow_run not in {row["which"] for row in mended}
    assert stack.prefect.wait(alive.flow_run, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    alive.is_whole()
    case.rerun()
    assert stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    case.is_whole()


def test_a_run_whose_worker_was_asked_to_end_is_finished_all_the_same(case: Case, stack: Stack) -> None:
    """Prefect's worker kills its flow runs and tells nobody: the automations of `medgrpo deploy` notice.

    Now and then it kills none and stays; then they go on, and end as they would have.
    """
    from flows.automations import RETRIED_TAG, TAG

    stack.automate(silence_s=40)  # longer than between two heartbeats, which Prefect sends every 30 s at most
    case.tags, case.variables = [TAG, RETRIED_TAG], {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    case.start()
    stack.worker.end(signal.SIGTERM)
    stack.worker.start()
    assert stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    names = [state["name"] for state in stack.prefect.states(case.flow_run)]
    first, *then = names[names.index("Running") + 1 :]
    if first == "Crashed":
        assert then[0] == "AwaitingRetry"
        assert "going on from step" in case.log()
    else:
        assert (first, then) == ("Completed", [])
    case.is_whole()
    case.is_alone()


def sibling(case: Case, name: str) -> Case:
    """Another training of this home."""
    grpo = case.config.grpo.model_copy(update={"learning_rate": case.config.grpo.learning_rate * 2})
    text = case.path.read_text(encoding="utf-8")
    text = text.replace(f"learning_rate = {case.config.grpo.learning_rate}", f"learning_rate = {grpo.learning_rate}")
    path = case.path.with_name(f"{name}.toml")
    path.write_text(text.replace(case.config.name, name), encoding="utf-8")
    config = read_config(path)
    base = resolve(config.policy.base, case.settings)
    return Case(case.stack, config, path, prepare(config, base, case.settings), base)


def reconciled(stack: Stack, fix: bool) -> list[dict[str, str]]:
    """The reconcile flow in a process of its own, as a worker would run it; what it found."""
    code = "import json, sys; from flows.reconcile import reconcile; "
    code += "print(json.dumps(reconcile(fix=sys.argv[1] == 'True', just_s=0).rows))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(fix)],
        env=os.environ | stack.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return rows


@pytest.fixture
def small_disk(case: Case) -> Iterator[Path]:
    """The training's folder on a disk of its own, of a few megabytes."""
    case.output.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(case.output)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield case.output
    subprocess.run(["umount", "--lazy", str(case.output)], check=True)


def test_a_disk_that_fills_up_is_named_and_a_rerun_finishes(case: Case, small_disk: Path) -> None:
    case.start()
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file, suppress(OSError):
        while (free := shutil.disk_usage(small_disk).free) > 128 * 1024:
            file.write(b"x" * min(free - 64 * 1024, 1024 * 1024))
            file.flush()
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED", "CRASHED") == "FAILED"
    told = case.stack.prefect.ask("GET", f"/flow_runs/{case.flow_run}")["state"]["message"]
    assert "no space left" in told.lower()
    assert case.status() == "FAILED"
    case.is_alone()
    ballast.unlink()
    case.rerun()
    assert case.stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    case.is_whole()


def test_mlflow_may_be_gone_for_a_while(case: Case, stack: Stack, tmp_path: Path) -> None:
    """First it hangs, then it is killed and comes back: no metric is lost or sent twice."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = Server(command, environment, tmp_path / "mlflow.log", lambda: answers(f"{url}/health"))
    try:
        server.start()
        case.variables = {
            "MEDGRPO_TRACKING_URI": url,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        case.start()
        server.send(signal.SIGSTOP)
        until(lambda: "MLflow did not take the metrics" in case.log(), "the training did not notice")
        server.end()
        server.start()
        assert stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
        case.is_whole()
    finally:
        server.end()


def test_a_killed_run_on_one_machine_takes_its_server_with_it(case: Case, stack: Stack, tmp_path: Path) -> None:
    """`medgrpo run` killed, run again and asked to end; then the worker finishes what it began."""
    home = tmp_path / "home"
    for part in ("base_models", "datasets"):
        shutil.copytree(stack.settings.root / part, home / part)
    case.settings = Settings(home=home)
    case.output = case.settings.training(case.key)
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        shutil.rmtree(case.output, ignore_errors=True) if number == signal.SIGKILL else None
        before = len(list(case.output.glob("checkpoint-*")))
        run = started_here(case, tmp_path / "run.log")
        until(
            lambda before=before: (
                len(list(case.output.glob("checkpoint-*/medgrpo-manifest.json"))) > before and trainers(case.output)
            ),
            "no checkpoint appeared",
        )
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(children) >= 2, "Prefect's server and the training process"
        run.send_signal(number)
        assert run.wait(90) == code, (tmp_path / "run.log").read_text(encoding="utf-8")[-2000:]
        assert psutil.wait_procs(children, timeout=30)[1] == []
        if number == signal.SIGKILL:
            assert case.status() == "RUNNING"
            mended = subprocess.run(
                [sys.executable, "-m", "medgrpo.cli", "reconcile", "--yes"],
                env=os.environ | {"MEDGRPO_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "240"},
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert mended.returncode == 0, mended.stderr[-3000:]
            assert case.run().info.run_id in mended.stdout and "fixed" in mended.stdout
    assert case.status() == "FAILED"
    case.variables = {"MEDGRPO_HOME": str(home)}
    case.flow_run = stack.prefect.start(stack.deployment, case.path, case.variables)
    if stack.worker.process is None or stack.worker.process.poll() is not None:
        stack.worker.start()
    assert stack.prefect.wait(case.flow_run, "COMPLETED", "FAILED") == "COMPLETED"
    case.is_whole()


def started_here(case: Case, log: Path) -> "subprocess.Popen[bytes]":
    environment = {"MEDGRPO_HOME": str(case.settings.root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "medgrpo.cli", "run", str(case.path)],
            env=os.environ | environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
