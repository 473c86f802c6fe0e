"""TRL's GRPO trainer, resumable to the bit: a training that was killed yields the adapter of one that wasn't."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from medgrpo.grpo.carried import Carried, read_states, write_states
from medgrpo.grpo.checkpoints import draft_folder, finish, prune
from medgrpo.grpo.isolation import unseen_draws
from medgrpo.grpo.prompt_order import PromptOrder, ends_block


class ResumableTrainer(GRPOTrainer):
    """TRL's trainer with an order of prompts, saves and evaluations that a resume can stand on.

    TRL's own counters and its buffer of completions are not in a checkpoint, and needn't be: one is made where the
    buffer is used up, and there a new process counts like the old one.
    """

    _logs: Any
    log_completions: bool

    def __init__(self, *args: Any, whole_checkpoints: int = 2, **kwargs: Any) -> None:
        """Arguments are TRL's own, but for one.

        Args:
            whole_checkpoints: so many of the newest keep what only a resume needs.
        """
        super().__init__(*args, **kwargs)
        self._whole_checkpoints = whole_checkpoints
        self._carried: list[Carried] = []
        self._drafting = False

    def carry(self, part: Carried) -> None:
        """Keep the state of a part in the checkpoints; before `train`."""
        self._carried.append(part)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """TRL's own; a resumed training gives every part its state first."""
        if resume_from_checkpoint:
            read_states(Path(resume_from_checkpoint), self._carried)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's own; neither the training's draws nor its table of completions notice."""
        logs, shown = self._logs, self.log_completions
        self._logs, self.log_completions = deepcopy(logs), False
        try:
            with unseen_draws():
                return super().evaluate(*args, **kwargs)
        finally:
            self._logs, self.log_completions = logs, shown

    def _get_train_sampler(self, dataset: Any = None) -> PromptOrder:
        """TRL's own order in every epoch, also in one that a resumed process begins in."""
        return PromptOrder(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    def _get_output_dir(self, trial: Any) -> str:
        """Where TRL writes checkpoints: aside, until they are whole."""
        output: str = super()._get_output_dir(trial)
        return str(draft_folder(Path(output))) if self._drafting else output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's own, then sealed and renamed; all processes come here, the first one writes."""
        output, step = Path(self.args.output_dir), self.state.global_step
        assert ends_block(self.args, step) or step == self.state.max_steps, "completions wait to be used"
        self._drafting = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._drafting = False
        self.accelerator.wait_for_everyone()  # each has written its random state
        if self.is_world_process_zero():
            write_states(draft_folder(output) / f"checkpoint-{step}", self._carried)
            finish(step, output)
            prune(output, self._is_saved, self._whole_checkpoints)
        self.accelerator.wait_for_everyone()

    def _is_saved(self, step: int) -> bool:
        """Whether the config asks for a checkpoint after this step."""
        return bool(step % self.args.save_steps == 0 or step == self.state.max_steps)
