"""The decision: every rule is asked, and all must hold."""

from typing import TYPE_CHECKING

from medgrpo.gate.evidence import Evidence, compare
from medgrpo.types import Decision

if TYPE_CHECKING:
    from medgrpo.config import EvaluationConfig, GateConfig


def decide(evidence: Evidence, gate: "GateConfig", evaluation: "EvaluationConfig") -> Decision:
    """Whether the challenger may replace the incumbent, with the verdict of each rule, in the config's order.

    Args:
        evaluation: gives the confidence of all intervals and the level of all tests.
    """
    verdicts = tuple(rule.check(evidence, evaluation) for rule in gate.rules)
    return Decision(
        promote=all(verdict.holds for verdict in verdicts),
        verdicts=verdicts,
        challenger=evidence.challenger.key,
        incumbent=evidence.incumbent.key,
        difference=compare(evidence.challenger, evidence.incumbent, evaluation).difference,
    )
