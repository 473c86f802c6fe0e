"""OpenAI's chat completion shapes: the request as far as it is understood, the completion, its chunks, the errors."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from medgrpo.answer import parse
from medgrpo.config import ServeConfig
from medgrpo.serve.engine import Decoding, RequestRefused, Served

FinishReason = Literal["stop", "length"]


def _text(content: object) -> object:
    """Content given as a list of text parts, as one text."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        raise ValueError("only text can be answered")
    return "".join(str(part.get("text", "")) for part in content)


def _encodable(content: str) -> str:
    """JSON can escape half of a surrogate pair, which no tokenizer takes."""
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    return content


def _list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


Text = Annotated[str, AfterValidator(_encodable)]


class ChatMessage(BaseModel):
    """One turn. A `developer` turn counts as `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_text)]

    def turn(self) -> dict[str, str]:
        """The turn as chat templates know it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(BaseModel):
    """What a stream is to hold beside the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The part of OpenAI's chat completion request that is understood; other keys are ignored, as OpenAI does."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[Annotated[Text, StringConstraints(min_length=1)]], BeforeValidator(_list)] = Field(
        default=[], max_length=4
    )
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, request: object) -> object:
        return {k: v for k, v in request.items() if v is not None} if isinstance(request, dict) else request

    def turns(self, limits: ServeConfig) -> list[dict[str, str]]:
        """The turns as chat templates know them.

        Raises:
            RequestRefused: there are too many.
        """
        if len(self.messages) > limits.max_messages:
            raise RequestRefused(f"a request may have at most {limits.max_messages} messages", "messages", "too_long")
        return [message.turn() for message in self.messages]

    def decoding(self, limits: ServeConfig) -> Decoding:
        """How the completion is to be decoded.

        Raises:
            RequestRefused: more tokens or completions than one may have.
        """
        if self.n > 1:
            raise RequestRefused("one completion per request is supported: leave n out", "n", "unsupported_value")
        param = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        most = limits.max_completion_tokens
        asked = self.max_completion_tokens or self.max_tokens or most
        if asked > most:
            raise RequestRefused(f"a completion may have at most {most} tokens here", param, "invalid_value")
        return Decoding(asked, self.temperature, self.top_p, self.seed, tuple(self.stop))


class Provenance(BaseModel):
    """What is beside OpenAI's fields: where the answer comes from, and how the answer grammar reads it."""

    version: str
    run_id: str
    """The MLflow run that trained the version; empty for the base model."""
    dataset_digest: str
    """Digest of the questions that it was trained on; empty for the base model."""
    reasoning: str | None
    answer: str | None
    strict: bool
    """Whether the completion follows the answer grammar."""

    @classmethod
    def of(cls, text: str, served: Served) -> "Provenance":
        """Read a completion of a version."""
        parsed = parse(text)
        return cls(
            version=served.version,
            run_id=served.run_id,
            dataset_digest=served.dataset_digest,
            reasoning=parsed.reasoning,
            answer=parsed.answer,
            strict=parsed.is_strict,
        )


class Usage(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> "Usage":
        """The usage of a prompt and a completion."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class Answer(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one completion of a request."""

    index: int = 0
    message: Answer
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    medgrpo: Provenance


def chunk(
    head: dict[str, Any],
    delta: dict[str, str] | None,
    finish_reason: FinishReason | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One chunk of a streamed completion.

    Args:
        head: id, time and model: the same in all chunks of a completion.
        delta: what is new; None: a chunk without choices, for the usage.
        more: further fields of the chunk.
    """
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "object": "chat.completion.chunk", "choices": [] if delta is None else [choice], **more}


class ErrorDetail(BaseModel):
    """What is wrong. Nothing of what was sent goes into it: it may be about a patient."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetail


def error_body(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()
