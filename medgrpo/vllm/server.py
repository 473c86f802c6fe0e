"""What we ask of vLLM over HTTP: adapters to load, and completions of token ids."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from medgrpo.errors import ServeError
from medgrpo.policy import Policy
from medgrpo.settings import Settings
from medgrpo.types import BaseRef
from medgrpo.vllm.child import Child, Hosted

log = logging.getLogger(__name__)

LEAST_TEMPERATURE = 1e-3
"""Below this a request is greedy."""
TIMEOUT = httpx.Timeout(30, read=600, pool=None)
COMPLETIONS = "/v1/completions"


class Server:
    """vLLM with one base model: a child that starts at `open`, or one that runs already. Used from one event loop.

    Attributes:
        child: ours; None where another's is used.
        url: where it answers.
        base_name: what vLLM calls the base model.
        context_tokens: tokens that a prompt and its completion may have together.
    """

    def __init__(self, hosted: Hosted, log_file: Path, settings: Settings, url: str = "") -> None:
        """Start nothing yet.

        Args:
            hosted: what it is to hold.
            log_file: where a child logs to.
            settings: where vLLM's executable is (`vllm_command`), or its URL (`vllm_engine_url`).
            url: a running vLLM, in place of the settings'. The environment's VLLM_API_KEY is its key.
        """
        self._hosted = hosted
        self._log_file = log_file
        self._settings = settings
        self.child: Child | None = None
        self.url = (url or settings.vllm_engine_url).rstrip("/")
        self._is_ours = not self.url
        self._client = httpx.AsyncClient()
        self.base_name = ""
        self.context_tokens = 0

    @property
    def base(self) -> BaseRef:
        """The base model that it serves."""
        return self._hosted.base

    def prompting(self) -> Policy:
        """The base's tokenizer as a policy without weights: it renders prompts as every other engine's do."""
        from transformers import AutoTokenizer

        return Policy(None, AutoTokenizer.from_pretrained(self.base.folder, trust_remote_code=False))

    async def open(self) -> None:
        """Start vLLM, or find the running one; again where a child has ended.

        Raises:
            UserError: vLLM can't be started here.
            ServeError: it ended, or serves another base model.
        """
        try:
            await self._open()
        except BaseException:
            await asyncio.shield(self.close())
            raise

    async def _open(self) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        if self._is_ours:
            self.child = Child(self._hosted, self._log_file, self._settings)
            log.info("starting vLLM (its log: %s)", self.child.log)
            await self.child.ready()
            self.url, key = self.child.url, self.child.key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None)
        # trust_env: a proxy in the environment has no way to this machine's loopback.
        self._client = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=False
        )
        await self._learn()

    async def close(self) -> None:
        """End a child."""
        await self._client.aclose()
        if self.child:
            await asyncio.to_thread(self.child.end)

    async def load_adapter(self, folder: Path, label: str) -> str:
        """Load an adapter; what vLLM calls it.

        The name was never used: vLLM keeps prefixes that an earlier adapter of a name computed.

        Raises:
            ServeError: vLLM refuses it.
        """
        name = f"{label}-{secrets.token_hex(4)}"
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        return name

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that use it are finished."""
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def is_healthy(self) -> bool:
        """Whether it answers now."""
        try:
            return (await self._client.get("/health", timeout=5)).is_success
        except httpx.HTTPError:
            return False

    async def complete(self, body: dict[str, Any]) -> list[int]:
        """Token ids of a whole completion, its end token included.

        Args:
            body: of `completion_request`.

        Raises:
            ServeError: vLLM failed.
        """
        choice = (await self._send("POST", COMPLETIONS, body | {"return_token_ids": True})).json()["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise ServeError(f"vLLM ended a completion: {choice['finish_reason']}")
        return [int(token) for token in choice["token_ids"]]

    @asynccontextmanager
    async def stream(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """A completion's events. At the end of the context the connection is closed, at which vLLM stops.

        Raises:
            ServeError: vLLM failed.
        """
        body = body | {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        try:
            async with self._client.stream("POST", COMPLETIONS, json=body) as response:
                _check(response)
                yield response
        except httpx.HTTPError as error:
            raise ServeError(f"vLLM broke off a completion ({type(error).__name__})") from error

    async def _learn(self) -> None:
        """Ask vLLM what it calls the base model, and how long its context is."""
        try:
            models = (await self._ask("GET", "/v1/models")).json()["data"]
            model = next(model for model in models if not model.get("parent"))
            self.base_name, self.context_tokens = str(model["id"]), int(model["max_model_len"])
            root = Path(str(model.get("root") or ""))
        except (ValueError, LookupError, TypeError, StopIteration) as error:
            raise ServeError(f"{self.url} is no vLLM server: its /v1/models has another shape") from error
        base = self.base
        if str(root) != base.name and root.name not in (Path(base.folder).name, Path(base.name).name):
            raise ServeError(f"vLLM at {self.url} serves {root}, and {base.name} is needed")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """As `_send`, with what vLLM says of a refusal: for what repeats nobody's question."""
        response = await self._send(method, path, body, refusals=True)
        if response.is_error:
            hint = ""
            if response.status_code == 404 and path.endswith("_lora_adapter"):
                hint = ": it needs --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and the adapter under this path"
            if response.status_code == 401:
                hint = ": set VLLM_API_KEY to its key"
            raise ServeError(f"vLLM refused {path} ({response.status_code}){hint}: {response.text[:500]}")
        return response

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, refusals: bool = False
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = (self.child.ended if self.child else "") or type(error).__name__
            raise ServeError(f"no answer from vLLM at {self.url}{path} ({why})") from error
        if not refusals:
            _check(response)
        return response


def _check(response: httpx.Response) -> None:
    """Refuse what failed. What vLLM says of it isn't passed on: it may repeat what was asked."""
    if response.is_error:
        raise ServeError(f"vLLM refused a completion ({response.status_code})")


def completion_request(
    name: str, prompt: list[int], max_tokens: int, temperature: float = 0.0, seed: int | None = None, **more: Any
) -> dict[str, Any]:
    """The body of a request.

    vLLM takes the base model's own way of sampling for what isn't named. Its repetition penalty is meant: it applies
    wherever else the base is asked, too.

    Args:
        name: what vLLM calls the base model or adapter.
        prompt: token ids.
        temperature: below `LEAST_TEMPERATURE`: greedy.
        more: what else vLLM understands; in place of all of the vocabulary, say.
    """
    greedy = temperature < LEAST_TEMPERATURE
    body = {"model": name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0 if greedy else temperature}
    return body | {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": seed} | more
