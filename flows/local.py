"""The pipeline on one machine: Prefect's server embedded in this process, its state under the home folder."""

import logging
import os

from medgrpo.config import Config
from medgrpo.environment import prefect_variables
from medgrpo.errors import MedgrpoError
from medgrpo.report import Summary
from medgrpo.settings import Settings


def run_pipeline(config: Config, settings: Settings) -> Summary:
    """Run the flow here; against the server that `PREFECT_API_URL` names, where it is set."""
    for name, value in prefect_variables(settings).items():
        os.environ.setdefault(name, value)
    from flows.pipeline import pipeline  # Prefect reads its settings when it is first imported

    own = logging.getLogger("medgrpo")
    # Prefect adds a console handler for its workers; here a person watches, and the command line has its own.
    own.handlers = [handler for handler in own.handlers if type(handler).__name__ != "PrefectConsoleHandler"]
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_trace)
    summary: Summary = pipeline(config)
    return summary


def _without_trace(record: logging.LogRecord) -> bool:
    """Drop the stack trace of medgrpo's own errors: the message already says what to do."""
    if record.exc_info and isinstance(record.exc_info[1], MedgrpoError):
        record.exc_info = None
    return True
