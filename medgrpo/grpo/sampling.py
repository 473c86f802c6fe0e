"""Our own rollouts: each prompt is read once, its cache copied to the rows of its group, and finished rows are dropped.

transformers' `generate` reads every row's prompt, joins the whole cache anew for every token, and goes on with rows
that have ended. Here the cache is laid out once and written in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from medgrpo.grpo.shared_prefix import distinct, positions


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn."""

    max_tokens: int
    end_tokens: tuple[int, ...]
    pad_token: int
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    min_tokens: int = 0
    """End tokens are not drawn before so many tokens."""

    @classmethod
    def of(cls, generation: Any) -> "Decoding | None":
        """The same as a `GenerationConfig` says; None where it asks for something that is not done here."""
        others = (generation.min_p, generation.typical_p not in (None, 1.0), generation.num_beams not in (None, 1))
        penalties = (generation.repetition_penalty or 1.0) != 1.0 or bool(generation.no_repeat_ngram_size)
        if any(others) or penalties or generation.suppress_tokens or (generation.do_sample and generation.top_k):
            return None
        ends = generation.eos_token_id
        return cls(
            max_tokens=generation.max_new_tokens,
            end_tokens=tuple(ends) if isinstance(ends, list) else (ends,),
            pad_token=generation.pad_token_id,
            temperature=generation.temperature or 1.0,
            top_p=generation.top_p or 1.0,
            greedy=not generation.do_sample,
            min_tokens=generation.min_new_tokens or 0,
        )


@dataclass(frozen=True)
class Sampled:
    """Completions, up to and with their first end token, and what the policy gave at each of their tokens.

    Log-probabilities and entropies are those of the distribution at the sampling temperature, before `top_p` cuts it:
    what a forward over the finished completion computes, too.
    """

    tokens: list[list[int]]
    logps: list[list[float]]
    entropies: list[list[float]]


class RoomyLayer(DynamicLayer):
    """One layer's keys and values with room for all tokens to come, (rows, heads, room, size) each."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, room: int) -> None:
        """Copy each prompt's keys and values to the rows of its group.

        Args:
            keys: (prompts, heads, P, size).
            values: likewise.
            rows: for each row, which prompt it goes on from.
            room: tokens per row, the prompt's included.
        """
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self._length: int = keys.size(2)
        self._rows = rows.numel()
        self._keys, self._values = _with_room(keys, rows, room), _with_room(values, rows, room)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens behind those that are there; views of all."""
        end = self._length + key_states.size(2)
        self._keys[: self._rows, :, self._length : end] = key_states
        self._values[: self._rows, :, self._length : end] = value_states
        self._length = end
        return self._keys[: self._rows, :, :end], self._values[: self._rows, :, :end]

    def get_seq_length(self) -> int:
        """Tokens that are there."""
        return self._length

    def keep(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Move rows into the places of finished ones, and go on with the first `rows`."""
        for source, place in moves:
            self._keys[place, :, : self._length] = self._keys[source, :, : self._length]
            self._values[place, :, : self._length] = self._values[source, :, : self._length]
        self._rows = rows


def _with_room(states: torch.Tensor, rows: torch.Tensor, room: int) -> torch.Tensor:
    """Each row its prompt's states, with room behind."""
    roomy = states.new_empty(rows.numel(), states.size(1), room, states.size(3))
    roomy[:, :, : states.size(2)] = states[rows]
    return roomy


@torch.no_grad()
def sample(model: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> Sampled:
    """Sample one completion per prompt.

    Random numbers come from torch's global generator of the model's device: one for every row at every step, whether
    the row has ended or not, so that what a row draws doesn't hang on when others end.

    Args:
        model: a causal language model whose layers all attend to everything before them.
        prompts: token ids; the same prompt may occur many times.
    """
    width = max(len(prompt) for prompt in prompts)
    pad = decoding.pad_token
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    cache, logits = _read_prompts(model, ids, mask, width + decoding.max_tokens)
    rollout = _Rollout(ids.size(0), decoding, model.device)
    visible = torch.cat([mask, mask.new_ones(ids.size(0), decoding.max_tokens)], dim=1).bool()[:, None, None]
    # With a mask attention is asked for without repeating keys and values for each head of a group, on a CPU.
    masked = model.device.type == "cpu" or not bool(mask.all())
    place = mask.sum(dim=1, keepdim=True)
    for step in range(decoding.max_tokens):
        tokens, moves = rollout.draw(logits, step)
        if not rollout.live:
            break
        if moves is not None:
            for layer in cache.layers:
                layer.keep(moves, len(rollout.live))
            visible, place = visible[rollout.kept], place[rollout.kept]
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=visible[..., : width + step + 1] if masked else None,
            position_ids=place + step,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return rollout.sampled()


def _read_prompts(model: Any, ids: torch.Tensor, mask: torch.Tensor, room: int) -> tuple[Cache, torch.Tensor]:
    """Run the distinct prompts; a roomy cache for all rows, and each row's first logits."""
    first, rows = distinct(torch.cat([ids, mask], dim=1))
    cache = DynamicCache(config=model.config.get_text_config())
    logits = model(
        input_ids=ids[first],
        attention_mask=mask[first],
        position_ids=positions(mask[first]),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    roomy = [RoomyLayer(layer.keys, layer.values, rows, room) for layer in cache.layers]
    return Cache(layers=roomy), logits[rows]


class _Rollout:
    """The completions so far, and which rows still go on."""

    def __init__(self, rows: int, decoding: Decoding, device: torch.device) -> None:
        self.live = list(range(rows))
        self.kept: list[int] = []
        self._rows = rows
        self._decoding = decoding
        self._ends = torch.tensor(decoding.end_tokens, device=device)
        self._lengths = [decoding.max_tokens] * rows
        shape = (rows, decoding.max_tokens)
        self._tokens = torch.full(shape, decoding.pad_token, device=device)
        self._logps, self._entropies = (torch.zeros(shape, device=device) for _ in range(2))

    def draw(self, logits: torch.Tensor, step: int) -> tuple[torch.Tensor, list[tuple[int, int]] | None]:
        """One token for each live row; then the moves of rows into places of ended ones, where any ended.

        `live` gives for each place the row that is in it; `kept`, after moves, the place where it was before.
        """
        live = torch.tensor(self.live, device=logits.device)
        logps = (logits.float() / self._decoding.temperature).log_softmax(dim=-1)
        probabilities = logps.exp()
        entropies = -(probabilities * logps).sum(dim=-1)
        tokens = self._choose(probabilities, live, step)
        self._tokens[live, step] = tokens
        self._logps[live, step] = logps.gather(1, tokens[:, None])[:, 0]
        self._entropies[live, step] = entropies
        ended = torch.isin(tokens, self._ends).tolist()
        if not any(ended):
            return tokens, None
        for place, row in enumerate(self.live):
            if ended[place]:
                self._lengths[row] = step + 1
        moves, self.kept = closed_up(ended)
        self.live = [self.live[place] for place in self.kept]
        return tokens[self.kept], moves

    def _choose(self, probabilities: torch.Tensor, live: torch.Tensor, step: int) -> torch.Tensor:
        if step < self._decoding.min_tokens:
            probabilities[:, self._ends] = 0.0
        if self._decoding.greedy:
            return probabilities.argmax(dim=-1)
        numbers = torch.rand(self._rows, device=probabilities.device)[live]
        return draw(probabilities, numbers, self._decoding.top_p)

    def sampled(self) -> Sampled:
        tables = (self._tokens.tolist(), self._logps.tolist(), self._entropies.tolist())
        return Sampled(*([row[:length] for row, length in zip(t, self._lengths, strict=True)] for t in tables))


def draw(probabilities: torch.Tensor, numbers: torch.Tensor, top_p: float) -> torch.Tensor:
    """One token per row: where the cumulated probability passes the row's number.

    Args:
        probabilities: (rows, vocabulary), any sum.
        numbers: (rows,), uniform in [0, 1).
        top_p: draw from the likeliest tokens only, until their probabilities sum up to this share.
    """
    order = None
    if top_p < 1.0:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p * probabilities.sum(dim=-1, keepdim=True), 0.0)
    cumulated = probabilities.cumsum(dim=-1)
    total = cumulated[:, -1:].contiguous()
    # Rounding may take a number up to the total: then the last token that has a probability at all is meant.
    # Among NaN it is any token: a guard finds their log-probabilities NaN (blocks.py), an index too large would crash.
    last = torch.searchsorted(cumulated, total).clamp(max=cumulated.size(1) - 1)
    found = torch.minimum(torch.searchsorted(cumulated, numbers[:, None] * total, right=True), last)
    return (found if order is None else order.gather(1, found))[:, 0]


def closed_up(ended: Sequence[bool]) -> tuple[list[tuple[int, int]], list[int]]:
    """How rows move so that those which go on are the first ones: (from, to) each, and where each of them was."""
    going_on = [place for place, end in enumerate(ended) if not end]
    kept = list(range(len(going_on)))
    late = [place for place in going_on if place >= len(going_on)]
    gaps = [place for place in kept if ended[place]]
    moves = list(zip(late, gaps, strict=True))
    for source, place in moves:
        kept[place] = source
    return moves, kept
