"""The order of prompts, as a function of seed and epoch, and the blocks of steps that share one sampling."""

from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler


class PromptOrder(RepeatSampler):
    """TRL's sampler, whose order in an epoch doesn't depend on the epochs that this process has seen.

    TRL shuffles once more for each epoch that it goes through, so a resumed process, which starts in a later one, gets
    the first epoch's order. Here epoch e always has the order that TRL without interruption would give it: the
    (e + 1)-th permutation of the seed. Rows that fill no whole batch are left out of an epoch, other ones in each.
    """

    def __init__(
        self,
        data_source: Sized,
        *,
        mini_repeat_count: int,
        batch_size: int,
        repeat_count: int,
        shuffle: bool,
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        """Arguments are TRL's own, but for one.

        Args:
            epoch: number of the epoch that is about to begin, from 0.
        """
        super().__init__(data_source, mini_repeat_count, batch_size, repeat_count, shuffle, seed)
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Row numbers of one epoch; each prompt G times, each batch as often as it is used."""
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self._epoch()):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


def ends_block(args: Any, step: int) -> bool:
    """Whether after this optimiser step no sampled completion waits to be used: the next step samples new ones.

    Only then can a checkpoint be exact without holding completions.

    Args:
        args: TRL's `GRPOConfig`.
        step: optimiser steps made, from 1.
    """
    return steps_to_block_end(args, step) == 0


def steps_to_block_end(args: Any, step: int) -> int:
    """How many optimiser steps after this one until no sampled completion waits to be used."""
    left = 0
    while (step + left) * args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations):
        left += 1
    return left
