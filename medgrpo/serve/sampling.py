"""Sampling of each request by its own temperature, nucleus and seed, inside of one batch.

transformers' batching takes the likeliest token of every row. To a row that is to be sampled Gumbel noise is added
first, from a generator of its own: the likeliest token then is a draw from the softmax (the Gumbel-max trick, Gumbel
1954; Maddison et al. 2014), and neither the rows beside it nor their number change what a seed gives.
"""

import secrets
from itertools import count
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from medgrpo.serve.engine import Decoding

LEAST_TEMPERATURE = 1e-3
"""Below this a request is greedy: dividing by less overflows, and would give the same tokens."""


class RequestSampling(ContinuousBatchingLogitsProcessor):
    """Adds the noise; rows without a slot stay greedy. The slot is what the batching carries per request: a number."""

    supported_kwargs: dict[str, type] = {"slot": int}  # noqa: RUF012 (transformers' own form)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._numbers = count(1)
        self._slots: dict[int, tuple[Decoding, torch.Generator]] = {}

    def open(self, decoding: Decoding) -> int:
        """A slot for a request; 0 for a greedy one."""
        if decoding.temperature < LEAST_TEMPERATURE:
            return 0
        slot = next(self._numbers)
        seed = secrets.randbits(63) if decoding.seed is None else decoding.seed % 2**63
        self._slots[slot] = (decoding, torch.Generator().manual_seed(seed))
        return slot

    def close(self, slot: int) -> None:
        """Forget a request."""
        self._slots.pop(slot, None)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Rows are greedy."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """The slot of each row."""
        slots = [request.state.logit_processor_kwargs.get("slot", 0) for request in requests_with_new_token]
        return torch.tensor(slots, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) → the same with noise where a row is sampled."""
        for row, slot in enumerate(tensor_arg[: scores.size(0)].tolist()):
            if found := self._slots.get(slot):
                scores[row] = _noisy(scores[row], *found)
        return scores


def _noisy(scores: torch.Tensor, decoding: Decoding, generator: torch.Generator) -> torch.Tensor:
    """Scores whose largest one is a draw at the request's temperature from its nucleus."""
    scores = scores.float() / decoding.temperature
    if decoding.top_p < 1:
        ordered, order = scores.softmax(dim=-1).sort(descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= decoding.top_p
        outside[0] = False  # the likeliest is always inside
        scores = scores.masked_fill(torch.empty_like(outside).scatter(0, order, outside), -torch.inf)
    uniform = torch.rand(scores.shape, generator=generator).clamp(min=1e-20).to(scores.device)
    return scores - torch.log(-torch.log(uniform))
