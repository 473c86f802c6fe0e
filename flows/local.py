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
from medgrpo.processes import end_group, started_by, tied
from medgrpo.report import Summary
from medgrpo.settings import Settings
from medgrpo.upkeep.reconcile import Report
from medgrpo.upkeep.redo import StageName

START_TIMEOUT_S = 120
GRACE_S = 10
_OFF = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "TRIGGERS")
_SERVICES = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _OFF}
"""A server for one run schedules nothing. Task runs are recorded: without that service no UI would ever show them."""


def run_pipeline(config: Config, settings: Settings, start_from: StageName | None = None) -> Summary:
    """Run the flow here, against the server that `PREFECT_API_URL` names, or one that lives as long as the run.

    Args:
        start_from: do this stage and those after it again, also where they are finished.
    """
    connect(settings)
    from flows.pipeline import pipeline

    summary: Summary = pipeline(config, start_from)
    return summary


def run_reconcile(settings: Settings, fix: bool) -> Report:
    """Run the flow that finds what was left behind, and mends it if asked to."""
    connect(settings)
    from flows.reconcile import reconcile

    report: Report = reconcile(fix)
    return report


def connect(settings: Settings) -> None:
    """Make Prefect ready for this process: its server, its folders, its logs. Prefect is imported only after this."""
    os.environ["PREFECT_API_URL"] = find_server(settings)
    import prefect  # noqa: F401  (reads its settings when it is first imported, and sets up logging)

    own = logging.getLogger("medgrpo")
    # Prefect adds a console handler for its workers; here a person watches, and the command line has its own.
    own.handlers = [handler for handler in own.handlers if type(handler).__name__ != "PrefectConsoleHandler"]
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_trace)


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
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(command),  # SIGKILL of ours ends it, too
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | _SERVICES | started_by(settings),
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
