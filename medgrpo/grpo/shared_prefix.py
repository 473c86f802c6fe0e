"""Each prompt once per group: what G completions of one prompt share is computed once instead of G times.

A group's rows all start with the same prompt tokens. The prompt runs once into a key-value cache, the cache is
copied to the group's rows, and only the completions run on top: G·(P + C) tokens become P + G·C. Autograd sums the
rows' gradients back through the copies, so losses and gradients are those of the full rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache

from medgrpo.grpo.completion_head import own_head
from medgrpo.grpo.grouped_attention import grouped


def completion_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the completion tokens.

    Args:
        model: a model with TRL's fused LM head, also inside of DDP. It runs on what is scored, and on no padding.
        input_ids: (rows, P + C), left-padded prompts and right-padded completions; equal prompts may stand anywhere.
        attention_mask: (rows, P + C).
        completion_length: C.

    Returns:
        Two tensors (rows, C), 0 at padding.
    """
    width = completion_length
    ids, mask, length = _trimmed(input_ids, attention_mask, width)
    start = ids.size(1) - length
    backbone = _backbone(model)
    cache = fork_prompts(backbone, ids[:, : start - 1], mask[:, : start - 1])
    scored = mask[:, start:].bool()
    with _only(backbone, scored), own_head(), grouped(backbone):
        outputs = model(
            # Each token predicts the next: the last one of the prompt counts, the last one of the completion doesn't.
            input_ids=ids[:, start - 1 : -1],
            attention_mask=mask[:, :-1],
            position_ids=positions(mask)[:, start - 1 : -1],
            past_key_values=cache,
            shift_labels=ids[:, start:][scored][None],
            fused_lm_head=True,
        )
    return _spread(outputs.log_probs, scored, width), _spread(outputs.entropy, scored, width)


def fork_prompts(backbone: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
    """Run the distinct beginnings of rows and copy the cache to every row.

    Args:
        backbone: a model without its LM head.
        ids: (rows, P).
        mask: (rows, P), 0 at padding.

    Returns:
        A cache of P positions for all rows.
    """
    first, rows = distinct(torch.cat([ids, mask], dim=1))
    cache = DynamicCache(config=backbone.config.get_text_config())
    if not ids.size(1):
        return cache
    mask = mask[first]
    backbone(
        input_ids=ids[first],
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
    )
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
    return cache


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token in its row, padding not counted: what `generate` uses, so that the cache must too."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def distinct(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first place of each distinct row, and for every row which distinct one it is."""
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(inverse.size(0), device=rows.device)
    first = torch.full((unique.size(0),), rows.size(0), device=rows.device)
    first = first.scatter_reduce(0, inverse, places, reduce="amin")
    return first, inverse


def _trimmed(ids: torch.Tensor, mask: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The same without the outer columns that are padding in all rows, and what is left of the completions' length."""
    used = mask.any(dim=0)
    start = ids.size(1) - length
    left = min(int(used.int().argmax()), start - 1)
    kept = max(1, int((used[start:].nonzero()[-1] + 1) if used[start:].any() else 0))
    return ids[:, left : start + kept], mask[:, left : start + kept], kept


def _backbone(model: Any) -> Any:
    """What is below the LM head: inside of DDP, and of PEFT."""
    plain = getattr(model, "module", model)
    return (plain.get_base_model() if hasattr(plain, "get_base_model") else plain).base_model


@contextmanager
def _only(backbone: Any, scored: torch.Tensor) -> Iterator[None]:
    """Let the LM head see the positions that are scored, and no others, as one row."""

    def select(_module: Any, _inputs: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[scored][None]
        return outputs

    hook = backbone.register_forward_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _spread(values: torch.Tensor, scored: torch.Tensor, width: int) -> torch.Tensor:
    """(1, number of scored positions) → (rows, width), 0 elsewhere."""
    table = values.new_zeros(scored.shape).masked_scatter(scored, values)
    return torch.nn.functional.pad(table, (0, width - scored.size(1)))
