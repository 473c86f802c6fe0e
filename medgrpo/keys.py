"""The keys that find everything again: equal inputs, equal key, so running anything twice makes nothing twice."""

from functools import lru_cache
from importlib.metadata import version
from typing import Any

from medgrpo.changes import find_change, remember_key
from medgrpo.config import Config
from medgrpo.errors import NotFoundError
from medgrpo.fingerprint import digest, source_digest
from medgrpo.page import template_digest
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Split

CHECKED_ONLY = {"language", "allowed_licences", "severities"}
"""Keys of the data section that decide what is found in a dataset, not what is in it."""


TRAINER_LIBRARIES = (
    *("trl", "transformers", "peft", "torch"),
    *("sentence-transformers", "pint", "drug-named-entity-recognition"),
)
"""Packages of whose next version nobody knows whether it trains and scores to the same bits."""


@lru_cache(maxsize=1)
def trainer_source() -> str:
    """Digest of the code that decides what a training yields: rewards, grammar, judge, trainer, and their libraries."""
    libraries = [version(name) for name in TRAINER_LIBRARIES]
    parts = ("rewards", "contradictions", "grpo", "judge", "answer.py", "policy.py", "types.py")
    return digest([source_digest(*parts), libraries])


@lru_cache(maxsize=1)
def scorer_source() -> str:
    """Digest of the code that decides what an evaluation yields."""
    decoding = ("generation.py", "grpo/sampling.py", "grpo/shared_prefix.py", "grpo/inference_copy.py")
    parts = ("answer.py", "judge", "evaluation", "statistics.py", "policy.py", *decoding)
    return digest([source_digest(*parts), version("pint")])


@lru_cache(maxsize=1)
def data_source() -> str:
    """Digest of the code that decides what a dataset holds, and of what it finds in rows."""
    libraries = [version(name) for name in ("rensa", "ftfy", "py3langid", "pyarrow", "pint")]
    return digest([source_digest("data", "answer.py", "judge", "types.py"), libraries])


def dataset_parts(config: Config, base: BaseRef, rows: str, benchmarks: str) -> dict[str, str]:
    """What a dataset's key is made of.

    Args:
        rows: digest of the source's rows.
        benchmarks: digest of the benchmarks' rows.
    """
    return {
        "rows": rows,
        "benchmarks": benchmarks,
        "benchmark rows": digest(config.evaluation.benchmark_rows),
        "data settings": digest(config.data.model_dump(mode="json", exclude=CHECKED_ONLY)),
        "prompt": digest(config.prompt),
        "base model": base.digest,
        "seed": digest(config.seed),
        "medgrpo's data code": data_source(),
    }


def validation_key(config: Config) -> str:
    """Key of a validation of one dataset and its report: what the checks are told, and the page's name and form."""
    told = config.data.model_dump(mode="json", include=CHECKED_ONLY)
    page = template_digest("data/report.html.j2")
    return digest([config.name, told, config.shortest_completion_limit, page])


def train_parts(config: Config, dataset: DatasetRef, base: BaseRef) -> dict[str, str]:
    """What a training's key is made of: the train rows, the base's weights, all that training reads of the config."""
    policy = config.policy
    return {
        "train rows": dataset.digests["train"],
        "base model": base.digest,
        "policy settings": digest([policy.lora, policy.dtype, policy.load_in_4bit]),
        "prompt": digest(config.prompt),
        "warm start": digest(config.warm_start),
        "grpo settings": digest(config.grpo),
        "rewards": rewards_digest(config),
        "seed": digest(config.seed),
        "medgrpo's training code": trainer_source(),
    }


def rewards_digest(config: Config) -> str:
    """Digest of what the rewards pay: settings, weights of their own models, the user's code; not their time limits."""
    parts = [[reward.model_dump(mode="json", exclude={"timeout_s"}), reward.source()] for reward in config.rewards]
    return digest(parts)


def train_key(config: Config, dataset: DatasetRef, base: BaseRef) -> str:
    """Key of a training."""
    return digest(train_parts(config, dataset, base))


def noted_train_key(config: Config, dataset: DatasetRef, base: BaseRef, settings: Settings) -> str:
    """Key of a training that is about to run; tells which parts changed since this config was last trained."""
    parts = train_parts(config, dataset, base)
    find_change(config.name, "training", parts, settings)
    remember_key(config.name, "training", parts, settings)
    return digest(parts)


def rows_digest(dataset: DatasetRef, split: Split, benchmark: str = "") -> str:
    """Digest of the rows of a split, or of a benchmark.

    Raises:
        NotFoundError: no rows of such a benchmark were drawn.
    """
    if benchmark and benchmark not in dataset.benchmarks:
        known = ", ".join(f"'{name}'" for name in dataset.benchmarks) or "none: set evaluation.benchmark_rows"
        raise NotFoundError(f"dataset {dataset.key} has no rows of benchmark '{benchmark}'; of these it has: {known}")
    return dataset.benchmarks[benchmark] if benchmark else dataset.digests[split]


def eval_key(
    config: Config, dataset: DatasetRef, base: BaseRef, checkpoint: CheckpointRef, split: Split, benchmark: str = ""
) -> str:
    """Key of an evaluation: the policy's weights, the rows, and how completions are made and judged."""
    asked = config.evaluation.on(split, benchmark)
    seed = config.seed if asked.samples else 0
    decoding: list[Any] = [asked.model_dump(mode="json", exclude={"engine"})]
    if asked.engine != "transformers":
        decoding += [asked.engine, source_digest("vllm")]
    parts = [*decoding, seed, config.prompt, config.policy.dtype, config.policy.load_in_4bit, scorer_source()]
    rows = [rows_digest(dataset, split, benchmark), split, benchmark]
    return digest([checkpoint.adapter_digest, base.digest, rows, parts])
