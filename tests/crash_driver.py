"""What test_crashes.py breaks: a flow of the pipeline's own tasks, cut down to those that can lose or double something."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect import flow
from prefect_server import until

from medgrpo.config_file import read_config
from tasks.prepare import prepare, resolve_base
from tasks.register import register
from tasks.track import close_run, fail_run, hold_run, open_run
from tasks.train import train

ROOT = Path(__file__).parent.parent
POOL = "crashes"


@flow(name="crashes", on_running=[hold_run], on_failure=[fail_run], on_crashed=[fail_run], on_cancellation=[fail_run])
def short_pipeline(config_path: str) -> None:
    """Train, and make the last checkpoint a version; the hooks are the pipeline's."""
    config = read_config(Path(config_path))
    base = resolve_base(config)
    dataset = prepare(config, base)
    run = open_run(config, base, dataset)
    training = train(config, base, dataset, run)
    register(config, base, dataset, training.checkpoints[-1], run, {})
    close_run(config, base, dataset, run, "registered")


class Server:
    """A real process that can be stopped, killed, and started again at the same place."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], log: Path, is_up: Callable[[], bool]
    ) -> None:
        self.command, self.environment, self.log, self.is_up = command, environment, log, is_up
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env=os.environ | self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.ready()

    def ready(self) -> None:
        until(self.is_up, f"{self.command[:2]} did not start: {self.log.read_text()[-2000:]}")

    def send(self, number: int) -> None:
        """Signal the whole server, as it may have workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(number)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:  # Prefect's worker now and then stays; a supervisor kills it then, too
                self.send(signal.SIGKILL)
                self.process.wait(60)


class Prefect:
    """A Prefect server's API, as the UI uses it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A call; SQLite answers 503 while the server's own services write."""

        def call() -> httpx.Response | None:
            try:
                answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=20, trust_env=False)
            except httpx.HTTPError:
                return None
            return None if answer.status_code == 503 else answer

        answer = until(call, f"{path}: no answer")
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def deploy(self) -> str:
        made = self.ask("POST", "/flows/", {"name": "crashes"})
        self.ask("POST", "/work_pools/", {"name": POOL, "type": "process", "base_job_template": template()})
        deployment = {
            "name": "crashes",
            "flow_id": made["id"],
            "work_pool_name": POOL,
            "entrypoint": "tests/crash_driver.py:short_pipeline",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            "enforce_parameter_schema": False,
        }
        return str(self.ask("POST", "/deployments/", deployment)["id"])

    def start(self, deployment: str, config: Path, env: Mapping[str, str], tags: Sequence[str] = ()) -> str:
        order: dict[str, Any] = {"parameters": {"config_path": str(config)}, "job_variables": {"env": dict(env)}}
        order |= {"tags": list(tags)}
        return str(self.ask("POST", f"/deployments/{deployment}/create_flow_run", order)["id"])

    def state(self, flow_run: str) -> str:
        return str(self.ask("GET", f"/flow_runs/{flow_run}")["state"]["type"])

    def states(self, flow_run: str) -> list[Any]:
        """All states that it was in, the oldest first."""
        found = self.ask("GET", f"/flow_run_states/?flow_run_id={flow_run}")
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def set_state(self, flow_run: str, kind: str, name: str) -> None:
        state: dict[str, Any] = {"type": kind, "name": name}
        if kind == "SCHEDULED":
            state["state_details"] = {"scheduled_time": datetime.now(UTC).isoformat()}
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})

    def wait(self, flow_run: str, *states: str) -> str:
        found = until(lambda: (now := self.state(flow_run)) in states and now, f"{flow_run} did not become {states}")
        return str(found)


def template() -> Any:
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def of_flow_run(flow_run: str) -> list[psutil.Process]:
    """All processes that were started for a flow run: its worker's helpers, its code's, the trainer."""
    return processes(lambda process: process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run)


def processes(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """All living processes of which this holds."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and wanted(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def trainers(output: Path) -> list[psutil.Process]:
    """The training processes that work in a folder."""
    return processes(lambda process: str(output / "job.json") in process.cmdline())
