"""Attention of requests that are batched without padding, on a CPU: each request looks at its own keys alone.

transformers' own way without a GPU lets every token of the batch look at all requests' keys, and masks others' away:
with eight requests that is eight times the work.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "medgrpo_by_request"
MOST_PADDING = 2
"""Keys that a step of one token for each request may read, in multiples of those that are there."""


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
    rows = _Rows.of(query.size(2), kwargs)
    if rows:
        kwargs["read_index"] = [rows.read]
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    if rows:
        return rows.attend(query, key, value, scaling), None
    attended = torch.zeros_like(query)
    tokens, keys = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    for place in range(len(tokens) - 1):
        ours, theirs = slice(*tokens[place : place + 2]), slice(*keys[place : place + 2])
        if ours.start < ours.stop:
            attended[:, :, ours] = _attend(query[:, :, ours], key[:, :, theirs], value[:, :, theirs], scaling)
    return attended.transpose(1, 2).contiguous(), None


class _Rows(NamedTuple):
    """A step in which every request says one token: their keys as rows of one length, in one product."""

    read: torch.Tensor
    """(requests · most keys) places in the cache; a shorter request's last one stands in for those that it lacks."""
    mask: torch.Tensor
    """(requests, 1, 1, most keys): which of them are a request's own."""

    @classmethod
    def of(cls, tokens: int, kwargs: dict[str, Any]) -> "_Rows | None":
        """The rows, unless some request reads more tokens, or one is so long that padding costs more than it saves."""
        (read,), (keys,) = kwargs["read_index"], kwargs["cu_seq_lens_k"].values()
        requests = len(keys) - 1
        if read.numel() == 0 or kwargs["max_length_q"] != 1 or requests != tokens or requests == 1:
            return None
        lengths = keys.diff()
        most = int(lengths.max())
        if requests * most > MOST_PADDING * read.numel():
            return None
        places = torch.arange(most)
        own = places < lengths[:, None]
        return cls(read[keys[:-1, None] + places.minimum(lengths[:, None] - 1)].flatten(), own[:, None, None])

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """(1, heads, requests, size), and (1, heads of keys, requests · most keys, size) twice → as `by_request`."""
        requests, most = len(self.mask), self.mask.size(-1)
        key, value = (states[0].unflatten(1, (requests, most)).transpose(0, 1) for states in (key, value))
        packed = query[0].transpose(0, 1).unflatten(1, (key.size(1), -1))  # heads that share keys, as if tokens
        attended = scaled_dot_product_attention(packed, key, value, attn_mask=self.mask, scale=scaling)
        return attended.flatten(1, 2)[None]


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
