"""Attention in which the query heads of a group stand side by side over the keys and values that they share.

With a mask and several queries, transformers repeats keys and values once for each query head: for completions over
a long prompt that is most of what attention costs on a CPU. PyTorch's kernel doesn't care whether rows of queries are
heads or positions, so (rows, heads, Q, d) is asked as (rows, shared heads, heads/shared·Q, d), and nothing is repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "medgrpo-grouped"


def grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function, as transformers calls it.

    Args:
        query: (rows, heads, Q, d).
        key: (rows, shared heads, K, d).
        value: likewise.
        attention_mask: (rows, 1, Q, K), or None.

    Returns:
        (rows, Q, heads, d), and no weights.
    """
    rows, heads, length, size = query.shape
    shared = key.size(1)
    if attention_mask is None or attention_mask.size(1) != 1 or heads == shared or options.get("dropout"):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    side_by_side = query.reshape(rows, shared, heads // shared * length, size)
    mask = attention_mask.repeat(1, 1, heads // shared, 1)
    attended = torch.nn.functional.scaled_dot_product_attention(side_by_side, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def grouped(model: Any) -> Iterator[None]:
    """Let a model that attends by PyTorch's kernel do so grouped, on a CPU, for as long as the block lasts."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa" and model.device.type == "cpu":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
