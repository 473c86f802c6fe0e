"""The model card of a version: Markdown under the hub's header, with data, training, figures, limits and licence."""

from pathlib import Path
from typing import Any

from pydantic import Field

from medgrpo.base_models import FolderBase, HubBase
from medgrpo.config import Config
from medgrpo.data import AnySource, FileSource, HubSource
from medgrpo.fingerprint import write_whole
from medgrpo.page import load_template
from medgrpo.report.curve import Curves, read_curves
from medgrpo.report.evaluation import FIGURES, figures
from medgrpo.settings import Settings
from medgrpo.tracking import log_files
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Frozen, Origin, RunRef

TEMPLATE = "report/card.md.j2"
CARD = "MODEL_CARD.md"


class TrainingFigures(Frozen):
    """What a card says about a training."""

    run_id: str = ""
    """The MLflow run; empty: unknown."""
    rewards: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Reward → its mean over the completions of the first step, and of the last."""


def read_training(run: RunRef, settings: Settings) -> TrainingFigures:
    """The figures of a training, from its run."""
    return TrainingFigures(run_id=run.run_id, rewards=_ends(read_curves(run, settings)))


def _ends(curves: Curves) -> dict[str, tuple[float, float]]:
    return {label: (points[min(points)], points[max(points)]) for label, points in curves.items()}


def store_card(
    config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, report: EvalReport, settings: Settings
) -> dict[str, str]:
    """Write the card of the checkpoint that a report is about, and store it in the run; file name → text."""
    text = write_card(config, base, dataset, report.checkpoint, read_training(run, settings), report)
    path = settings.evaluation(report.key) / CARD
    write_whole(path, text)
    log_files(run.run_id, [path], "report", settings)
    return {CARD: text}


def write_card(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoint: CheckpointRef,
    training: TrainingFigures,
    report: EvalReport | None,
    licence: str = "",
) -> str:
    """The card's text; the same for the same arguments.

    Args:
        report: figures on rows that nothing was chosen on; None: there are none yet.
        licence: SPDX identifier that the adapter is given away under; empty: none was chosen.
    """
    origins = [_origin(source) for source in config.data.sources]
    body = load_template(TEMPLATE).render(
        config=config,
        base=base.model_copy(update={"name": _base_name(config, base)}),
        dataset=dataset,
        checkpoint=checkpoint,
        training=training,
        report=report,
        licence=licence,
        source=origins[0],
        benchmarks=origins[1:],
        figures=[(name, figures(report)[name], meaning) for name, meaning in FIGURES.items()] if report else [],
    )
    return f"---\n{_header(config, report, licence).to_yaml().strip()}\n---\n\n{body.strip()}\n"


def _base_name(config: Config, base: BaseRef) -> str:
    return Path(base.name).name if isinstance(config.policy.base, FolderBase) else base.name


def _origin(source: AnySource) -> Origin:
    """Where rows come from; of a file its name alone, as folders are nobody else's business."""
    origin = source.origin()
    return origin.model_copy(update={"name": Path(origin.name).name}) if isinstance(source, FileSource) else origin


def _header(config: Config, report: EvalReport | None, licence: str) -> Any:
    """What the hub reads: `huggingface_hub`'s own kind of value."""
    from huggingface_hub import EvalResult, ModelCardData

    base, hub_sets = config.policy.base, [s.repo for s in config.data.sources[:1] if isinstance(s, HubSource)]
    result = report and EvalResult(
        task_type="text-generation",
        dataset_type=_origin(config.data.source).name,
        dataset_name=f"{config.name}, {report.rows} {report.rows_name} rows",
        metric_type="accuracy",
        metric_value=round(report.accuracy.mean, 4),
        metric_name=f"accuracy in the strict grammar, interval {report.accuracy.low:.3f} to {report.accuracy.high:.3f}",
    )
    return ModelCardData(
        model_name=config.model_name,
        library_name="peft",
        pipeline_tag="text-generation",
        language=config.data.language or None,
        license=licence or "other",
        base_model=base.repo if isinstance(base, HubBase) else None,
        base_model_relation="adapter" if isinstance(base, HubBase) else None,
        datasets=hub_sets or None,
        tags=["grpo", "lora", "medgrpo", "medical"],
        eval_results=[result] if result else None,
    )
