"""The pinned set of packages runs Prefect's server: a cron deployment gets its scheduled runs.

With a newer SQLAlchemy or FastAPI the server fails at import, or its scheduler dies and only its log says so.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

START_S = 120


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server with its services, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/api"
    try:
        _until(lambda: _healthy(url), f"Prefect's server did not start: {home / 'server.log'}", server)
        yield url
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_a_cron_deployment_gets_scheduled_runs(api: str) -> None:
    flow = httpx.post(f"{api}/flows/", json={"name": "nightly"}).json()
    schedule = {"active": True, "schedule": {"cron": "0 2 * * *", "timezone": "UTC"}}
    deployment = {"name": "cron", "flow_id": flow["id"], "schedules": [schedule]}

    def deployed() -> bool:  # SQLite answers 503 while the server's own services write
        return httpx.post(f"{api}/deployments/", json=deployment).status_code in (200, 201)

    _until(deployed, "the deployment was not taken")
    wanted = {"flows": {"id": {"any_": [flow["id"]]}}}

    def scheduled() -> bool:
        runs = httpx.post(f"{api}/flow_runs/filter", json=wanted).json()
        return bool(runs) and all(run["state_type"] == "SCHEDULED" for run in runs)

    _until(scheduled, "no scheduled run appeared: is the scheduler alive?")


def test_the_flow_deploys_from_prefect_yaml(api: str) -> None:
    root = Path(__file__).parent.parent
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(root)}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for command in (["work-pool", "create", "medgrpo", "--type", "process"], ["deploy", "--all"]):
        done = subprocess.run(
            [*prefect, *command], env=environment, cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    deployment = httpx.get(f"{api}/deployments/name/medgrpo-train/llama31-8b").json()
    assert deployment["parameters"] == {"config_path": "configs/llama31-8b.toml", "overrides": []}
    assert deployment["schedules"][0]["active"] is False


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _until(condition: Callable[[], bool], complaint: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Ask until a condition of another process holds, which tells us nothing by itself."""
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None), complaint
        time.sleep(0.2)
