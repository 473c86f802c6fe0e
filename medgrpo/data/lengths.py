"""How long prompts and golds are in tokens of the base model."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from medgrpo.answer import messages, render_question
from medgrpo.config import PromptConfig
from medgrpo.data.checks import MAX_CHARACTERS
from medgrpo.types import BaseRef, Example

T = TypeVar("T")

CHUNK = 4096
"""Rows tokenized at once: enough to keep all cores busy, few enough to stay small in memory."""


def prompt_lengths(examples: Sequence[Example], prompt: PromptConfig, base: BaseRef) -> list[int]:
    """Tokens of each row's prompt, as training puts it."""
    tokenizer = _tokenizer(base)

    def render(batch: Sequence[Example]) -> list[str]:
        chats = [messages(prompt.system, prompt.shown, _bounded(render_question(example))) for example in batch]
        texts: list[str] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        return texts

    return _count(tokenizer, examples, render)


def gold_lengths(examples: Sequence[Example], base: BaseRef) -> list[int]:
    """Tokens of each row's gold, without its reasoning."""
    golds = list(dict.fromkeys(_bounded(example.gold) for example in examples))  # letters are few, so count each once
    lengths = dict(zip(golds, _count(_tokenizer(base), golds, list), strict=True))
    return [lengths[_bounded(example.gold)] for example in examples]


def _count(tokenizer: Any, rows: Sequence[T], render: Callable[[Sequence[T]], list[str]]) -> list[int]:
    lengths: list[int] = []
    for start in range(0, len(rows), CHUNK):
        texts = render(rows[start : start + CHUNK])
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        lengths += [len(ids) for ids in encoded]
    return lengths


def _bounded(text: str) -> str:
    """The text, cut: one of megabytes is refused anyway, and would take minutes."""
    return text[: 2 * MAX_CHARACTERS]


def _tokenizer(base: BaseRef) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # all cores, which it isn't by default
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
