"""What every source of questions can do. A new one is a frozen model with a `kind`, `load` and `origin`."""

from typing import Annotated, Self

from pydantic import StringConstraints

from medgrpo.types import Example, Frozen, Origin

Licence = Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True)]
"""A licence as it is compared: `MIT` and `mit` are one."""


class Source(Frozen):
    """Where questions come from."""

    def load(self, seed: int) -> list[Example]:
        """Read or write the questions, always the same ones in the same order for the same source and seed.

        Raises:
            DataError: they can't be read; the message names file, row and column.
        """
        raise NotImplementedError

    def origin(self) -> Origin:
        """Where the rows come from and under which licence."""
        raise NotImplementedError

    def pinned(self) -> Self:
        """The same source with everything resolved that could change in place; most are so already.

        Raises:
            DataError: what is to be pinned can't be found.
        """
        return self
