"""The LM head for scoring on a CPU: the derivative of log-probabilities is computed while their logits are there.

TRL's head computes the logits again in the backward pass. Under a frozen head, the derivative of a token's
log-probability by its hidden state, W_y - Σ_v p_v W_v, is a vector of the hidden size and can be kept instead: two
products of the vocabulary's size instead of three, and one softmax instead of two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl.trainer import utils

TILE = 512
"""Positions whose logits are there at a time; fewer make the products slower, more cost memory."""


class CompletionHead(torch.autograd.Function):
    """Log-probabilities (N,) and entropies (N,) of targets (N,) from hidden states (N, H) and a frozen weight (V, H).

    Entropies carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go over the positions in tiles."""
        logps, entropies = (hidden.new_empty(hidden.size(0), dtype=torch.float32) for _ in range(2))
        derivative = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden.size(0), TILE):
            tile = slice(start, start + TILE)
            scaled = (hidden[tile] @ weight.t()).float().div_(temperature)
            scaled.sub_(scaled.amax(dim=-1, keepdim=True))
            chosen = scaled.gather(1, targets[tile, None])[:, 0]
            exponentials = scaled.exp()
            total = exponentials.sum(dim=-1)
            logps[tile] = chosen - total.log()
            entropies[tile] = total.log() - torch.linalg.vecdot(exponentials, scaled) / total
            if derivative is not None:
                mean = (exponentials.to(weight.dtype) @ weight) / total[:, None]
                derivative[tile] = (weight[targets[tile]] - mean) / temperature
        ctx.save_for_backward(derivative)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, grad_logps: torch.Tensor, _grad_entropies: torch.Tensor) -> tuple[Any, None, None, None]:
        """One product by row."""
        (derivative,) = ctx.saved_tensors
        return (grad_logps[:, None] * derivative).to(derivative.dtype), None, None, None


@contextmanager
def own_head() -> Iterator[None]:
    """Let models with TRL's fused head use ours, where it is the same function."""
    stock = utils._ChunkedLogProbFunction
    utils._ChunkedLogProbFunction = _Chosen(stock)
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction = stock


class _Chosen:
    """Stands in for TRL's autograd function: the same arguments, the same results."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def apply(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> Any:
        plain = bias is None and softcap is None and logit_scale == 1.0 and not weight.requires_grad
        if plain and hidden.device.type == "cpu" and set(outputs) <= {"log_probs", "entropy"}:
            logps, entropies = CompletionHead.apply(hidden, weight, targets, temperature)
            return logps, entropies, None, None, None
        arguments = (hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs)
        return self._stock.apply(*arguments)
