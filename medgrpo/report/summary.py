"""The summary that a person reads when a pipeline has ended."""

from collections.abc import Sequence

from medgrpo.settings import Settings
from medgrpo.tracking import run_url
from medgrpo.types import Decision, EvalReport, Frozen, ModelVersionRef, Outcome, RunRef, ServedAnswer


class Findings(Frozen):
    """What a comparison of a challenger with the incumbent is made of, and what came of it."""

    run: RunRef
    base: EvalReport
    """The base model on the validation rows."""
    checkpoints: tuple[EvalReport, ...]
    """Every checkpoint on the same rows."""
    incumbent: EvalReport
    """What was served before, on the test rows."""
    challenger: EvalReport
    """The best checkpoint on the test rows."""
    benchmarks: tuple[tuple[EvalReport, EvalReport], ...] = ()
    """Challenger and incumbent on the rows of each benchmark."""
    version: ModelVersionRef
    decision: Decision


class Summary(Findings):
    """A finished pipeline."""

    outcome: Outcome
    served: ServedAnswer
    curve: str
    """Path of the reward curve."""
    page: str
    """Path of the comparison's page."""


def render(summary: Summary, settings: Settings) -> str:
    """The summary as text, with intervals on every figure."""
    best = summary.challenger
    version = f"{summary.version.name} version {summary.version.version}"
    lines = [
        f"Validation rows ({summary.base.rows}), on which the best checkpoint is chosen",
        *_table([(report.checkpoint.label, report) for report in (summary.base, *summary.checkpoints)]),
        "",
        f"Test rows ({best.rows}), on which the gate decides",
        *_table([("incumbent", summary.incumbent), (best.checkpoint.label, best)]),
        f"  paired difference in accuracy: {summary.decision.difference}",
        "",
        f"Decision: {version}: {summary.outcome}",
        *(f"  - {reason}" for reason in summary.decision.reasons),
        "",
        f"Asked the served stage ({summary.served.version}):",
        *(f"  > {line}" for line in summary.served.question.splitlines()),
        *(f"  {line}" for line in summary.served.completion.strip().splitlines()),
        "",
        f"Reward curve: {summary.curve}",
        f"Whole report: {summary.page}",
        f"MLflow run:   {run_url(summary.run, settings)}",
        "Look at it:   medgrpo ui mlflow   and   medgrpo ui prefect",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, EvalReport]]) -> list[str]:
    header = f"  {'':12} {'accuracy':24} {'format rate':24} tokens"
    return [header] + [
        f"  {name:12} {report.accuracy!s:24} {report.format_rate!s:24} {report.completion_tokens.mean:.1f}"
        for name, report in rows
    ]
