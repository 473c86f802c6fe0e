"""Run a command that can't outlive whoever started it: `python -m medgrpo.serve.keeper COMMAND…`.

The command runs in this process's group. The whole group ends when standard input closes, which it does however the
parent dies.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 15
"""How long the command may take to end after SIGTERM, in seconds."""


def main(command: list[str]) -> int:
    """Run the command to its end; its exit code, 128 and the number for a signal."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # whoever started us in their own group must not be ended with the command
    # The group's SIGTERM is for the command; this process ends with it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    orphaned = threading.Event()
    threading.Thread(target=_end_with_stdin, args=(process, orphaned), daemon=True).start()
    code = process.wait()
    if orphaned.is_set():  # nobody else is left to end what the command started
        os.killpg(0, signal.SIGKILL)
    return 128 - code if code < 0 else code


def _end_with_stdin(process: "subprocess.Popen[bytes]", orphaned: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
