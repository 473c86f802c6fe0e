"""What a person looks at when a pipeline has ended: the reward curve and the summary."""

from collections.abc import Sequence
from pathlib import Path

from medgrpo.settings import Settings
from medgrpo.tracking import history, log_files, run_url
from medgrpo.types import Decision, EvalReport, Frozen, ModelVersionRef, RunRef, ServedAnswer

CURVES = {
    "train/reward": "total reward",
    "train/rewards/correct/mean": "correct",
    "train/rewards/format/mean": "format",
}


class Summary(Frozen):
    """A finished pipeline."""

    run: RunRef
    base: EvalReport
    """The base model on the validation rows."""
    checkpoints: tuple[EvalReport, ...]
    """Every checkpoint on the same rows."""
    incumbent: EvalReport
    """What was served before, on the test rows."""
    challenger: EvalReport
    """The best checkpoint on the test rows."""
    version: ModelVersionRef
    decision: Decision
    served: ServedAnswer
    curve: str
    """Path of the reward curve."""


def draw_curve(run: RunRef, settings: Settings) -> Path:
    """Draw rewards against steps, from the run's metrics, as a PNG; store it in the run too."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for metric, label in CURVES.items():
        points = history(run.run_id, metric, settings)
        if points:
            axes.plot([step for step, _ in points], [value for _, value in points], marker=".", label=label)
    axes.set(xlabel="step", ylabel="mean over the step's completions", title="Rewards during training")
    axes.grid(alpha=0.3)
    axes.legend()
    path = settings.training(run.key) / "reward.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    log_files(run.run_id, [path], "plots", settings)
    return path


def render(summary: Summary, settings: Settings) -> str:
    """The summary as text, with intervals on every figure."""
    best, verdict = summary.challenger, "promoted" if summary.decision.promote else "NOT promoted"
    version = f"{summary.version.name} version {summary.version.version}"
    lines = [
        f"Validation rows ({summary.base.rows}), on which the best checkpoint is chosen",
        *_table([(report.checkpoint.label, report) for report in (summary.base, *summary.checkpoints)]),
        "",
        f"Test rows ({best.rows}), on which the gate decides",
        *_table([("incumbent", summary.incumbent), (best.checkpoint.label, best)]),
        f"  paired difference in accuracy: {summary.decision.difference}",
        "",
        f"Decision: {version} is {verdict}",
        *(f"  - {reason}" for reason in summary.decision.reasons),
        "",
        f"Asked the served stage ({summary.served.version}):",
        *(f"  > {line}" for line in summary.served.question.splitlines()),
        *(f"  {line}" for line in summary.served.completion.strip().splitlines()),
        "",
        f"Reward curve: {summary.curve}",
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
