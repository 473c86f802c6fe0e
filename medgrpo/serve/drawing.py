"""What decides each next token of a batch: a request's own temperature, bound and random numbers, or the best token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)


@dataclass(frozen=True)
class Draw:
    """How one sampled request draws. Its random numbers are its own: requests beside it don't change them."""

    warpers: LogitsProcessorList
    generator: torch.Generator

    @classmethod
    def of(cls, temperature: float, top_p: float, seed: int) -> "Draw":
        """From a request's settings."""
        warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        return cls(warpers, torch.Generator().manual_seed(seed))

    def __deepcopy__(self, memo: object) -> "Draw":
        # A request that is put back into the queue is copied, and goes on with the same numbers.
        return self

    def noisy(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with Gumbel noise: the best of them is a draw from the softmax of the scores."""
        uniform = torch.rand(scores.shape, generator=self.generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
        warped: torch.Tensor = self.warpers(tokens, scores)
        return warped + noise.to(scores.device, scores.dtype)


class _Own(ContinuousBatchingLogitsProcessor):
    """The base model's own processors, such as penalties, then the request's draw; the batch takes the best token."""

    supported_kwargs: ClassVar[dict[str, type]] = {"draw": Draw}
    ignored_kwargs = ()

    def __init__(self, processors: LogitsProcessorList) -> None:
        self._processors = processors
        self._batch: list[tuple[list[int], Draw | None]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        states = [request.state for request in requests_with_new_token]
        self._batch = [(s.initial_tokens + s.generated_tokens, s.logit_processor_kwargs.get("draw")) for s in states]
        return torch.zeros(len(states), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        for place, (tokens, draw) in enumerate(self._batch):
            if not self._processors and draw is None:
                continue
            ids, row = torch.tensor([tokens], device=scores.device), scores[place : place + 1]
            row = self._processors(ids, row)
            scores[place] = (row if draw is None else draw.noisy(ids, row))[0]
        return scores


def own_processors(processors: LogitsProcessorList) -> ContinuousBatchingLogitsProcessorList:
    """What transformers' batching applies to the scores, given what the base model's own settings ask for."""
    processing = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_Own(processors)]))
    processing.tensors_required = 1
    return processing
