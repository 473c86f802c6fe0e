"""A generation block: a step's completions sampled and scored, groups that teach nothing redrawn, all recorded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.grpo.guards import GuardBroken, no_probabilities
from medgrpo.grpo.ledger import Ledger
from medgrpo.grpo.redraw import Batch, batch_advantages, choose, first_draw_only, is_degenerate, swap
from medgrpo.grpo.rollouts import collect, read_scored, write_step

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
Groups = list["pd.DataFrame"]
"""One table per group of completions."""
Score = Callable[[Rows], Batch]
"""TRL's own sampling and scoring of one row per completion."""


class Blocks:
    """Makes the generation blocks of one training."""

    def __init__(self, output: Path, examples: Sequence[str], redraws: int, seed: int) -> None:
        """Record below the training's folder.

        Args:
            examples: ids of the train rows, in the dataset's order.
            redraws: how often a block may draw again.
        """
        self._output = output
        self._examples = examples
        self._redraws = redraws
        self._seed = seed
        self._ledger: Ledger | None = None

    def make(self, trainer: Any, inputs: Rows, score: Score) -> Batch:
        """Sample and score the block that starts now.

        Args:
            trainer: TRL's.
            inputs: the dataset's row of each completion.

        Raises:
            GuardBroken: the policy gives NaN.
        """
        import pandas as pd

        step = trainer.state.global_step + 1
        batch = score(inputs)
        if not trainer.use_vllm and _has_nan(trainer, batch):  # a loss may not show it: all groups degenerate
            raise GuardBroken(no_probabilities(step))
        block = _groups(read_scored(trainer, inputs, batch).assign(redraw=0))
        unused: Groups = []
        if self._redraws:
            ledger = self._known(step - 1)
            batch = self._redraw(trainer, batch, score, block, unused)
            for group in (*block, *unused):
                ledger.add(step, list(group["example"]), list(group["correct"]))
        trainer._metrics["train"]["degenerate_groups"].append(len(_degenerate(block)) / len(block))
        if trainer.accelerator.is_main_process:
            numbered = [group.assign(group=number) for number, group in enumerate([*block, *unused])]
            rows = pd.concat(numbered, ignore_index=True)
            rows["used"] = rows["group"] < len(block)
            write_step(self._output, step, rows)
        return batch

    def _known(self, step: int) -> Ledger:
        """The ledger up to a step; in a resumed training from what was recorded before."""
        if self._ledger is None:
            self._ledger = Ledger.of(collect(self._output, step))
        return self._ledger

    def _redraw(self, trainer: Any, batch: Batch, score: Score, block: Groups, unused: Groups) -> Batch:
        """The batch after its redraws; groups that go in and out of it move between `block` and `unused`."""
        size, step = trainer.num_generations, trainer.state.global_step + 1
        attempts = replaced = 0
        while attempts < self._redraws and (places := _degenerate(block)):
            asked = {group["example"].iloc[0] for group in (*block, *unused)}
            key = f"{self._seed}-{step}-{attempts + 1}"
            chosen = choose(self._examples, asked, self._known(step - 1), len(places), key)
            if not chosen:
                break  # every question was asked
            attempts += 1
            inputs = [dict(trainer.train_dataset[row]) for row in chosen for _ in range(size)]
            with first_draw_only(trainer._metrics["train"]):
                extra = score(inputs)
            drawn = _groups(read_scored(trainer, inputs, extra).assign(redraw=attempts))
            telling = [place for place in range(len(drawn)) if place not in _degenerate(drawn)]
            moves = dict(zip(places, telling, strict=False))
            batch = swap(batch, extra, moves, size, trainer.processing_class.pad_token_id)
            for place, other in moves.items():
                block[place], drawn[other] = drawn[other], block[place]
            unused += drawn
            replaced += len(moves)
        if replaced and trainer.scale_rewards == "batch":
            batch["advantages"] = batch_advantages([list(group["total"]) for group in block], batch["advantages"])
            of_groups = batch["advantages"].view(-1, size).tolist()
            block[:] = [group.assign(advantage=own) for group, own in zip(block, of_groups, strict=True)]
        trainer._metrics["train"]["redraws/attempts"].append(float(attempts))
        trainer._metrics["train"]["redraws/replaced"].append(float(replaced))
        return batch


def _has_nan(trainer: Any, batch: Batch) -> bool:
    """Whether a token of any process was drawn from NaN, as far as the sampling tells: so all end together."""
    logps = batch.get("sampling_per_token_logps")
    return logps is not None and bool(trainer.accelerator.gather(logps.isnan().any().reshape(1)).any())


def _groups(rows: "pd.DataFrame") -> Groups:
    return [group for _, group in rows.groupby("group", sort=True)]


def _degenerate(groups: Groups) -> list[int]:
    """Places of the groups whose total rewards are all the same."""
    return [place for place, group in enumerate(groups) if is_degenerate(list(group["total"]))]
