"""The gate: may this challenger replace what is served? Pure functions that return every reason."""

from medgrpo.gate.decide import decide
from medgrpo.gate.evidence import Evidence
from medgrpo.gate.rules import AnyRule

__all__ = ["AnyRule", "Evidence", "decide"]
