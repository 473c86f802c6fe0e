"""A client of the served stage. Imports neither torch nor the server, so that it stays light."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from medgrpo.errors import ServeError
from medgrpo.serve.api_keys import key_from_environment
from medgrpo.types import ServedAnswer


def ask(url: str, question: str, timeout_s: float = 120) -> ServedAnswer:
    """Ask the served stage one question, greedily, under the version's own system prompt.

    Args:
        url: where it is, `http://127.0.0.1:8000`.

    Raises:
        ServeError: it can't be reached, refuses, or answers in another shape.
    """
    told = stream(url, question, timeout_s=timeout_s)
    return ServedAnswer(
        question=question,
        completion=told["completion"],
        answer=told["medgrpo"]["answer"],
        version=told["medgrpo"]["version"],
    )


def stream(
    url: str,
    question: str,
    model: str | None = None,
    show: Callable[[str], None] = lambda _: None,
    timeout_s: float = 120,
) -> dict[str, Any]:
    """Ask one question, and be shown the completion while it comes.

    Args:
        model: a version or role to ask; None: whatever answers.
        show: is given each new part of the completion.

    Returns:
        The completion, its usage, and what the stage says about it (`medgrpo`).

    Raises:
        ServeError: it can't be reached, refuses, fails midway, or answers in another shape.
    """
    request = {
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"model": model} if model else {}),
    }
    key = key_from_environment()
    try:
        # trust_env: a proxy in the environment has no way to this machine's loopback.
        with (
            httpx.Client(timeout=timeout_s, trust_env=False) as client,
            client.stream(
                "POST",
                f"{url.rstrip('/')}/v1/chat/completions",
                json=request,
                headers={b"authorization": f"Bearer {key}".encode()} if key else {},
            ) as response,
        ):
            return _read(url, response, show)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServeError(f"no answer from {url} ({type(error).__name__}): is `medgrpo serve` running there?") from error


def _read(url: str, response: httpx.Response, show: Callable[[str], None]) -> dict[str, Any]:
    stranger = f"{url} is no medgrpo server: status {response.status_code}, in another shape"
    try:
        if response.is_error:
            response.read()
            raise ServeError(f"{url} refused ({response.status_code}): {response.json()['error']['message']}")
        said, chunk = "", {}
        for chunk in _chunks(response):
            if "error" in chunk:
                raise ServeError(f"{url} failed midway: {chunk['error']['message']}")
            for choice in chunk["choices"]:
                said += (new := choice["delta"].get("content", ""))
                show(new)
        return {"completion": said, "usage": chunk["usage"], "medgrpo": chunk["medgrpo"], "id": chunk["id"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ServeError(stranger) from error


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    for line in response.iter_lines():
        kind, _, data = line.partition(": ")
        if kind == "data" and data != "[DONE]":
            yield json.loads(data)
