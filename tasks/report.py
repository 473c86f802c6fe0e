"""Stages: draw the reward curve, write the model card, and the page about the comparison with what is served."""

from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from medgrpo.config import Config
from medgrpo.report import Findings, draw_curve
from medgrpo.report.card import store_card
from medgrpo.report.curve import curve_path
from medgrpo.report.evaluation import write_page
from medgrpo.settings import Settings
from medgrpo.tracking import run_url
from medgrpo.types import BaseRef, DatasetRef, EvalReport, RunRef, TrainingRef
from tasks.stage import Parameters, stage


def _is_drawn(parameters: Parameters) -> bool:
    return curve_path(parameters["run"], Settings()).is_file()


@stage("report", of="train", there=_is_drawn, retries=3)
def report(run: RunRef, training: TrainingRef) -> str:
    """Draw the rewards of a finished training; the picture's path."""
    path: Path = draw_curve(run, Settings())
    return str(path)


@stage("card", of="evaluate", retries=3)
def card(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, challenger: EvalReport) -> dict[str, str]:
    """Write the model card of the policy that a report is about; file name → text, for its model version."""
    return store_card(config, base, dataset, run, challenger, Settings())


@stage("report-evaluation", of="promote", retries=3)
def report_evaluation(config: Config, findings: Findings) -> str:
    """Write the page about a decision; its path. MLflow keeps it, and Prefect shows where."""
    settings = Settings()
    path: Path = write_page(config, findings, settings)
    link = f"{run_url(findings.run, settings)}/artifacts/report/{path.parent.name}/{path.name}"
    create_markdown_artifact(
        key="evaluation-report", markdown=f"[Evaluation in MLflow]({link}), the same page as `{path}`"
    )
    return str(path)
