"""The stages in order without Prefect: each is computed when asked for, from the ones before it."""

from functools import cached_property

from medgrpo.audit.audit import audit_for_run
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.validate import validate_for_run
from medgrpo.evaluate import best, evaluate, publish
from medgrpo.grpo.launch import train
from medgrpo.keys import noted_train_key
from medgrpo.promotion import decide_and_promote, find_incumbent
from medgrpo.registry import register
from medgrpo.report import draw_curve
from medgrpo.settings import Settings
from medgrpo.tracking import close_run, fail_run, open_run
from medgrpo.types import (
    BaseRef,
    CheckpointRef,
    DatasetRef,
    Decision,
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
        return [self.report(checkpoint, split) for checkpoint in (CheckpointRef.base(), *self.training.checkpoints)]

    def report(self, checkpoint: CheckpointRef, split: Split) -> EvalReport:
        """Report of one checkpoint, stored in MLflow too."""
        report = evaluate(self.config, self.base, self.dataset, checkpoint, split, self.settings)
        publish(self.run, self.dataset, report, self.settings)
        return report

    @cached_property
    def version(self) -> ModelVersionRef:
        """The model version of the checkpoint that is best on the validation rows."""
        chosen = best(self.reports("validation")).checkpoint
        return register(self.config, self.base, self.dataset, self.run, chosen, self.settings)

    @cached_property
    def decision(self) -> Decision:
        """The gate's decision about the version, carried out."""
        chosen = best(self.reports("validation")).checkpoint
        challenger = self.report(chosen, "test")
        incumbent = find_incumbent(self.config, self.settings)
        report = evaluate(incumbent.config, incumbent.base, self.dataset, incumbent.checkpoint, "test", self.settings)
        publish(self.run, self.dataset, report, self.settings)
        return decide_and_promote(self.config, self.version, challenger, report, self.settings)
