"""The command line: the same stages, with and without Prefect. Heavy libraries are imported inside the commands."""

import signal
import sys

from medgrpo.cli.app import app
from medgrpo.errors import MedgrpoError

# Each adds its commands; --help shows them in this order.
# isort: off
from medgrpo.cli import pipeline, champion, serving, operating  # noqa: F401
# isort: on

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
