"""Where the fast path can't be taken: read from the base model's config."""

from types import SimpleNamespace

import pytest
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from medgrpo.grpo.obstacles import obstacle_in_model

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}


def told(config: PretrainedConfig, attention: str = "sdpa") -> str | None:
    config._attn_implementation = attention
    return obstacle_in_model(SimpleNamespace(config=config))


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_models_that_look_at_all_that_is_before_can_take_it(kind: type[PretrainedConfig]) -> None:
    assert told(kind(**SMALL)) is None


@pytest.mark.parametrize(
    "config", [Gemma3TextConfig(**SMALL, sliding_window=8), MistralConfig(**SMALL, sliding_window=8)]
)
def test_sliding_windows_are_left_to_trl(config: PretrainedConfig) -> None:
    assert "sliding window" in (told(config) or "")


def test_other_attention_is_left_to_trl() -> None:
    assert "'eager'" in (told(LlamaConfig(**SMALL), "eager") or "")
