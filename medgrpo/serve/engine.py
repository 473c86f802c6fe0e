"""What every engine offers: load a version, stream a completion, say how it is, close. The words are defined here."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from medgrpo.answer import messages
from medgrpo.config import PolicyConfig
from medgrpo.errors import UserError
from medgrpo.types import BaseRef

BASE = "base"
"""The version's name where the base model answers without an adapter."""


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
    adapter_digest: str
    """Digest of the adapter's files; empty for the base model."""
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
class Source:
    """What an engine needs to load a version. The adapter's files are verified before they get here."""

    served: Served
    base: BaseRef
    adapter: Path | None
    """None: the base model alone."""
    policy: PolicyConfig


@dataclass(frozen=True)
class Decoding:
    """How a completion is decoded. Greedy at temperature 0, token for token as in evaluation."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    """The same seed gives the same completion; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; it is cut before the first of them."""


@dataclass(frozen=True)
class Piece:
    """A part of a streamed completion."""

    text: str
    """New since the last piece. Never half a character, never the beginning of what may become a stop text."""
    prompt_tokens: int
    completion_tokens: int
    """Generated so far, the end-of-turn token included."""
    finish_reason: Literal["stop", "length"] | None = None
    """In the last piece only; `length` when it was cut at `max_tokens`."""


class Loaded(Protocol):
    """A version in memory, ready to answer. Each request keeps the one that it began with."""

    @property
    def served(self) -> Served:
        """What it is."""

    def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """Complete a chat, used as it is given. Closing the iterator (`aclose`) cancels the generation.

        Raises:
            RequestRefused: before the first piece: the prompt doesn't fit the context, or the chat template refuses it.
            ServeError: the engine failed.
        """


class Engine(Protocol):
    """What generates: embedded in this process, or vLLM beside it. Used from one event loop."""

    @property
    def restarts(self) -> int:
        """How often what generates had died and was started anew."""

    async def load(self, source: Source) -> Loaded:
        """Load a version beside those that are loaded, and warm it; requests to others go on meanwhile.

        Raises:
            ServeError: it can't be loaded, with the reason.
        """

    async def unload(self, loaded: Any) -> None:
        """Forget a version of its own whose requests have ended."""

    def fault(self) -> str:
        """Why this engine can't answer now; empty: it can."""

    async def close(self) -> None:
        """Stop generating and free everything; running requests raise ServeError."""
