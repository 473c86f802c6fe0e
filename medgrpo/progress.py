"""What a person sees while work goes on: a bar on a terminal, lines elsewhere."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(stderr=True)

SILENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""Environment that keeps libraries, and the processes that we start, from drawing bars and from phoning home."""


def outlive_output() -> None:
    """Go on without a word when whoever reads our output is gone: by itself, rich would end the process then."""

    def fall_silent(own: Console) -> None:
        own.quiet = True

    Console.on_broken_pipe = fall_silent  # type: ignore[method-assign, assignment]


NOISY = (
    "httpx",
    "huggingface_hub",
    "great_expectations",
    "transformers",
    "datasets",
    "sentence_transformers",
    "matplotlib",
    "fontTools",
)


def quiet() -> None:
    """Show medgrpo's own messages on standard error, and nothing but errors of the libraries below it."""
    own = logging.getLogger("medgrpo")
    own.setLevel(logging.INFO)
    own.propagate = False
    own.handlers = [RichHandler(console=console, show_path=False, show_level=False, omit_repeated_times=False)]
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # deprecations inside the libraries, which a user can't mend
    os.environ |= {name: value for name, value in SILENT.items() if name not in os.environ}


def bar() -> Progress:
    """A progress bar on standard error; it draws nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def track(items: Sequence[T], title: str) -> Iterator[T]:
    """Go through items under a bar."""
    with bar() as progress:
        yield from progress.track(items, description=title)


@contextmanager
def phases(title: str, count: int) -> Iterator[Callable[[str], None]]:
    """A bar over the named phases of one piece of work; call what this yields at the start of each."""
    with bar() as progress:
        task = progress.add_task(title, total=count)
        begun = 0

        def next_phase(name: str) -> None:
            nonlocal begun
            progress.update(task, description=f"{title}: {name}", completed=begun)
            begun += 1

        yield next_phase
