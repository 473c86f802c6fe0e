"""Source: a dataset on the Hugging Face hub at a pinned commit, read through a column map."""

from typing import Literal

from pydantic import Field

from medgrpo.data.file import ColumnMap, read_examples
from medgrpo.errors import DataError
from medgrpo.types import Example, Frozen, Kind


class HubSource(Frozen):
    """A hub dataset. It is downloaded once and read from the hub cache from then on."""

    kind: Literal["hub"] = "hub"
    """Chooses this source."""
    repo: str
    """`owner/name`."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit: 40 hexadecimal digits, so that the rows can't change in place."""
    config: str = ""
    """Configuration (subset) of the dataset; empty: its default."""
    split: str = "train"
    """Split to read; medgrpo makes its own splits from it."""
    example_kind: Kind
    """What the questions ask for."""
    columns: ColumnMap
    """Which column holds which part."""
    limit: int = Field(default=0, ge=0)
    """Read only the first rows; 0: all."""

    def load(self, seed: int) -> list[Example]:
        """Read the dataset.

        Raises:
            DataError: it can't be had, or a column or row is wrong.
        """
        from datasets import load_dataset
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        origin = f"{self.repo}@{self.revision[:8]}"
        try:
            # The snapshot first: unlike load_dataset on a hub name, it is found in the cache without a network.
            folder = snapshot_download(self.repo, repo_type="dataset", revision=self.revision)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise DataError(f"{origin}: not in the hub cache, and not to be downloaded: {error}") from error
        try:
            rows = load_dataset(folder, self.config or None, split=self.split)
        except (ValueError, OSError) as error:
            raise DataError(f"{origin}: config '{self.config}', split '{self.split}': {error}") from error
        chosen = rows.select(range(min(self.limit or len(rows), len(rows))))
        return read_examples(chosen.to_list(), self.columns, self.example_kind, origin, origin)
