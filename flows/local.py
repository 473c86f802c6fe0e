"""The pipeline on one machine: a Prefect server of our own beside this process, its state under the home folder."""

import atexit
import logging
import os
import socket
import subprocess
import sys
import time

import httpx

from medgrpo.config import Config
from medgrpo.environment import HOST, prefect_variables
from medgrpo.errors import MedgrpoError
from medgrpo.processes import end_group
from medgrpo.report import Summary
from medgrpo.settings import Settings

START_TIMEOUT_S = 120
GRACE_S = 10


def run_pipeline(config: Config, settings: Settings) -> Summary:
    """Run the flow here, against the server that `PREFECT_API_URL` names, or one that lives as long as the run."""
    os.environ["PREFECT_API_URL"] = find_server(settings)
    from flows.pipeline import pipeline  # Prefect reads its settings when it is first imported

    own = logging.getLogger("medgrpo")
    # Prefect adds a console handler for its workers; here a person watches, and the command line has its own.
    own.handlers = [handler for handler in own.handlers if type(handler).__name__ != "PrefectConsoleHandler"]
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_trace)
    summary: Summary = pipeline(config)
    return summary


def find_server(settings: Settings) -> str:
    """The URL of Prefect's API: of the server that `PREFECT_API_URL` names, or of one that lives as long as we do."""
    for name, value in prefect_variables(settings).items():
        os.environ.setdefault(name, value)
    return os.environ.get("PREFECT_API_URL") or _start_server(settings)


def _start_server(settings: Settings) -> str:
    """Start a Prefect server on a free port; the URL of its API.

    Prefect's own embedded server shares our terminal's process group: Ctrl-C would end it before it could be told how
    the run ended. This one has a session of its own, and is ended after Prefect's threads have sent their last words.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    url = f"http://{HOST}:{port}/api"
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    log = settings.prefect_home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # Not --no-services: one of them writes down the task runs.
    own = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in ("SCHEDULER", "LATE_RUNS", "FOREMAN")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | own, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    atexit.register(end_group, process, GRACE_S)
    _wait_until_ready(url, process, str(log))
    return url


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ready", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise MedgrpoError(f"Prefect's server did not start: see {log}")


def _without_trace(record: logging.LogRecord) -> bool:
    """Drop the stack trace of medgrpo's own errors: the message already says what to do."""
    if record.exc_info and isinstance(record.exc_info[1], MedgrpoError):
        record.exc_info = None
    return True
