"""Does the served stage answer? Start it as a user would, ask it one question, stop it."""

import os
import sys
import tempfile
from pathlib import Path

from medgrpo.answer import render_question
from medgrpo.config import Config
from medgrpo.data.clinical import generate
from medgrpo.data.store import read_split
from medgrpo.errors import ServeError
from medgrpo.serve.client import ask
from medgrpo.serve.process import serving
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, ModelVersionRef, ServedAnswer

START_TIMEOUT_S = 300


def ask_once(config: Config, dataset: DatasetRef, settings: Settings) -> ServedAnswer:
    """Start `medgrpo serve` on a free port, ask it the first test question, and stop it.

    Raises:
        ServeError: it didn't start, or didn't answer.
    """
    return _ask_served(config, render_question(read_split(dataset, "test", settings)[0]), settings)


def check_champion(config: Config, version: ModelVersionRef, settings: Settings) -> ServedAnswer:
    """Serve the champion on a free port, and ask it a built-in question: also machines without the dataset have that.

    Whether the answer is right doesn't matter: that was measured.

    Raises:
        ServeError: it didn't start or didn't answer, the answer is empty, or another version gave it.
    """
    answer = _ask_served(config, render_question(generate(1, seed=0)[0]), settings)
    if answer.version != f"{version.name}/{version.version}":
        raise ServeError(f"asked for {version.name}/{version.version}, {answer.version} answered")
    if not answer.completion.strip():
        raise ServeError(f"{answer.version} answered with an empty completion")
    return answer


def _ask_served(config: Config, question: str, settings: Settings) -> ServedAnswer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(config.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "medgrpo.cli", "serve", str(path), "--port", "0"]
        environment = os.environ | {"MEDGRPO_HOME": str(settings.root), "MEDGRPO_TRACKING_URI": settings.tracking_uri}
        with serving(command, environment, START_TIMEOUT_S) as url:
            return ask(url, question)
