"""Stages: find the base model, and prepare the questions."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare as prepare_dataset
from medgrpo.fingerprint import digest, write_whole
from medgrpo.keys import data_source
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef
from tasks.stage import Parameters, stage, this_run


@stage("resolve-base", of="prepare")
def resolve_base(config: Config) -> BaseRef:
    """Find the base model on this disk; it is converted or downloaded once."""
    return resolve(config.policy.base, Settings())


def _files(value: Any) -> Iterator[list[str | int]]:
    """The files that a config's data section names, with size and time."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _files(part)
    elif isinstance(value, list):
        for part in value:
            yield from _files(part)
    elif isinstance(value, str) and "." in value and Path(value).is_file():
        found = Path(value).stat()
        yield [value, found.st_size, found.st_mtime_ns]


def _key(parameters: Parameters) -> str:
    """A retry of the flow run reads the questions again only where one of their files was touched."""
    config, base = parameters["config"], parameters["base"]
    files = list(_files(config.data.model_dump(mode="json")))
    return digest(["prepare", this_run(), config, base, files, data_source()])


def _note(parameters: Parameters) -> Path:
    """File that says which dataset was prepared: it is lost together with the home folder."""
    return Settings().root / "prepared" / _key(parameters)


def _there(parameters: Parameters) -> bool:
    note, settings = _note(parameters), Settings()
    return note.is_file() and settings.dataset(note.read_text(encoding="utf-8")).is_dir()


def _forget(parameters: Parameters) -> None:
    dataset = prepare_dataset(parameters["config"], parameters["base"], Settings())
    shutil.rmtree(Settings().dataset(dataset.key), ignore_errors=True)


@stage("prepare", of="prepare", key=_key, there=_there, forget=_forget)
def prepare(config: Config, base: BaseRef) -> DatasetRef:
    """Load, clean and split the questions. Their key is their content: they are read each time, and stored once."""
    dataset: DatasetRef = prepare_dataset(config, base, Settings())
    note = _note({"config": config, "base": base})
    note.parent.mkdir(exist_ok=True)
    write_whole(note, dataset.key)
    return dataset
