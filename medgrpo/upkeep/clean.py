"""Retention: what is old and not needed goes; champion, previous, challenger and what they came from stay."""

import fcntl
import json
import logging
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from medgrpo.errors import UserError
from medgrpo.policy import adapter_digest
from medgrpo.registry import Kept, kept_versions
from medgrpo.settings import Settings
from medgrpo.tracking import FLOW_RUN_TAG, connect
from medgrpo.types import DatasetRef, EvalReport, Frozen
from medgrpo.upkeep.flow_runs import delete_flow_runs, ended_flow_runs
from medgrpo.upkeep.trash import deleted_runs, erase_run, has_server, running_keys

log = logging.getLogger(__name__)

Kind = Literal["training", "adapter", "evaluation", "dataset", "stored result", "MLflow run", "flow run"]
FOLDERS: tuple[Kind, ...] = ("training", "adapter", "evaluation", "dataset", "stored result")
UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class Item(Frozen):
    """Something that may go."""

    kind: Kind
    name: str
    """Its key, digest or id."""
    place: str = ""
    """Its folder or file; empty where a server keeps it."""
    size: int = 0
    """In bytes, where it is known."""


class Plan(Frozen):
    """What a cleaning would remove, and what it leaves for whose sake."""

    items: tuple[Item, ...]
    kept: tuple[Kept, ...]
    prefect_url: str
    """Empty: Prefect's flow runs are left alone."""
    trash_on_server: tuple[str, ...] = ()
    """Ids of deleted runs that only MLflow's server can erase."""


def parse_age(text: str) -> timedelta:
    """An age such as `30d`, `12h` or `8w`.

    Raises:
        UserError: it is something else.
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if not match:
        raise UserError(f"--older-than: '{text}' is no age: give a number with h, d or w, as in 30d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def plan_cleaning(age: timedelta, settings: Settings, prefect_url: str = "") -> Plan:
    """Find what is older than this and needed by nothing that stays. Removes nothing.

    Args:
        prefect_url: Prefect's API; empty: leave its flow runs alone.

    Raises:
        NotFoundError: MLflow doesn't have the files of a version that must stay: what it came from can't be told.
    """
    kept = kept_versions(settings)
    needed = _needed(kept, settings)
    limit = time.time() - age.total_seconds()
    # In this order: a training that stays needs its dataset, its adapters, and the evaluations of them.
    trainings = _split(_folders(settings.root / "training"), needed.trainings, limit)
    for folder in trainings.stay:
        needed.add_training(folder)
    datasets = _split(_folders(settings.root / "datasets"), needed.datasets, limit)
    for folder in datasets.stay:
        needed.add_dataset(folder)
    evaluations = _folders(settings.root / "evaluations")
    needed.add_evaluations(evaluations)
    found = {
        "training": trainings.go,
        "adapter": _split(_folders(settings.root / "adapters"), needed.adapters, limit).go,
        "evaluation": _split(evaluations, needed.evaluations, limit).go,
        "dataset": datasets.go,
        "stored result": _split(_files(settings.prefect_home / "results"), set(), limit).go,
    }
    items = [_item(kind, path) for kind in FOLDERS for path in found[kind]]
    trash = {run: name for run, name in deleted_runs(age, settings).items() if run not in needed.runs}
    on_server = has_server(settings)
    if not on_server:
        items += [Item(kind="MLflow run", name=f"{run} {name}") for run, name in trash.items()]
    if prefect_url:
        ended = ended_flow_runs(age, prefect_url)
        items += [
            Item(kind="flow run", name=f"{run.run_id} {run.name}")
            for run in ended
            if run.run_id not in needed.flow_runs
        ]
    left = tuple(trash) if on_server else ()
    return Plan(items=tuple(items), kept=tuple(kept), prefect_url=prefect_url, trash_on_server=left)


def carry_out(plan: Plan, settings: Settings) -> int:
    """Remove what a plan names; how many items went. A training that somebody works on now is left alone."""
    gone = 0
    for item in plan.items:
        if item.place:
            gone += _remove(Path(item.place), settings)
        elif item.kind == "MLflow run":
            erase_run(item.name.split()[0], settings)
            gone += 1
    flow_runs = [item.name.split()[0] for item in plan.items if item.kind == "flow run"]
    if flow_runs:
        delete_flow_runs(flow_runs, plan.prefect_url)
    return gone + len(flow_runs)


@dataclass
class _Needed:
    """What must stay, by where it lies."""

    trainings: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    """Digests of rows: evaluations of the base model on them stay."""
    adapters: set[str] = field(default_factory=set)
    evaluations: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    flow_runs: set[str] = field(default_factory=set)

    def add_training(self, folder: Path) -> None:
        """A training that stays, with what it trains on and what it has made."""
        self.trainings.add(folder.name)
        job = folder / "job.json"
        if job.is_file():
            self.add_rows(DatasetRef.model_validate(json.loads(job.read_text(encoding="utf-8"))["dataset"]))
        made = {path.parent for path in folder.rglob("adapter_config.json")}
        self.adapters |= {adapter_digest(path) for path in made if (path / "adapter_model.safetensors").is_file()}

    def add_dataset(self, folder: Path) -> None:
        """A dataset that stays."""
        manifest = folder / "manifest.json"
        if manifest.is_file():
            stored = json.loads(manifest.read_text(encoding="utf-8"))
            self.add_rows(DatasetRef.model_validate(stored["dataset"]))

    def add_rows(self, dataset: DatasetRef) -> None:
        """A dataset's rows, wherever they lie."""
        self.datasets.add(dataset.key)
        self.rows |= {*dataset.digests.values(), *dataset.benchmarks.values()}

    def add_evaluations(self, folders: Iterable[Path]) -> None:
        """Evaluations of what stays: of a training's checkpoints anywhere, of the base model on rows that stay."""
        for folder in folders:
            if (path := folder / "report.json").is_file():
                report = EvalReport.model_validate_json(path.read_text(encoding="utf-8"))
                checkpoint = report.checkpoint
                stays = (
                    report.rows_digest in self.rows if checkpoint.is_base else checkpoint.train_key in self.trainings
                )
                if stays or checkpoint.adapter_digest in self.adapters:
                    self.evaluations.add(folder.name)


def _needed(kept: Iterable[Kept], settings: Settings) -> _Needed:
    """What the versions that stay came from, and what runs now."""
    needed = _Needed(trainings=running_keys(settings))
    for one in kept:
        needed.trainings.add(one.card.checkpoint.train_key)
        needed.adapters.add(one.version.adapter_digest)
        needed.evaluations |= set(one.reports)
        needed.runs.add(one.version.run_id)
        run = connect(settings).get_run(one.version.run_id)
        needed.flow_runs.add(run.data.tags.get(FLOW_RUN_TAG, ""))
        needed.add_rows(one.card.dataset)
    return needed


@dataclass
class _Parts:
    stay: list[Path]
    go: list[Path]


def _split(paths: Iterable[Path], needed: set[str], limit: float) -> _Parts:
    """What is needed, or young, and what is neither."""
    parts = _Parts([], [])
    for path in paths:
        stays = path.name in needed or _newest(path) > limit
        (parts.stay if stays else parts.go).append(path)
    return parts


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("[!.]*") if path.is_dir())


def _files(parent: Path) -> list[Path]:
    return sorted(path for path in parent.rglob("*") if path.is_file())


def _newest(path: Path) -> float:
    """When something in it was last written, in seconds since 1970."""
    return max((one.stat().st_mtime for one in (path, *path.rglob("*"))), default=0.0)


def _item(kind: Kind, path: Path) -> Item:
    size = sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())
    return Item(kind=kind, name=path.name, place=str(path), size=size)


def _remove(path: Path, settings: Settings) -> bool:
    """Remove a folder or file: at once for everybody who looks, even if this is cut off."""
    with _unused(path) as unused, tempfile.TemporaryDirectory(dir=settings.root, prefix=".clean-") as grave:
        if not unused:
            log.warning("%s is left alone: a training works in it now", path)
            return False
        if path.exists():
            path.rename(Path(grave) / path.name)
            if path.is_file():
                path.unlink()
        return True


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody trains in this folder, and nobody can begin to while we look."""
    lock = path / ".lock"
    if not lock.is_file():
        yield True
        return
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def describe(plan: Plan, done: bool) -> str:
    """The plan as a table for people, with what stays and why."""
    lines = [f"{'kind':14} {'items':>5} {'size':>10}"]
    for kind in dict.fromkeys(item.kind for item in plan.items):
        items = [item for item in plan.items if item.kind == kind]
        lines.append(f"{kind:14} {len(items):5} {_shown(sum(item.size for item in items)):>10}")
        lines += [f"  {item.name}" for item in items]
    if not plan.items:
        lines = ["Nothing is old enough to go and needed by nothing."]
    for one in plan.kept:
        card, aliases = one.card.checkpoint, " and ".join(one.aliases)
        lines.append(
            f"stays: {one.version.name} version {one.version.version} ({aliases}), its run {one.version.run_id}, "
            f"training {card.train_key}, dataset {one.card.dataset.key} and evaluations"
        )
    if plan.trash_on_server:
        ids = ",".join(plan.trash_on_server)
        lines.append(f"MLflow's trash is its server's to empty: there, `mlflow gc --run-ids {ids}`")
    total = _shown(sum(item.size for item in plan.items))
    if plan.items and not done:
        lines.append(f"Nothing was removed. {total} would go with --yes.")
    return "\n".join(lines)


def _shown(size: int) -> str:
    """A number of bytes for people."""
    value: Any = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
