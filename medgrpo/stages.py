"""The stages in order without Prefect: each is computed when asked for, from the ones before it."""

from functools import cached_property

from medgrpo.audit.audit import audit_for_run
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.validate import validate_for_run
from medgrpo.evaluation import best, evaluate, evaluate_all, publish
from medgrpo.grpo.launch import train
from medgrpo.keys import noted_train_key
from medgrpo.promotion import Incumbent, Proposal, find_incumbent, gather_evidence, weigh
from medgrpo.registry import register
from medgrpo.report import draw_curve
from medgrpo.report.card import store_card
from medgrpo.settings import Settings
from medgrpo.tracking import close_run, fail_run, open_run
from medgrpo.types import (
    BaseRef,
    CheckpointRef,
    DatasetRef,
    EvalReport,
    ModelVersionRef,
    RunRef,
    Split,
    TrainingRef,
)


class Stages:
    """A config's stages. What an earlier run has finished is found by its key and not done again."""

    def __init__(self, config: Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings

    @cached_property
    def base(self) -> BaseRef:
        """The base model on this disk."""
        return resolve(self.config.policy.base, self.settings)

    @cached_property
    def dataset(self) -> DatasetRef:
        """The prepared questions."""
        return prepare(self.config, self.base, self.settings)

    @cached_property
    def run(self) -> RunRef:
        """The MLflow run of this training."""
        key = noted_train_key(self.config, self.dataset, self.base, self.settings)
        return open_run(self.config, self.dataset, key, self.settings, {})

    @cached_property
    def training(self) -> TrainingRef:
        """The finished training, after validated questions and audited rewards."""
        run, settings = self.run, self.settings
        try:
            validate_for_run(self.config, self.dataset, run, settings)
            audit_for_run(self.config, self.base, self.dataset, run, settings)
            training = train(self.config, self.base, self.dataset, run, settings)
            draw_curve(run, settings)
        except BaseException:
            fail_run(run.run_id, settings)
            raise
        close_run(run.run_id, settings)
        return training

    def reports(self, split: Split) -> list[EvalReport]:
        """Reports of the base model and of every checkpoint."""
        measured = (CheckpointRef.base(), *self.training.checkpoints)
        found = evaluate_all(self.config, self.base, self.dataset, measured, split, self.settings)
        return [self._publish(report) for report in found]

    def _publish(self, report: EvalReport) -> EvalReport:
        publish(self.run, self.dataset, report, self.settings)
        return report

    @cached_property
    def chosen(self) -> CheckpointRef:
        """The checkpoint that is best on the validation rows."""
        return best(self.reports("validation")).checkpoint

    @cached_property
    def version(self) -> ModelVersionRef:
        """The model version of the chosen checkpoint, its figures on the test rows in its model card."""
        challenger, _ = self.compared()
        files = store_card(self.config, self.base, self.dataset, self.run, challenger, self.settings)
        return register(self.config, self.base, self.dataset, self.run, self.chosen, self.settings, files)

    @cached_property
    def incumbent(self) -> Incumbent:
        """What the version must beat."""
        return find_incumbent(self.config, self.settings)

    def compared(self, benchmark: str = "") -> tuple[EvalReport, EvalReport]:
        """Reports of the chosen checkpoint and of the incumbent on the test rows, or on a benchmark."""
        incumbent = self.incumbent
        challenger, report = (
            self._publish(evaluate(config, base, self.dataset, checkpoint, "test", self.settings, benchmark))
            for config, base, checkpoint in (
                (self.config, self.base, self.chosen),
                (incumbent.config, incumbent.base, incumbent.checkpoint),
            )
        )
        return challenger, report

    @cached_property
    def proposal(self) -> Proposal:
        """The gate's decision about the version; nothing is moved by it."""
        version, champion = self.version, self.incumbent.version
        benchmarks = [self.compared(name) for name in self.dataset.benchmarks]
        evidence = gather_evidence(self.config, self.dataset, version, *self.compared(), benchmarks, self.settings)
        return weigh(self.config, version, champion.version if champion else None, evidence, self.settings)
