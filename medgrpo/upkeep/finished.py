"""Nothing new: an earlier run had the same config, rows and code, and what it made champion is champion still.

The note is a tag of the MLflow run: every machine that shares the tracking server finds it, an empty home or not.
"""

from medgrpo.config import Config
from medgrpo.fingerprint import digest, source_digest
from medgrpo.keys import scorer_source, train_key
from medgrpo.promotion.moves import position
from medgrpo.settings import Settings
from medgrpo.tracking import find_run, tag_run
from medgrpo.types import BaseRef, DatasetRef, RunRef

FINISHED_TAG = "medgrpo.upkeep.finished"
OUTCOME_TAG = "medgrpo.outcome"


def finished_key(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> str:
    """Key of all that a run's outcome depends on; the champion is part of it, so a rollback makes another key."""
    code = [scorer_source(), source_digest("gate", "promotion", "registry.py")]
    champion, previous, _ = position(config.model_name, settings)
    return digest([config, base, dataset, train_key(config, dataset, base), code, champion, previous])


def note_finished(
    config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, outcome: str, settings: Settings
) -> None:
    """Note what a finished run has come to.

    Args:
        outcome: for people.
    """
    tag_run(run.run_id, OUTCOME_TAG, outcome, settings)
    tag_run(run.run_id, FINISHED_TAG, finished_key(config, base, dataset, settings), settings)


def find_outcome(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> str:
    """What an earlier run came to; empty where there is something to do."""
    run = find_run(config, train_key(config, dataset, base), settings)
    tags = run.data.tags if run else {}
    is_same = tags.get(FINISHED_TAG) == finished_key(config, base, dataset, settings)
    return str(tags.get(OUTCOME_TAG, "")) if is_same else ""
