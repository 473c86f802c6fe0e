"""TRL's GRPO trainer with cheaper scoring and sampling: the same numbers from fewer products.

What completions of one prompt share is computed once (shared_prefix.py), completions are sampled by our own loop
(sampling.py) from a merged copy (inference_copy.py), and groups whose rewards are all the same, which have no
gradient, are not run at all (idle.py). Where that can't be done, or turns out to give other numbers than TRL's own
path, TRL's own path is taken.
"""

import logging
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import pad

from medgrpo.grpo.idle import Idle, find_idle, mark_flat_groups
from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.grpo.obstacles import obstacle_to_sampling, obstacle_to_scoring
from medgrpo.grpo.sampling import Decoding, Sampled, sample
from medgrpo.grpo.shared_prefix import completion_logps

log = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""Nats that a token's log-probability may differ by from TRL's own, by the policy's dtype: what rounding does."""
CHECKED_ROWS = 4
"""Rows of the first step that are run both ways."""


class FastPathTrainer(GRPOTrainer):
    """Scores and samples each group on one run of its prompt."""

    def __init__(self, *args: Any, fast_path: bool = True, **kwargs: Any) -> None:
        """Arguments are TRL's own, but for one.

        Args:
            fast_path: share what completions of one prompt have in common; False: TRL's own scoring and sampling.
        """
        super().__init__(*args, **kwargs)
        self._scores_fast, self._samples_fast = fast_path, fast_path
        self._unchecked, self._sampling_checked = {True, False}, False
        self._copies: bool | None = None
        self._copy: InferenceCopy | None = None
        self._sampled: Sampled | None = None
        self._idle: Idle | None = None
        if fast_path:
            self._refrain(obstacle_to_scoring(self), obstacle_to_sampling(self))

    def _refrain(self, scoring: str | None, sampling: str | None) -> None:
        """Take TRL's own path where something stands in the way of ours, and say so."""
        if scoring:
            log.warning("grpo.fast_path: completions are scored TRL's own way: %s", scoring)
            self._scores_fast = False
        if sampling:
            log.warning("grpo.fast_path: completions are sampled TRL's own way: %s", sampling)
            self._samples_fast = False

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """TRL's own signature: token ids of one completion per prompt, and their log-probabilities."""
        decoding = Decoding.of(self.generation_config) if self._samples_fast else None
        if decoding is not None:
            sampled = sample(self._sampler(), prompt_ids, decoding)
            if self._is_right(prompt_ids, sampled):
                self._sampled = sampled
                return sampled.tokens, sampled.logps
        stock: tuple[Any, Any] = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return stock

    def _sampler(self) -> Any:
        """The model to sample from: a merged copy, where the policy can have one."""
        policy = self.accelerator.unwrap_model(self.model)
        if self._copies is None:  # decided once: free memory changes
            self._copies = can_be_copied(policy)
        if not self._copies:
            return policy
        if self._copy is None:
            self._copy = InferenceCopy(policy)
        return self._copy.refresh()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own signature; what idle rows are known by, and their entropies, go with the batch."""
        self._sampled = None
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._scores_fast and self.model.training:
            mark_flat_groups(batch, self.num_generations, self.scale_rewards)
            if self._sampled is not None:
                rows = [torch.tensor(row) for row in self._sampled.entropies]
                table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                width = batch["completion_ids"].size(1) - table.size(1)
                batch["sampling_entropies"] = torch.nn.functional.pad(table, (0, width)).to(self.accelerator.device)
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """TRL's own signature."""
        if self._scores_fast and self.model.training:
            self._metrics["train"]["fast_path/active"].append(1.0)
            self._idle = find_idle(self, inputs)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._idle = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Any, Any, Any]:
        """TRL's own signature."""
        fast = self._scores_fast and not compute_aux_loss and all(value is None for value in multimodal.values())
        if fast and self._idle is None:
            logps, entropies = self._score(model, input_ids, attention_mask, logits_to_keep, batch_size)
        elif fast and self._idle is not None:
            busy = self._idle.busy
            some = self._score(model, input_ids[busy], attention_mask[busy], logits_to_keep, batch_size)
            logps, entropies = self._idle.fill(*some, attention_mask[:, -logits_to_keep:])
        if fast and self._agrees(model, input_ids, attention_mask, logps):
            return logps, entropies if compute_entropy else None, None
        stock: tuple[Any, Any, Any] = super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size,
            compute_entropy,
            compute_aux_loss,
            **multimodal,
        )
        return stock

    def _score(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, length: int, batch_size: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (rows, length) each, of so many rows at a time."""
        size = batch_size or input_ids.size(0)
        parts = []
        with self.accelerator.autocast():
            for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
                parts.append(completion_logps(model, ids, mask, length))
        logps, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return logps, entropies

    def _agrees(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logps: torch.Tensor) -> bool:
        """Whether our scores of the process's first rows are TRL's; if not, ours are not asked for again.

        Checked twice: without gradients, which is how a reference policy is run, and with them.
        """
        kind = torch.is_grad_enabled()
        if kind not in self._unchecked:
            return True
        self._unchecked.discard(kind)
        busy = torch.arange(len(logps)) if self._idle is None else self._idle.busy.nonzero()[:, 0]
        rows = busy[:: -(-len(busy) // CHECKED_ROWS)]
        if self._compare(model, input_ids[rows], attention_mask[rows], logps[rows]):
            return True
        self._scores_fast = False
        return False

    def _is_right(self, prompts: list[list[int]], sampled: Sampled) -> bool:
        """Whether the process's first completions were sampled with the log-probabilities that TRL's scoring gives."""
        if self._sampling_checked:
            return True
        self._sampling_checked = True
        rows = range(0, len(prompts), -(-len(prompts) // CHECKED_ROWS))
        before, after = ([torch.tensor(table[row]) for row in rows] for table in (prompts, sampled.tokens))
        seen = [[torch.ones_like(row) for row in part] for part in (before, after)]
        ids = torch.cat([pad(before, padding_side="left"), pad(after)], dim=1)
        mask = torch.cat([pad(seen[0], padding_side="left"), pad(seen[1])], dim=1)
        logps = pad([torch.tensor(sampled.logps[row]) for row in rows])
        device = self.accelerator.device
        if self._compare(self.model, ids.to(device), mask.to(device), logps.to(device)):
            return True
        self._samples_fast = False
        return False

    def _compare(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logps: torch.Tensor) -> bool:
        """Whether log-probabilities are those of TRL's own path, within what rounding does."""
        length = logps.size(1)
        with torch.no_grad():
            own, _, _ = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, length)
        gap = ((own - logps) * attention_mask[:, -length:]).abs().max()
        difference = float(self.accelerator.gather(gap.detach().reshape(1)).max())
        self._metrics["train"]["fast_path/difference"].append(difference)
        tolerance = TOLERANCES[self.accelerator.unwrap_model(model).dtype]
        if difference <= tolerance:
            return True
        log.warning(
            "grpo.fast_path: log-probabilities differ by %.2g from TRL's own, more than %.2g: "
            "TRL's own path is taken from here on. Please report it, with the name of the base model",
            difference,
            tolerance,
        )
        return False


class Verdicts:
    """Whether TRL's own path had to be taken, carried in checkpoints: a resumed training goes on with the same one."""

    name = "fast path"

    def __init__(self, trainer: FastPathTrainer) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """Which of our ways were still taken."""
        return {"scores": self._trainer._scores_fast, "samples": self._trainer._samples_fast}

    def restore(self, state: dict[str, Any]) -> None:
        """Take none that was given up; the others are checked again in this process."""
        self._trainer._scores_fast &= state["scores"]
        self._trainer._samples_fast &= state["samples"]
