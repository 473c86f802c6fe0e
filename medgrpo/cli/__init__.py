"""The command line: the same stages, with and without Prefect. Heavy libraries are imported inside the commands."""

import signal
import sys

from medgrpo.cli import champion, operating, pipeline, serving  # noqa: F401 (each adds its commands, in this order)
from medgrpo.cli.app import app
from medgrpo.errors import MedgrpoError

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: a medgrpo failure is one message on standard error and its exit code, never a stack trace."""
    from medgrpo.progress import quiet

    quiet()
    # An exit that unwinds: the training process and the embedded server are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except MedgrpoError as error:
        print(f"medgrpo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
