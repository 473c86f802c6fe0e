"""Dynamic sampling: groups whose rewards are all the same teach nothing, so other questions are asked in their place.

The idea is DAPO's (Yu et al. 2025, section 3.2); here a step draws again so often at most, and keeps its size.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from medgrpo.grpo.ledger import Ledger

if TYPE_CHECKING:
    import torch

SAME = 1e-6
"""Total rewards of one group that differ by less are the same: the rest is rounding."""

Batch = dict[str, Any]
Metrics = dict[str, list[float]]


def is_degenerate(totals: Sequence[float]) -> bool:
    """Whether the total rewards of one group are all the same."""
    return max(totals) - min(totals) < SAME


def choose(examples: Sequence[str], asked: Collection[str], ledger: Ledger, count: int, key: str) -> list[int]:
    """Rows to ask next: drawn by the key, those first that the ledger doesn't know as always right or always wrong.

    Args:
        examples: ids of all train rows.
        asked: ids that this step has asked.
        key: decides the draw.

    Returns:
        At most `count` places among the rows.
    """
    order = Random(key).sample(range(len(examples)), len(examples))
    open_rows = [row for row in order if examples[row] not in asked]
    return sorted(open_rows, key=lambda row: ledger.is_settled(examples[row]))[:count]


def swap(batch: Batch, extra: Batch, moves: Mapping[int, int], size: int, pad_token: int) -> Batch:
    """Put groups of one batch into places of another; the shorter rows are padded to the longer ones' width.

    Args:
        batch: TRL's generation batch: tensors whose first dimension is the completions, groups together.
        extra: another one; an entry that it lacks is left out.
        moves: place of a group in `batch` → place of the group in `extra` that it is replaced by.
        size: completions per group.
    """
    rows = len(batch["completion_ids"])
    index = list(range(rows))
    for place, other in moves.items():
        index[place * size : (place + 1) * size] = range(rows + other * size, rows + (other + 1) * size)
    merged = {name: value for name, value in batch.items() if name in extra}
    for name, value in merged.items():
        if getattr(value, "ndim", 1) == 0:
            continue  # one figure of the whole batch
        if isinstance(value, list):
            joined = value + extra[name]
            merged[name] = [joined[place] for place in index]
        else:
            merged[name] = _stacked(name, value, extra[name], pad_token)[index]
    mask = merged["completion_mask"]
    if "tool_mask" in merged:
        mask = mask * merged["tool_mask"]
    return merged | {"num_items_in_batch": mask.sum().to(batch["num_items_in_batch"].dtype)}


def _stacked(name: str, first: "torch.Tensor", second: "torch.Tensor", pad_token: int) -> "torch.Tensor":
    """Both, one below the other: prompts are padded on the left, completions on the right."""
    import torch
    from torch.nn.functional import pad

    if first.ndim == 2:
        width = max(first.size(1), second.size(1))
        value = pad_token if name.endswith("_ids") else 0
        left = name.startswith("prompt")
        first, second = (
            pad(part, (width - part.size(1), 0) if left else (0, width - part.size(1)), value=value)
            for part in (first, second)
        )
    return torch.cat([first, second])


def batch_advantages(totals: Sequence[Sequence[float]], like: "torch.Tensor") -> "torch.Tensor":
    """Advantages for `scale_rewards = "batch"`: centred on the group, divided by the whole batch's deviation.

    Args:
        totals: total rewards of each group.
        like: a tensor of the advantages' dtype, on their device.
    """
    rewards = like.new_tensor(totals)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return (centred / (rewards.std() + 1e-4)).flatten()


@contextmanager
def first_draw_only(metrics: Metrics) -> Iterator[None]:
    """Keep a redraw out of the step's figures, but for what it took.

    So they stay those of questions that nobody chose, as without redraws.
    """
    before = {name: len(values) for name, values in metrics.items()}
    yield
    for name in list(metrics):
        if name == "num_tokens":  # a running count
            continue
        kept = before.get(name, 0)
        added = metrics[name][kept:]
        metrics[name] = metrics[name][:kept]
        if "seconds" in name and metrics[name]:
            metrics[name][-1] += sum(added)
        elif not metrics[name]:
            del metrics[name]
