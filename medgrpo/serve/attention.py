"""Attention of requests that are batched without padding, on a CPU: each request looks at its own keys alone.

transformers' own way without a GPU lets every token of the batch look at all requests' keys, and masks others' away:
with eight requests that is eight times the work.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "medgrpo_by_request"


def can_look_by_request(model: Any) -> bool:
    """Whether a model's attention is the plain kind, on a CPU: all layers see all tokens before them."""
    config = model.config.get_text_config()
    usual = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    kinds = getattr(config, "layer_types", None) or [usual]
    plain = model.config._attn_implementation == "sdpa" and set(kinds) == {"full_attention"}
    return bool(plain and model.device.type == "cpu")


def by_request(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cache: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' continuous batching asks for it.

    Args:
        query: (1, heads, tokens of all requests, size).
        key: (1, heads of keys, tokens of all requests, size), the new ones, which go into the cache.
        value: likewise.
        cache: transformers' paged cache, which gives back the keys and values of all requests, one after the other.
        kwargs: with `cu_seq_lens_q` and `cu_seq_lens_k`, where each request's tokens and keys begin.

    Returns:
        (1, tokens of all requests, heads, size).
    """
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    attended = torch.zeros_like(query)
    tokens, keys = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    for place in range(len(tokens) - 1):
        ours, theirs = slice(*tokens[place : place + 2]), slice(*keys[place : place + 2])
        if ours.start < ours.stop:
            attended[:, :, ours] = _attend(query[:, :, ours], key[:, :, theirs], value[:, :, theirs], scaling)
    return attended.transpose(1, 2).contiguous(), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """One request's newest tokens look at all of its tokens before them."""
    heads, length = query.shape[1:3]
    groups = heads // key.size(1)
    if length == 1:  # the heads that share keys, as if they were tokens: nothing is copied
        packed = query.view(1, key.size(1), groups, -1)
        return scaled_dot_product_attention(packed, key, value, scale=scaling).view_as(query)
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    before = key.size(2) - length
    if not before:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    mask = query.new_ones(length, key.size(2), dtype=torch.bool).tril(before)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


AttentionInterface.register(NAME, by_request)
