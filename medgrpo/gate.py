"""The gate: may this challenger replace what is served? A pure function that returns every reason."""

from medgrpo.config import EvaluationConfig, GateConfig
from medgrpo.statistics import paired_difference, sign_test
from medgrpo.types import Decision, EvalReport, Interval


def decide(challenger: EvalReport, incumbent: EvalReport, gate: GateConfig, evaluation: EvaluationConfig) -> Decision:
    """Compare two policies on the same test rows.

    Args:
        challenger: the best checkpoint's report on the test rows.
        incumbent: the champion's report on the same rows, or the base model's where there is no champion.

    Raises:
        ValueError: the reports are not about the same rows.
    """
    if challenger.rows_digest != incumbent.rows_digest:
        raise ValueError("the two reports are not about the same rows")
    difference = paired_difference(challenger.correct, incumbent.correct, evaluation.confidence, evaluation.resamples)
    rules = (
        _better(difference, gate.margin, challenger, incumbent),
        _follows_format(challenger, gate.min_format_rate),
        _not_chance(challenger, incumbent, 1 - evaluation.confidence),
    )
    return Decision(
        promote=all(holds for holds, _ in rules),
        reasons=tuple(reason for _, reason in rules),
        challenger=challenger.key,
        incumbent=incumbent.key,
        difference=difference,
    )


def _better(difference: Interval, margin: float, challenger: EvalReport, incumbent: EvalReport) -> tuple[bool, str]:
    holds = difference.low > margin
    figures = f"accuracy {challenger.accuracy} against {incumbent.accuracy}, paired difference {difference}"
    verdict = "is" if holds else "is not shown to be"
    return holds, f"the challenger {verdict} better by more than {margin:g}: {figures}, {challenger.rows} rows"


def _not_chance(challenger: EvalReport, incumbent: EvalReport, level: float) -> tuple[bool, str]:
    """Few rows can make a bootstrap interval look sure of itself; an exact test isn't fooled by them."""
    wins, losses, p = sign_test(challenger.correct, incumbent.correct)
    verdict = "below" if p < level else "not below"
    return p < level, f"{wins} rows won and {losses} lost: exact p = {p:.2g}, {verdict} {level:.2g}"


def _follows_format(challenger: EvalReport, floor: float) -> tuple[bool, str]:
    holds = challenger.format_rate.mean >= floor
    return holds, f"format rate {challenger.format_rate} is {'at least' if holds else 'below'} the floor {floor:g}"
