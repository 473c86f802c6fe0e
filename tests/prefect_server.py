"""A real Prefect server with its services, and waiting for it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

PATIENCE_S = 300
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Run a server on a free port; the URL of its API."""
    port = free_port()
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}/api"
        try:
            until(lambda: answers(f"{url}/ready"), f"Prefect's server did not start: {home / 'server.log'}", server)
            yield url
        finally:
            server.terminate()
            server.wait()


def newest_flow_run(flow: str) -> Any:
    """The flow run of this flow that began last, if any did: other tests leave scheduled ones on the same server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterStartTime
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False)),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
    return found[0] if found else None


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def until(condition: Callable[[], T], complaint: str, process: "subprocess.Popen[bytes] | None" = None) -> T:
    """Ask until a condition of another process holds, which tells us nothing by itself; what it gave.

    A server that has no answer in time is asked again: its SQLite may be locked while two cores train beside it.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := _asked(condition)):
        assert time.monotonic() < deadline, complaint
        assert process is None or process.poll() is None, complaint
        time.sleep(0.2)
    return found


def _asked(condition: Callable[[], T]) -> T | None:
    try:
        return condition()
    except httpx.TimeoutException:
        return None
