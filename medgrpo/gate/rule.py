"""What every rule of the gate is: a frozen value that judges the evidence."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medgrpo.gate.evidence import Evidence
from medgrpo.types import Frozen, Verdict

if TYPE_CHECKING:
    from medgrpo.config import EvaluationConfig

Share = Annotated[float, Field(ge=0, le=1)]


class Rule(Frozen):
    """A rule with its bounds. A subclass adds `kind: Literal["name"] = "name"`, its bounds and `check`."""

    kind: str

    @abstractmethod
    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Whether the rule holds, in a sentence with every figure that it looked at. Pure."""

    def verdict(self, holds: bool, reason: str, figures: dict[str, float]) -> Verdict:
        """What this rule found."""
        return Verdict(rule=self.kind, holds=holds, reason=reason, figures=figures)
