"""The servers beside the pipeline on one machine: Prefect in the home folder, and both UIs."""

import os
import subprocess
import sys
from typing import Literal

from medgrpo.errors import MedgrpoError
from medgrpo.processes import end_group, started_by, tied
from medgrpo.settings import Settings

PORTS = {"mlflow": 5000, "prefect": 4200}
HOST = "127.0.0.1"
GRACE_S = 10
"""How long a UI's server may take to end, in seconds."""


def prefect_variables(settings: Settings) -> dict[str, str]:
    """Prefect's environment on one machine: everything under the home folder, nothing sent anywhere."""
    return {
        "PREFECT_HOME": str(settings.prefect_home),
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.prefect_home / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "medgrpo",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def run_ui(which: Literal["mlflow", "prefect"], port: int, settings: Settings) -> None:
    """Run a UI on the home folder until it is stopped.

    Raises:
        MedgrpoError: it ended by itself with an error.
    """
    chosen = str(port or PORTS[which])
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | started_by(settings)
    if which == "mlflow":
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_uri]
        command += ["--artifacts-destination", settings.artifacts.as_uri(), "--host", HOST, "--port", chosen]
    else:
        environment |= prefect_variables(settings)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", chosen]
    print(f"{which} at http://{HOST}:{chosen} (Ctrl-C ends it)", flush=True)
    process = subprocess.Popen(tied(command), stdin=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        code = process.wait()
    finally:
        end_group(process, GRACE_S)
    if code > 0:
        raise MedgrpoError(f"{which} ended with exit code {code}; is port {chosen} in use? Choose another with --port")
