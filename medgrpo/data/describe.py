"""What `medgrpo prepare` prints."""

from collections.abc import Iterator
from pathlib import Path

from medgrpo.config import Config, DataConfig
from medgrpo.data.store import read_manifest
from medgrpo.data.validate import describe, report_folder
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, ValidationReport


def describe_pins(given: DataConfig, pinned: DataConfig) -> Iterator[str]:
    """The revisions that were found for hub sources without one, as lines for the config."""
    names = ["data.source", *(f"data.benchmarks.{place}" for place in range(len(given.benchmarks)))]
    for name, before, after in zip(names, given.sources, pinned.sources, strict=True):
        if before != after:
            yield f'{name}: add revision = "{after.origin().revision}" to the config; nothing trains without it'


def describe_dataset(
    config: Config, dataset: DatasetRef, report: ValidationReport, settings: Settings, data_docs: Path | None
) -> str:
    """Counts, warnings, and where the report is."""
    manifest = read_manifest(dataset.key, settings)
    assert manifest is not None, "a dataset that was just validated is there"
    failed = [result for result in report.results if not result.success]
    origin = manifest.origin
    lines = [
        f"{origin.name} {origin.revision[:8]}".strip()
        + f", licence {origin.licence or 'unknown'}: {manifest.loaded} rows",
        *(f"  {count:6} dropped: {reason}" for reason, count in manifest.dropped.items()),
        *(f"  {count:6} {split}" for split, count in dataset.rows.items()),
        f"dataset {dataset.key}",
        f"always giving the most frequent gold is right {report.majority_accuracy:.3f} of the time",
        f"{len(report.results)} checks, {len(failed)} warning{'' if len(failed) == 1 else 's'}",
        *(f"  {describe(result)}" for result in failed),
        *(f"data docs: {page}" for page in (data_docs.rglob("local_site/index.html") if data_docs else ())),
        f"report: {report_folder(config, dataset, settings) / 'report.html'}",
    ]
    return "\n".join(lines)
