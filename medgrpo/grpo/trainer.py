"""The trainer: TRL's GRPO trainer with the methods that we replace. What they do is in modules of their own."""

from typing import Any

from medgrpo.grpo.blocks import Blocks
from medgrpo.grpo.fast_path import FastPathTrainer, Verdicts
from medgrpo.grpo.resumable import ResumableTrainer


class PolicyTrainer(ResumableTrainer, FastPathTrainer):
    """TRL's GRPO trainer, resumable, with cheaper scoring and sampling, and with a record of its generation blocks."""

    def __init__(self, *args: Any, blocks: Blocks | None = None, **kwargs: Any) -> None:
        """Arguments are TRL's own, those of the classes above, and one more.

        Args:
            blocks: records what is sampled, and redraws groups that teach nothing; None: neither.
        """
        super().__init__(*args, **kwargs)
        self.blocks = blocks
        self.carry(Verdicts(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own signature: one generation block."""
        score = super()._generate_and_score_completions
        if self.blocks is None or not self.model.training:
            batch: dict[str, Any] = score(inputs)
            return batch
        return self.blocks.make(self, inputs, score)
