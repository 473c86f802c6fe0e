"""How long prompts and golds are in tokens of the base model."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any, TypeVar

from medgrpo.answer import messages, render_gold, render_question
from medgrpo.config import PromptConfig
from medgrpo.data.checks import MAX_CHARACTERS
from medgrpo.types import BaseRef, Example

T = TypeVar("T")

CHUNK = 4096
"""Rows tokenized at once: enough to keep all cores busy, few enough to stay small in memory."""


def prompt_lengths(examples: Sequence[Example], prompt: PromptConfig, base: BaseRef, stop: Event) -> list[int]:
    """Tokens of each row's prompt, as training puts it.

    Args:
        stop: set by another thread that has no use for them any more.
    """
    tokenizer = _tokenizer(base)

    def render(batch: Sequence[Example]) -> list[str]:
        chats = [messages(prompt.system, prompt.shown, _bounded(render_question(example))) for example in batch]
        texts: list[str] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        return texts

    return _count(tokenizer, examples, render, stop)


def gold_lengths(examples: Sequence[Example], base: BaseRef, stop: Event) -> list[int]:
    """Tokens of the shortest completion in the grammar that gives each row's gold.

    Args:
        stop: set by another thread that has no use for them any more.
    """
    # Three words are the fewest that the grammar takes for a reasoning.
    completions = [_bounded(render_gold(example.model_copy(update={"reasoning": "a b c"}))) for example in examples]
    distinct = list(dict.fromkeys(completions))  # letters are few, so count each once
    lengths = dict(zip(distinct, _count(_tokenizer(base), distinct, list, stop), strict=True))
    return [lengths[completion] for completion in completions]


def _count(tokenizer: Any, rows: Sequence[T], render: Callable[[Sequence[T]], list[str]], stop: Event) -> list[int]:
    lengths: list[int] = []
    with _all_cores():
        for start in range(0, len(rows), CHUNK):
            if stop.is_set():
                raise InterruptedError("nobody waits for the lengths any more")
            texts = render(rows[start : start + CHUNK])
            encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
            lengths += [len(ids) for ids in encoded]
    return lengths


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let tokenizers use all cores, which they don't by default, and which a training process must not inherit."""
    name = "TOKENIZERS_PARALLELISM"
    was_set = name in os.environ
    os.environ.setdefault(name, "true")
    try:
        yield
    finally:
        if not was_set:
            del os.environ[name]


def _bounded(text: str) -> str:
    """The text, cut: one of megabytes is refused anyway, and would take minutes."""
    return text[: 2 * MAX_CHARACTERS]


def _tokenizer(base: BaseRef) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
