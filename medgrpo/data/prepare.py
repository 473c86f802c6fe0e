"""Prepare: load a source, drop what can't be used (with the reason), split by seed, store under the content's key."""

import logging
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medgrpo.answer import is_correct, messages, parse, render_gold, render_question
from medgrpo.config import Config
from medgrpo.data.store import Dropped, Manifest, read_manifest, write_split
from medgrpo.errors import DataError
from medgrpo.fingerprint import digest, file_digest, source_digest
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, BaseRef, DatasetRef, Example, Split

log = logging.getLogger(__name__)


def prepare(config: Config, base: BaseRef, settings: Settings) -> DatasetRef:
    """Load, clean, split and store the config's questions; a second call finds them again.

    Args:
        base: the base model, whose tokenizer measures the prompts.

    Raises:
        DataError: the source can't be read, or too few usable rows are left.
    """
    examples = config.data.source.load(config.seed)
    key = digest([examples, config.data, config.prompt, base.digest, config.seed, source_digest("data", "answer.py")])
    if manifest := read_manifest(key, settings):
        return manifest.dataset.model_copy(update={"name": config.name})  # another config may have the same rows
    kept, dropped = _drop(examples, config, base)
    if dropped:
        log.warning("%d of %d rows dropped, for example %s", len(dropped), len(examples), dropped[0])
    splits = _split(kept, config)
    dataset = DatasetRef(
        key=key,
        name=config.name,
        rows={split: len(rows) for split, rows in splits.items()},
        digests={split: digest(rows) for split, rows in splits.items()},
    )
    _store(dataset, splits, dropped, settings)
    return dataset


def _drop(examples: Sequence[Example], config: Config, base: BaseRef) -> tuple[list[Example], list[Dropped]]:
    """Rows that can be used, and the others with their reason."""
    lengths = prompt_lengths(examples, config, base)
    kept: list[Example] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    for example, length in zip(examples, lengths, strict=True):
        question = " ".join(render_question(example).casefold().split())
        if question in seen:
            dropped.append(Dropped(id=example.id, reason="duplicate question"))
        elif length > config.data.max_prompt_tokens:
            dropped.append(Dropped(id=example.id, reason=f"prompt of {length} tokens"))
        else:
            kept.append(example)
        seen.add(question)
    return kept, dropped


def prompt_lengths(examples: Sequence[Example], config: Config, base: BaseRef) -> list[int]:
    """Tokens of each row's prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    chats = [messages(config.prompt.system, config.prompt.shown, render_question(example)) for example in examples]
    return [len(ids) for ids in tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]]


def _split(examples: Sequence[Example], config: Config) -> dict[Split, list[Example]]:
    """Shuffle by seed; test rows first, so that more training rows never change them."""
    held_out = config.data.test_rows + config.data.validation_rows
    needed = held_out + config.grpo.prompts_per_step
    if len(examples) < needed:
        raise DataError(
            f"{len(examples)} usable questions, but data.test_rows + data.validation_rows + grpo.prompts_per_step "
            f"= {needed}: give more questions or hold out fewer"
        )
    shuffled = list(examples)
    random.Random(config.seed).shuffle(shuffled)
    test, validation = shuffled[: config.data.test_rows], shuffled[config.data.test_rows : held_out]
    return {"train": shuffled[held_out:], "validation": validation, "test": test}


def _store(
    dataset: DatasetRef, splits: dict[Split, list[Example]], dropped: Sequence[Dropped], settings: Settings
) -> None:
    """Write to a temporary folder, then rename: what has the final name is whole."""
    target = settings.dataset(dataset.key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as name:
        folder = Path(name) / "dataset"
        folder.mkdir()
        for split in SPLITS:
            write_split(folder / f"{split}.parquet", splits[split])
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        manifest = Manifest(dataset=dataset, files=files, dropped=tuple(dropped))
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # a folder that is there but not intact
        folder.rename(target)


def gold_is_provable(example: Example) -> bool:
    """Whether the gold, rendered in the grammar, is judged right, and an empty answer is not."""
    gold = parse(render_gold(example))
    return gold.is_strict and is_correct(gold.answer, example) and not is_correct("", example)
