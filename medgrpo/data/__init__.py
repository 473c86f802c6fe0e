"""Questions: where they come from (one module per source), how they are prepared, and how they are validated."""

from typing import Annotated

from pydantic import Field

from medgrpo.data.builtin import ClinicalSource
from medgrpo.data.columns import ColumnMap
from medgrpo.data.file import FileSource
from medgrpo.data.hub import HubSource
from medgrpo.data.presets import PresetSource

AnySource = Annotated[ClinicalSource | FileSource | HubSource | PresetSource, Field(discriminator="kind")]

__all__ = ["AnySource", "ClinicalSource", "ColumnMap", "FileSource", "HubSource", "PresetSource"]
