"""Ending a process that was started in a session of its own, with everything that it started."""

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any


def end_group(process: "subprocess.Popen[Any]", grace_s: float) -> None:
    """End the process and its children: SIGTERM, and SIGKILL for what is left after `grace_s` seconds."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
