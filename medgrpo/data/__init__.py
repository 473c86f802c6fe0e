"""Questions: where they come from (one module per source), how they are prepared, and how they are validated."""

from typing import Annotated

from pydantic import Field

from medgrpo.data.builtin import ClinicalSource
from medgrpo.data.file import FileSource
from medgrpo.data.hub import HubSource

AnySource = Annotated[ClinicalSource | FileSource | HubSource, Field(discriminator="kind")]

__all__ = ["AnySource", "ClinicalSource", "FileSource", "HubSource"]
