"""Rows that have no gradient: those of a group whose rewards are all the same, and those with no token to score.

They count in every denominator and every metric, but are not run.
"""

from dataclasses import dataclass
from typing import Any

import torch

FLAT = {"group": 1e-2, "batch": 1e-5, "none": 1e-5}
"""A group is flat if no advantage in it is above this, by `scale_rewards`. Rounding alone gives up to 2e-3 where the
group's own deviation, plus 1e-4, is what advantages are divided by; rewards that differ by 1e-5 give more than 1e-2.
"""


def mark_flat_groups(batch: dict[str, Any], size: int, scale_rewards: str) -> None:
    """Add to a generation batch which of its rows are in a group of the same rewards; they are in order here.

    Args:
        size: completions per group. Where a process holds parts of groups nothing is marked.
    """
    advantages = batch["advantages"]
    if advantages.dim() == 1 and len(advantages) % size == 0:
        flat = advantages.view(-1, size).abs().amax(dim=1) < FLAT[scale_rewards]
        batch["flat"] = flat.repeat_interleave(size)


@dataclass(frozen=True)
class Idle:
    """Which rows of a loss are run, and what stands in for the others."""

    busy: torch.Tensor
    """(rows,), True for those that are run."""
    logps: torch.Tensor
    """(rows, C)."""
    entropies: torch.Tensor | None
    """(rows, C), as they were when sampling; None: unknown, and the mean of the others stands in for them."""

    def fill(
        self, logps: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the results of the rows that were run in their places.

        Args:
            logps: of the busy rows only.
            entropies: likewise.
            mask: (rows, C), of all.
        """
        stand_in = self.entropies
        if stand_in is None:
            mean = (entropies * mask[self.busy]).sum() / mask[self.busy].sum().clamp(min=1)
            stand_in = mean.expand(self.logps.shape)
        places = self.busy[:, None].expand(self.logps.shape)
        return (
            self.logps.to(logps.dtype).masked_scatter(places, logps),
            stand_in.detach().to(entropies.dtype).masked_scatter(places, entropies),
        )


def find_idle(trainer: Any, inputs: dict[str, Any]) -> Idle | None:
    """The idle rows of a loss, None if there are none; one row is always run, so that the loss has a gradient, of 0.

    Args:
        trainer: TRL's; where its loss is more than advantages times ratios, flat groups are run like others.
        inputs: one part of a generation batch.
    """
    mask = inputs["completion_mask"]
    idle = mask.sum(dim=1) == 0
    advantages_only = trainer.beta == 0 and not trainer._entropy_bonus_enabled and trainer.top_entropy_quantile == 1.0
    if advantages_only and "flat" in inputs:
        idle = idle | inputs["flat"]
    if not idle.any():
        return None
    busy = ~idle
    if not busy.any():
        if "sampling_entropies" not in inputs:
            return None
        busy[mask.sum(dim=1).argmin()] = True
    known = inputs.get("old_per_token_logps", inputs.get("sampling_per_token_logps"))
    logps = torch.zeros_like(mask, dtype=torch.float32) if known is None else known.nan_to_num()
    return Idle(busy, logps, inputs.get("sampling_entropies"))
