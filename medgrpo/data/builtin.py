"""Source: the built-in clinical questions."""

from typing import Literal

from pydantic import Field

from medgrpo.data.source import Source
from medgrpo.types import Example, Origin


class ClinicalSource(Source):
    """Questions written from reference ranges, formulas and scoring rules; the seed decides the numbers."""

    kind: Literal["clinical"] = "clinical"
    """Chooses this source."""
    rows: int = Field(default=1000, ge=1)
    """How many questions to write, over all splits."""
    topics: tuple[str, ...] = ()
    """Topics to write about; empty: all of them."""

    def load(self, seed: int) -> list[Example]:
        """Write the questions.

        Raises:
            DataError: an unknown topic, or more rows than the topics can give.
        """
        from medgrpo.data.clinical import generate

        return generate(self.rows, seed, self.topics)

    def origin(self) -> Origin:
        """The project itself, under its own licence."""
        return Origin(name="clinical", licence="apache-2.0")
