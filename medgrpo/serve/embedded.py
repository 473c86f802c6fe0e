"""The served policy: one chat in, one completion out, one at a time."""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from medgrpo.answer import messages
from medgrpo.errors import UserError
from medgrpo.policy import Policy

if TYPE_CHECKING:
    import torch


LEAST_TEMPERATURE = 1e-3
"""Below this a request is greedy: dividing by less overflows, and would give the same tokens."""


class RequestRefused(UserError):
    """A request that can't be answered as asked: HTTP 400. The message never repeats what was sent.

    Attributes:
        param: the field of the request that is at fault.
        code: a word for programs.
    """

    def __init__(self, message: str, param: str, code: str) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclass(frozen=True)
class Served:
    """What is served, and where it comes from."""

    version: str
    """Name of the model version, `medgrpo-laptop/3`, or `base`."""
    run_id: str
    """The MLflow run that trained it; empty for the base model."""
    dataset_digest: str
    """Digest of the questions that it was trained on; empty for the base model."""
    system_prompt: str
    demonstrations: tuple[tuple[str, str], ...]
    """(question, completion) pairs that it was trained and evaluated with."""
    base: str
    """Name of the base model."""

    @property
    def name(self) -> str:
        """The registered model's name: the version's name without the number."""
        return self.version.rpartition("/")[0] or self.version

    def chat(self, asked: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """The chat to complete: as asked when it has its own system message, else after the version's own prompt."""
        if any(message["role"] == "system" for message in asked):
            return list(asked)
        return [*messages(self.system_prompt, self.demonstrations, "")[:-1], *asked]


@dataclass(frozen=True)
class Completion:
    """What the policy answered."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the end-of-turn token included."""
    finish_reason: Literal["stop", "length"]
    """`length` when it was cut at `max_tokens`."""


class Engine:
    """A policy in evaluation mode with the name of what it is. Safe to call from many threads: one generates at a time.

    Args:
        policy: the base model with the version's adapter attached.
        served: what that is.
    """

    def __init__(self, policy: Policy, served: Served) -> None:
        self.policy = policy
        self.served = served
        self.context_tokens = int(policy.model.config.get_text_config().max_position_embeddings)
        self._lock = threading.Lock()

    def complete(
        self,
        chat: list[dict[str, str]],
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int | None,
        stop: Sequence[str],
    ) -> Completion:
        """Complete a chat, used as it is given. Greedy at temperature 0, token for token as in evaluation.

        Args:
            max_tokens: longest completion, in tokens.
            top_p: nucleus sampling bound, in [0, 1]; without effect when greedy.
            seed: the same seed gives the same completion; None draws one.
            stop: texts that end the completion; the completion is cut before the first of them.

        Raises:
            RequestRefused: prompt and completion don't fit the model's context, or its chat template refuses the chat.
        """
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature >= LEAST_TEMPERATURE:
            # top_k is 50 where nothing is said; OpenAI's interface has no such bound.
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        # The tokenizer is inside the lock too: a fast tokenizer may not be used by two threads at once.
        with self._lock:
            prompt = self._tokenize(chat, max_tokens)
            tokens = self._generate(prompt, max_tokens, sampling, seed, stop)
            return self._read(tokens, len(prompt), stop)

    def _tokenize(self, chat: list[dict[str, str]], max_tokens: int) -> list[int]:
        """Token ids of the prompt, refused when the context has no room for it and the completion."""
        try:
            prompt = self.policy.prompt_tokens(chat)
        except TemplateError as error:
            raise RequestRefused(
                "the model's chat template refuses this order of roles: alternate user and assistant, user last",
                "messages",
                "invalid_messages",
            ) from error
        if len(prompt) + max_tokens > self.context_tokens:
            raise RequestRefused(
                f"the prompt has {len(prompt)} tokens and the completion may have {max_tokens}: more than the "
                f"{self.context_tokens} of the model's context. Shorten the messages or lower max_tokens",
                "messages",
                "context_length_exceeded",
            )
        return prompt

    def _generate(
        self, prompt: list[int], max_tokens: int, sampling: dict[str, Any], seed: int | None, stop: Sequence[str]
    ) -> list[int]:
        """Token ids of the completion."""
        import torch

        model, tokenizer = self.policy.model, self.policy.tokenizer
        inputs = tokenizer.pad({"input_ids": [prompt]}, return_tensors="pt").to(model.device)
        criteria = [self._stopper(len(prompt), stop)] if stop else []
        gpus = [model.device] if model.device.type == "cuda" else []
        # generate takes no generator of its own: a request's seed must neither depend on others nor disturb them.
        with torch.inference_mode(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(secrets.randbits(63) if seed is None else seed)
            tokens = model.generate(
                **inputs,
                **sampling,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                stopping_criteria=criteria,
            )
        return [int(token) for token in tokens[0, len(prompt) :]]

    def _stopper(self, prompt_length: int, stop: Sequence[str]) -> Callable[..., "torch.Tensor"]:
        """Ends generation once a stop text is in the completion.

        transformers' own `stop_strings` also matches across the end of the prompt, and indexes the whole vocabulary.
        """
        import torch

        def reached(tokens: "torch.Tensor", _scores: Any, **_: Any) -> "torch.Tensor":
            text = self._decode(tokens[0, prompt_length:].tolist())
            return torch.full((1,), any(word in text for word in stop), dtype=torch.bool, device=tokens.device)

        return reached

    def _read(self, tokens: list[int], prompt_tokens: int, stop: Sequence[str]) -> Completion:
        """The completion's text, cut at the first stop text, and why it ended."""
        text = self._decode(tokens)
        cut = min((text.find(word) for word in stop if word in text), default=None)
        ended = cut is not None or tokens[-1] in self._end_tokens()
        return Completion(text[:cut], prompt_tokens, len(tokens), "stop" if ended else "length")

    def _decode(self, tokens: list[int]) -> str:
        return str(self.policy.tokenizer.decode(tokens, skip_special_tokens=True))

    def _end_tokens(self) -> set[int]:
        end = self.policy.model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end}
