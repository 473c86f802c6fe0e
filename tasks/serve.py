"""Stage: start the served stage, and ask it one question over HTTP."""

from medgrpo.config import Config
from medgrpo.fingerprint import digest, source_digest
from medgrpo.registry import read_aliases
from medgrpo.serve.check import ask_once
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, Outcome, ServedAnswer
from tasks.stage import GPU, Parameters, stage


def _key(parameters: Parameters) -> str:
    """The same champion is not started again to be asked the same question."""
    config = parameters["config"]
    champion = read_aliases(config.model_name, Settings()).champion
    return digest(["ask-served", config, parameters["dataset"].digests["test"], source_digest("serve"), champion])


@stage("ask-served", of="promote", key=_key, tags=[GPU])
def ask_served(config: Config, dataset: DatasetRef, _outcome: Outcome) -> ServedAnswer:
    """Serve what is champion now (after the move), ask it the first test question, and stop it again."""
    return ask_once(config, dataset, Settings())
