"""Greedy completions of many prompts, for evaluation: what all begin with is read once, ended rows are dropped.

Sampling for training keeps log-probabilities and copies one prompt to the rows of its group (grpo/sampling.py). Here
every prompt is another one, only the likeliest token is wanted, and the more rows go on together the better.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from medgrpo.grpo.sampling import Decoding, closed_up

CHUNK_TOKENS = 3072
"""Tokens of prompts that are read together: fewer make smaller products, more don't fit a processor's cache."""
SHORTEST_BEGINNING = 8
"""A shorter beginning isn't worth a forward of its own."""


class Room(DynamicLayer):
    """One layer's keys and values of all rows, (rows, heads, room, size), written in place from `start` on."""

    def __init__(self, like: torch.Tensor, rows: int, room: int) -> None:
        """Make room, filled with zeros.

        Args:
            like: keys of this layer, (any, heads, any, size).
        """
        super().__init__()
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        shape = (rows, like.size(1), room, like.size(3))
        self.whole_keys, self.whole_values = like.new_zeros(shape), like.new_zeros(shape)
        self.rows, self.start = slice(0, rows), 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a block's keys and values for the rows in question; views of all that these rows have."""
        end = self.start + key_states.size(2)
        self.whole_keys[self.rows, :, self.start : end] = key_states
        self.whole_values[self.rows, :, self.start : end] = value_states
        return self.whole_keys[self.rows, :, :end], self.whole_values[self.rows, :, :end]

    def get_seq_length(self) -> int:
        """Tokens before the block that is written next."""
        return self.start

    def move(self, sources: list[int], targets: list[int], end: int) -> None:
        """Copy rows to the places of others."""
        self.whole_keys[targets, :, :end] = self.whole_keys[sources, :, :end]
        self.whole_values[targets, :, :end] = self.whole_values[sources, :, :end]


class GreedyDecoder:
    """Completes prompts greedily with one policy, whose weights must not change meanwhile."""

    def __init__(self, model: Any, decoding: Decoding) -> None:
        """Read nothing yet.

        Args:
            model: a causal language model whose layers all attend to everything before them.
            decoding: its end tokens, its pad token, and the longest completion; the rest is for sampling.
        """
        self._model = model
        self._decoding = decoding
        self._beginning: list[int] = []
        self._read: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def complete(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of the completions, up to and with their first end token.

        Args:
            prompts: token ids. Those of similar length are best next to each other.
        """
        batch = _Batch(self._model, self._decoding, prompts, *self._begin(prompts))
        while batch.live:
            batch.step()
        return batch.completions

    def _begin(self, prompts: Sequence[Sequence[int]]) -> tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Length of what all prompts begin with, and each layer's keys and values of it, (1, heads, …, size)."""
        known = len(self._beginning)
        if not (known and all(len(p) > known and list(p[:known]) == self._beginning for p in prompts)):
            length = _common(prompts)
            self._beginning = list(prompts[0][:length]) if length >= SHORTEST_BEGINNING else []
            # Without a beginning one token is read for the shapes alone.
            ids = torch.tensor([self._beginning or [self._decoding.pad_token]], device=self._model.device)
            cache = DynamicCache(config=self._model.config.get_text_config())
            self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._read = [(layer.keys, layer.values) for layer in cache.layers]
        return len(self._beginning), self._read


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens at the beginning that all prompts have; at least one of each is left."""
    shortest = min(map(len, prompts)) - 1
    places = (place for place in range(shortest) if len({prompt[place] for prompt in prompts}) > 1)
    return next(places, shortest)


class _Batch:
    """Prompts that are completed together.

    In the cache all rows have the shared beginning first, then padding and the rest of their prompt, then what they
    have said: so all write at the same place.
    """

    def __init__(
        self,
        model: Any,
        decoding: Decoding,
        prompts: Sequence[Sequence[int]],
        shared: int,
        beginning: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Read all prompts.

        Args:
            shared: tokens of the beginning.
            beginning: each layer's keys and values of it.
        """
        self._model, self._decoding = model, decoding
        self._device = model.device
        self._longest = self._end = max(map(len, prompts))
        room = self._end + decoding.max_tokens
        self._layers = [Room(keys, len(prompts), room) for keys, _ in beginning]
        for layer, (keys, values) in zip(self._layers, beginning, strict=True):
            layer.whole_keys[:, :, :shared] = keys[:, :, :shared]
            layer.whole_values[:, :, :shared] = values[:, :, :shared]
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._visible = torch.ones(len(prompts), room, dtype=torch.bool, device=self._device)
        self._visible[:, shared : self._end] = (
            torch.arange(shared, self._end, device=self._device) >= (self._end - self._lengths + shared)[:, None]
        )
        self.live = list(range(len(prompts)))
        """Which prompt is in each place."""
        self.completions: list[list[int]] = [[] for _ in prompts]
        self._last = torch.empty(0, dtype=torch.long)
        self._take(self._read([prompt[shared:] for prompt in prompts], shared))

    def _read(self, rests: Sequence[Sequence[int]], shared: int) -> torch.Tensor:
        """Read the rests of the prompts in chunks, each without the padding that its rows have in common."""
        size = max(1, CHUNK_TOKENS // (self._end - shared))
        chosen = []
        for first in range(0, len(rests), size):
            chunk = rests[first : first + size]
            width = max(map(len, chunk))
            pad = self._decoding.pad_token
            ids = torch.tensor([[pad] * (width - len(rest)) + list(rest) for rest in chunk], device=self._device)
            chosen.append(self._forward(slice(first, first + len(chunk)), self._end - width, ids))
        return torch.cat(chosen)

    def step(self) -> None:
        """The next token of every live row."""
        start = self._end
        self._end += 1
        self._take(self._forward(slice(0, len(self.live)), start, self._last[:, None]))

    def _forward(self, rows: slice, start: int, ids: torch.Tensor) -> torch.Tensor:
        """The likeliest token after a block that is written to the cache from `start` on.

        Args:
            ids: (rows, block).
        """
        count, block = ids.shape
        end = start + block
        mask = self._visible[rows, None, :end].expand(count, block, end)
        if block > 1:
            places = torch.arange(start, end, device=self._device)
            past = torch.arange(end, device=self._device) <= places[:, None]
            # Padding sees itself: a row that sees nothing would be NaN.
            itself = torch.arange(end, device=self._device) == places[:, None]
            mask = (mask & past) | itself
        begins = (self._longest - self._lengths[rows])[:, None]
        positions = (torch.arange(start, end, device=self._device) - begins).clamp(min=0)
        for layer in self._layers:
            layer.rows, layer.start = rows, start
        logits = self._model(
            input_ids=ids,
            attention_mask=mask[:, None],
            position_ids=positions,
            past_key_values=Cache(layers=self._layers),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1].argmax(dim=-1)

    def _take(self, tokens: torch.Tensor) -> None:
        """Each live row says its token; those that have ended make room."""
        ended = []
        for number, token in zip(self.live, tokens.tolist(), strict=True):
            said = self.completions[number]
            said.append(token)
            ended.append(token in self._decoding.end_tokens or len(said) == self._decoding.max_tokens)
        if any(ended):
            moves, kept = closed_up(ended)
            self.live = [self.live[place] for place in kept]
            tokens, self._visible, self._lengths = tokens[kept], self._visible[kept], self._lengths[kept]
            if moves:
                sources, targets = map(list, zip(*moves, strict=True))
                for layer in self._layers:
                    layer.move(sources, targets, self._end)
        self._last = tokens
