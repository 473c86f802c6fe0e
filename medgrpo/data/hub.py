"""Source: a dataset on the Hugging Face hub at a pinned commit, read through a column map."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from medgrpo.data.columns import ColumnMap, read_examples
from medgrpo.data.formats import RawRow, number_rows
from medgrpo.data.source import Licence, Source
from medgrpo.errors import ConfigError, DataError
from medgrpo.types import Example, Kind, Origin

COMMIT = r"^([0-9a-f]{40})?$"
CARD = "README.md"
BATCH = 1000
"""Rows that are taken out of Arrow together."""


class HubSource(Source):
    """A hub dataset. It is downloaded once and read from the hub cache from then on."""

    kind: Literal["hub"] = "hub"
    """Chooses this source."""
    repo: str
    """`owner/name`."""
    revision: str = Field(default="", pattern=COMMIT)
    """The commit: 40 hexadecimal digits, so that rows can't change in place. `medgrpo prepare` prints the newest."""
    config: str = ""
    """Configuration (subset) of the dataset; empty: its default."""
    split: str = "train"
    """Split to read; medgrpo makes its own splits from it."""
    example_kind: Kind
    """What the questions ask for."""
    columns: ColumnMap
    """Which column holds which part."""
    licence: Licence = ""
    """SPDX identifier, or `own`; empty: what the dataset's card says."""
    citation: str = ""
    """Where the questions come from, kept with every example; empty: the repository."""
    limit: int = Field(default=0, ge=0)
    """Read only the first rows; 0: all."""

    def load(self, seed: int) -> list[Example]:
        """Read the dataset.

        Raises:
            ConfigError: there is no revision.
            DataError: it can't be had, or a column or rows are wrong.
        """
        # Without the commit, which `origin` has: a new one with the same rows is the same data.
        citation = self.citation or self.repo
        return read_examples(self.rows(), self.columns, self.example_kind, self.label, citation, self.limit)

    @property
    def label(self) -> str:
        """Repository and commit, as messages name them."""
        return f"{self.repo}@{self.revision[:8]}"

    def rows(self) -> Iterator[RawRow]:
        """The rows as they stand in the dataset.

        Raises:
            ConfigError: there is no revision.
            DataError: the dataset can't be had.
        """
        if not self.revision:
            raise ConfigError(
                "data.source.revision: pin the dataset's commit; `medgrpo prepare CONFIG` prints the one that it finds"
            )
        return number_rows(self._read(_snapshot(self.repo, self.revision, self.label)))

    def _read(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        try:
            table = load_dataset(str(folder), self.config or None, split=self.split)
        except (DatasetsError, ValueError, OSError) as error:
            raise DataError(f"{self.label}: config '{self.config}', split '{self.split}': {error}") from error
        for batch in table.iter(BATCH):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    def origin(self) -> Origin:
        """The repository at its commit, with the licence that the config or else the dataset's card states."""
        licence = self.licence or _card_licence(self.repo, self.revision)
        return Origin(name=self.repo, revision=self.revision, licence=licence, citation=self.citation)

    def pinned(self) -> Self:
        """The source at the commit that its main branch is at; offline: that the cache knows of.

        Raises:
            DataError: neither the hub nor the cache knows the dataset.
        """
        if self.revision:
            return self
        # Only the card is fetched. The folder is named after the commit, also where it comes from the cache.
        return self.model_copy(update={"revision": _snapshot(self.repo, "main", self.repo, CARD).name})


def _snapshot(repo: str, revision: str, label: str, pattern: str | None = None) -> Path:
    """Folder of a dataset's files in the hub cache, filled from the hub where it can be reached.

    Unlike `load_dataset` on a hub name, a snapshot is found in the cache without a network.

    Args:
        pattern: fetch only files that match; None: all.

    Raises:
        DataError: neither the hub nor the cache has it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=pattern))
    except (OSError, ValueError) as error:  # HTTP, offline, not cached: all are OSErrors; a malformed name: ValueError
        raise DataError(
            f"{label}: not in the hub cache, and not to be downloaded: check its name and revision, connect "
            f"to the hub (without HF_HUB_OFFLINE), or name a local file by path: {str(error).splitlines()[0]}"
        ) from error


def _card_licence(repo: str, revision: str) -> str:
    """What the dataset's card at a commit says, in lower case; empty where there is none."""
    import yaml
    from huggingface_hub import hf_hub_download, metadata_load

    if not revision:
        return ""
    try:
        card = metadata_load(Path(hf_hub_download(repo, CARD, repo_type="dataset", revision=revision)))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    stated = (card or {}).get("license") or ""
    return ", ".join(map(str, stated) if isinstance(stated, list) else [str(stated)]).lower()
