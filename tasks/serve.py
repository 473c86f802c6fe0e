"""Stage: start the served stage, and ask it one question over HTTP."""

from medgrpo.config import Config
from medgrpo.serve.check import ask_once
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, Outcome, ServedAnswer
from tasks.stage import stage


@stage("ask-served")
def ask_served(config: Config, dataset: DatasetRef, _outcome: Outcome) -> ServedAnswer:
    """Serve what is champion now (after the move), ask it the first test question, and stop it again."""
    return ask_once(config, dataset, Settings())
