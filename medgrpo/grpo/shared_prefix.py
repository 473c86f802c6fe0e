"""Each prompt once per group: what G completions of one prompt share is computed once instead of G times.

A group's rows all start with the same prompt tokens. The prompt runs once into a key-value cache, the cache is
copied to the group's rows, and only the completions run on top: G·(P + C) tokens become P + G·C. Autograd sums the
rows' gradients back through the copies, so losses and gradients are those of the full rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache


def fork_prompts(model: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> DynamicCache:
    """Run the distinct prompts, all but their last token, and copy the cache to every row.

    Args:
        prompt_ids: (rows, P) left-padded prompts; rows with the same prompt may stand anywhere.
        prompt_mask: (rows, P), 0 at padding.

    Returns:
        A cache of P - 1 positions for all rows.
    """
    first, rows = _distinct(torch.cat([prompt_ids, prompt_mask], dim=1))
    cache = DynamicCache(config=model.config.get_text_config())
    mask = prompt_mask[first, :-1]
    model(
        input_ids=prompt_ids[first, :-1],
        attention_mask=mask,
        position_ids=_positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_select_indices(rows)
    return cache


def completion_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the completion tokens.

    Args:
        model: a model with TRL's fused LM head.
        input_ids: (rows, P + C), left-padded prompts and right-padded completions.
        attention_mask: (rows, P + C).
        completion_length: C.

    Returns:
        Two tensors (rows, C), 0 at padding.
    """
    prompt_length = input_ids.size(1) - completion_length
    cache = fork_prompts(model, input_ids[:, :prompt_length], attention_mask[:, :prompt_length])
    # The last prompt token is where the first completion token is predicted from.
    tail = input_ids[:, prompt_length - 1 :]
    labels = tail.masked_fill(attention_mask[:, prompt_length - 1 :] == 0, -100)
    outputs = model(
        input_ids=tail,
        attention_mask=attention_mask,
        position_ids=_positions(attention_mask)[:, prompt_length - 1 :],
        past_key_values=cache,
        labels=labels,
        fused_lm_head=True,
    )
    return outputs.log_probs, outputs.entropy


def sample(model: Any, prompts: Sequence[Sequence[int]], generation: Any, pad_token: int) -> list[list[int]]:
    """Sample one completion per prompt with transformers' `generate`, on forked prompt caches.

    Args:
        prompts: token ids; the same prompt may occur many times.
        generation: a `GenerationConfig`.

    Returns:
        Token ids of each completion, up to and with its first end token.
    """
    width = max(len(prompt) for prompt in prompts)
    device = model.device
    ids = torch.tensor([[pad_token] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    with torch.no_grad():
        cache = fork_prompts(model, ids, mask)
        rows = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=generation)
    ends = generation.eos_token_id
    return [_up_to_end(row, ends if isinstance(ends, list) else [ends]) for row in rows[:, width:].tolist()]


def _up_to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token in its row, padding not counted: what `generate` uses, so that the cache must too."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _distinct(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first place of each distinct row, and for every row which distinct one it is."""
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(inverse.size(0), device=rows.device)
    first = torch.full((unique.size(0),), rows.size(0), device=rows.device)
    first = first.scatter_reduce(0, inverse, places, reduce="amin")
    return first, inverse
