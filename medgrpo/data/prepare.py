"""Prepare: load a source, leave out what can't be used (with the reason), split, store under the content's key."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from medgrpo.changes import find_change, remember_key
from medgrpo.config import Config
from medgrpo.data.benchmarks import draw_benchmarks, load_benchmarks
from medgrpo.data.checks import MAX_CHARACTERS
from medgrpo.data.compare import describe_changes
from medgrpo.data.duplicates import find_duplicates
from medgrpo.data.garbage import collector_paused
from medgrpo.data.lengths import gold_lengths, prompt_lengths
from medgrpo.data.overlap import find_overlaps
from medgrpo.data.patient_data import mask
from medgrpo.data.split import split_rows
from medgrpo.data.store import DROPPED, Manifest, Measured, benchmark_file, read_manifest, write_rows
from medgrpo.errors import DataError
from medgrpo.fingerprint import digest, file_digest
from medgrpo.keys import dataset_parts
from medgrpo.progress import phases
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, BaseRef, DatasetRef, Drop, Example, Split

log = logging.getLogger(__name__)
T = TypeVar("T")

Dropped = dict[int, Drop]
"""Place in the source → why that row isn't used."""


def prepare(config: Config, base: BaseRef, settings: Settings) -> DatasetRef:
    """Load, clean, split and store the config's questions; a second call finds them again.

    Args:
        base: the base model, whose tokenizer measures the prompts.

    Raises:
        ConfigError: a hub source has no pinned revision; rows are wanted of benchmarks that aren't named.
        DataError: the source can't be read, or too few usable rows are left.
    """
    with collector_paused(), phases("preparing", 6) as next_phase:
        next_phase("reading the source")
        examples = config.data.source.load(config.seed)
        next_phase("reading the benchmarks")
        benchmarks = load_benchmarks(config)
        digests = [digest(example) for example in examples]
        parts = dataset_parts(config, base, rows=digest(digests), benchmarks=_digest_all(benchmarks))
        _tell_changes(config, parts, examples, digests, settings)
        if manifest := read_manifest(digest(parts), settings):
            remember_key(config.name, "dataset", parts, settings)
            return manifest.dataset.model_copy(update={"name": config.name})  # another config may have these rows

        with _beside(_measure, examples, digests, config, base) as measuring:  # mostly without Python's lock
            next_phase("looking for duplicates")
            drops = find_duplicates(examples, config.data.near_duplicate)
            next_phase("comparing with the benchmarks")
            drops = find_overlaps(examples, benchmarks) | drops  # a duplicate stays called one
            next_phase("measuring the prompts")
            rows = measuring.result()
        drops = _too_long(rows, config.data.max_prompt_tokens) | drops
        next_phase("writing")
        splits, drawn = _split(rows, drops, config), draw_benchmarks(config, base, benchmarks)
        dropped = [(rows[place], drops[place]) for place in sorted(drops)]
        dataset = _store(config, parts, splits, drawn, dropped, settings)
        remember_key(config.name, "dataset", parts, settings)
    _tell_drops(drops, examples)
    return dataset


def _tell_changes(
    config: Config, parts: Mapping[str, str], examples: Sequence[Example], digests: Sequence[str], settings: Settings
) -> None:
    """Say what changed since this config was last prepared: which parts of the key, and which rows."""
    change = find_change(config.name, "dataset", parts, settings)
    if "rows" in change.parts:
        rows = zip((example.id for example in examples), digests, strict=True)
        if told := describe_changes(change.key_before, rows, settings):
            log.info("the source of '%s' has %s", config.name, told)


def _digest_all(benchmarks: Mapping[str, Sequence[Example]]) -> str:
    return digest({name: [digest(example) for example in examples] for name, examples in benchmarks.items()})


@contextmanager
def _beside(work: Callable[..., T], *arguments: Any) -> Iterator[Future[T]]:
    """Do some work in a thread; where the block fails or is interrupted, the work is told to stop, and waited for."""
    stop = Event()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit(work, *arguments, stop)
        except BaseException:
            stop.set()
            raise


def _measure(
    examples: Sequence[Example], digests: Sequence[str], config: Config, base: BaseRef, stop: Event
) -> list[Measured]:
    prompts, golds = prompt_lengths(examples, config.prompt, base, stop), gold_lengths(examples, base, stop)
    return [Measured(*row) for row in zip(examples, digests, prompts, golds, strict=True)]


def _too_long(rows: Sequence[Measured], limit: int) -> Dropped:
    """Rows whose prompt is too long. What is too long for any question is damage: validation stops at it instead."""
    return {
        place: Drop(reason="prompt too long", detail=f"{row.prompt_tokens} tokens, data.max_prompt_tokens = {limit}")
        for place, row in enumerate(rows)
        if row.prompt_tokens > limit and len(row.example.question) <= MAX_CHARACTERS
    }


def _split(rows: Sequence[Measured], drops: Dropped, config: Config) -> dict[Split, list[Measured]]:
    kept = [row for place, row in enumerate(rows) if place not in drops]
    held_out: dict[Split, int] = {"validation": config.data.validation_rows, "test": config.data.test_rows}
    needed = sum(held_out.values()) + config.grpo.prompts_per_step
    if len(kept) < needed:
        reasons = Counter(drop.reason for drop in drops.values())
        lost = f" ({', '.join(f'{count} dropped: {reason}' for reason, count in reasons.items())})" if drops else ""
        raise DataError(
            f"{len(kept)} usable questions of {len(rows)}{lost}, but data.test_rows + data.validation_rows + "
            f"grpo.prompts_per_step = {needed}: give more questions or hold out fewer"
        )
    return split_rows(
        kept,
        topics=[row.example.topic for row in kept],
        digests=[_asked(row.example) for row in kept],
        held_out=held_out,
        seed=config.seed,
    )


def _asked(example: Example) -> str:
    """Digest of what is asked: the same where only a row's number or citation is another one."""
    return digest([example.kind, example.question, example.options, example.gold])


def _store(
    config: Config,
    parts: dict[str, str],
    splits: Mapping[Split, Sequence[Measured]],
    drawn: Mapping[str, Sequence[Measured]],
    dropped: Sequence[tuple[Measured, Drop]],
    settings: Settings,
) -> DatasetRef:
    """Write to a temporary folder, then rename: what has the final name is whole."""
    dataset = DatasetRef(
        key=digest(parts),
        name=config.name,
        rows={split: len(splits[split]) for split in SPLITS},
        digests={split: digest([row.digest for row in splits[split]]) for split in SPLITS},
        benchmarks={name: digest([row.digest for row in rows]) for name, rows in drawn.items()},
    )
    target = settings.dataset(dataset.key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as draft:
        folder = Path(draft) / "dataset"
        folder.mkdir()
        for split in SPLITS:
            write_rows(folder / f"{split}.parquet", splits[split])
        for name, rows in drawn.items():
            write_rows(folder / benchmark_file(dataset, name), rows)
        write_rows(folder / DROPPED, [row for row, _ in dropped], [drop for _, drop in dropped])
        manifest = Manifest(
            dataset=dataset,
            origin=config.data.source.origin(),
            benchmarks=tuple(source.origin() for source in config.data.benchmarks),
            loaded=sum(dataset.rows.values()) + len(dropped),
            dropped=Counter(drop.reason for _, drop in dropped),
            key_parts=parts,
            files={path.name: file_digest(path) for path in sorted(folder.iterdir())},
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        if read_manifest(dataset.key, settings) is None:  # else another process was first
            shutil.rmtree(target, ignore_errors=True)  # a folder that is there but not intact
            folder.rename(target)
    return dataset


def _tell_drops(drops: Dropped, examples: Sequence[Example]) -> None:
    """Say how many rows each reason cost, with one of them as an example."""
    for reason, count in Counter(drop.reason for drop in drops.values()).items():
        place = next(place for place, drop in drops.items() if drop.reason == reason)
        shown = f"row {mask(examples[place].id)!r}: {drops[place].detail}"
        log.info("%d of %d rows dropped, %s: for example %s", count, len(examples), reason, shown)
