"""Our head and our attention for scoring, against TRL's and transformers' own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl.trainer import utils

from medgrpo.grpo.completion_head import TILE, own_head
from medgrpo.grpo.grouped_attention import NAME, grouped, grouped_attention

STOCK = utils._ChunkedLogProbFunction


def _score(rows: int, temperature: float = 0.7, **changes: Any) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, entropies and the gradient of a weighted sum, from whatever head TRL's code would use now."""
    torch.manual_seed(rows)
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(50, 8)
    arguments = {"bias": None, "softcap": None, "scale": 1.0, "trainable": False} | changes
    weight.requires_grad_(arguments["trainable"])
    bias = None if arguments["bias"] is None else torch.randn(50)
    logps, entropies, *_ = utils._ChunkedLogProbFunction.apply(
        hidden,
        weight,
        bias,
        torch.randint(0, 50, (rows,)),
        temperature,
        16,
        arguments["softcap"],
        arguments["scale"],
        ("log_probs", "entropy"),
    )
    (logps * torch.randn(rows)).sum().backward()
    assert hidden.grad is not None
    return (logps.detach(), entropies.detach(), hidden.grad, *([weight.grad] if arguments["trainable"] else []))


@pytest.mark.parametrize("rows", [1, 7, TILE, TILE + 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_head_gives_trls_figures_and_gradients(rows: int, temperature: float) -> None:
    expected = _score(rows, temperature)
    with own_head():
        assert utils._ChunkedLogProbFunction is not STOCK
        found = _score(rows, temperature)
    assert utils._ChunkedLogProbFunction is STOCK
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"bias": True}, {"softcap": 3.0}, {"scale": 0.5}, {"trainable": True}])
def test_heads_that_are_more_than_a_product_stay_trls(changes: dict[str, Any]) -> None:
    expected = _score(9, **changes)
    with own_head():
        found = _score(9, **changes)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_trls_head_is_back_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="in the block"), own_head():
        raise RuntimeError("in the block")
    assert utils._ChunkedLogProbFunction is STOCK


@pytest.mark.parametrize(("heads", "shared", "queries"), [(6, 2, 5), (6, 2, 1), (4, 4, 5), (6, 1, 3)])
def test_grouped_attention_equals_attention_with_repeated_keys(heads: int, shared: int, queries: int) -> None:
    torch.manual_seed(0)
    shapes = ((3, heads, queries, 4), (3, shared, 9, 4), (3, shared, 9, 4))
    mask = torch.ones(3, 1, queries, 9, dtype=torch.bool).tril(9 - queries)
    mask[1, :, :, :3] = False  # padding on the left
    module = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    results = []
    for attend in (sdpa_attention_forward, grouped_attention):
        torch.manual_seed(1)
        inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
        attended, _ = attend(module, *inputs, mask, scaling=0.3)
        (attended * torch.randn_like(attended)).sum().backward()
        results.append((attended.detach(), *(tensor.grad for tensor in inputs)))
    for ours, theirs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_only_attention_by_pytorchs_kernel_on_a_cpu_is_grouped() -> None:
    def attention_inside(implementation: str, device: str) -> str:
        config = SimpleNamespace(_attn_implementation=implementation)
        config.get_text_config = lambda: config
        with grouped(SimpleNamespace(config=config, device=torch.device(device))):
            inside: str = config._attn_implementation
        assert config._attn_implementation == implementation
        return inside

    assert attention_inside("sdpa", "cpu") == NAME
    assert attention_inside("eager", "cpu") == "eager"
    assert attention_inside("sdpa", "cuda") == "sdpa"
