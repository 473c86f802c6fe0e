"""Benchmarks: evaluation sets beside the dataset's own rows, never trained on; some rows of each may be measured on."""

import logging
from collections.abc import Mapping, Sequence
from threading import Event

from medgrpo.config import Config
from medgrpo.data.facts import unproven
from medgrpo.data.lengths import gold_lengths, prompt_lengths
from medgrpo.data.split import split_rows
from medgrpo.data.store import Measured
from medgrpo.errors import ConfigError, UserError
from medgrpo.fingerprint import digest
from medgrpo.types import BaseRef, Example

log = logging.getLogger(__name__)


def load_benchmarks(config: Config) -> dict[str, list[Example]]:
    """The benchmarks' questions, by the name that messages give them.

    Raises:
        ConfigError: a benchmark is there twice, or rows are to be drawn and there is none.
        DataError: one of them can't be read.
    """
    if config.evaluation.benchmark_rows and not config.data.benchmarks:
        raise ConfigError("evaluation.benchmark_rows: there is no [[data.benchmarks]] to draw rows from: name one")
    benchmarks: dict[str, list[Example]] = {}
    for place, source in enumerate(config.data.benchmarks):
        name = source.origin().name
        if source in config.data.benchmarks[:place]:
            raise ConfigError(f"data.benchmarks: {name} is there twice")
        # Two files of one preset, or two subsets of one repository, have one name.
        name = f"{name} (benchmark {place + 1})" if name in benchmarks else name
        try:
            benchmarks[name] = source.load(config.seed)
        except UserError as error:  # its message speaks of data.source, which this isn't
            raise type(error)(f"data.benchmarks.{place}: {error}") from error
    return benchmarks


def draw_benchmarks(
    config: Config, base: BaseRef, benchmarks: Mapping[str, Sequence[Example]]
) -> dict[str, list[Measured]]:
    """The rows of each benchmark that policies are measured on: drawn once, by seed and content, from all its topics.

    Rows that can't be measured are left out, and it is said how many: those with a prompt that is too long, and those
    whose gold isn't judged right.
    """
    count = config.evaluation.benchmark_rows
    drawn = {name: _draw(examples, count, config.seed) for name, examples in benchmarks.items() if count}
    return {name: _usable(name, rows, config, base) for name, rows in drawn.items()}


def _draw(examples: Sequence[Example], count: int, seed: int) -> list[tuple[Example, str]]:
    rows = [(example, digest(example)) for example in examples]
    if count >= len(rows):
        return rows
    topics, digests = [example.topic for example in examples], [row for _, row in rows]
    return split_rows(rows, topics, digests, {"test": count, "validation": 0}, seed)["test"]


def _usable(name: str, rows: Sequence[tuple[Example, str]], config: Config, base: BaseRef) -> list[Measured]:
    examples, digests = [example for example, _ in rows], [row for _, row in rows]
    prompts = prompt_lengths(examples, config.prompt, base, Event())
    golds = gold_lengths(examples, base, Event())
    measured = [Measured(*row) for row in zip(examples, digests, prompts, golds, strict=True)]
    short = [row for row in measured if row.prompt_tokens <= config.data.max_prompt_tokens]
    usable = [row for row in short if not unproven(row.example)]
    if len(usable) < len(rows):
        long, wrong = len(rows) - len(short), len(short) - len(usable)
        log.warning(
            "of %d rows drawn from %s, %d are not measured on: their prompts are longer than data.max_prompt_tokens,"
            " and %d: their golds aren't judged right",
            *(len(rows), name, long, wrong),
        )
    if not usable:
        raise ConfigError(
            f"evaluation.benchmark_rows: no row of {name} can be measured on: {long} of {len(rows)} drawn are longer "
            f"than data.max_prompt_tokens = {config.data.max_prompt_tokens}: raise it, or leave the benchmark out"
        )
    return usable
