"""The engine for more requests than one process can take: vLLM, started beside this process or found at a URL.

It gets the prompt's token ids, so that both engines see exactly the same prompt.
"""

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from medgrpo.errors import ServeError
from medgrpo.policy import Policy
from medgrpo.serve.engine import Decoding, Piece, Served, Source
from medgrpo.serve.prompt import fitting_prompt
from medgrpo.serve.vllm_child import Child
from medgrpo.settings import Settings
from medgrpo.types import BaseRef

log = logging.getLogger(__name__)

LEAST_TEMPERATURE = 1e-3
"""Below this a request is greedy."""
CHECK_S = 2.0
"""How often vLLM's health is looked at, in seconds."""
MISSES = 3
"""Looks in a row that may fail before it counts as a fault."""
RESTARTS = 3
"""How often a vLLM that ended is started again."""
TIMEOUT = httpx.Timeout(30, read=600, pool=None)


class VllmEngine:
    """vLLM with LoRA adapters. A child starts with the first version that is loaded, on that version's base.

    Args:
        settings: where vLLM's executable is (`vllm_command`), or its URL (`vllm_engine_url`).
        url: a running vLLM, `http://host:8001`, in place of the settings'. The environment's VLLM_API_KEY is its key.
    """

    def __init__(self, settings: Settings, url: str = "") -> None:
        self._settings = settings
        self._url = (url or settings.vllm_engine_url).rstrip("/")
        self._child: Child | None = None
        self._source: Source | None = None
        self._client = httpx.AsyncClient()
        self._base_name = ""
        self._context_tokens = 0
        self._policy = Policy(None, None)
        self._loaded: list[VllmLoaded] = []
        self._fault = ""
        self.restarts = 0
        self._watching: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def load(self, source: Source) -> "VllmLoaded":
        """Load a version beside those that are loaded, and warm it.

        Raises:
            ServeError: vLLM refuses it, or serves another base model.
            UserError: vLLM can't be started here.
        """
        async with self._opening:
            if self._source is None:
                await self._open(source)
        assert self._source is not None
        if source.base.digest != self._source.base.digest:
            raise ServeError(f"vLLM serves {self._source.base.name}, not {source.base.name}: start the stage again")
        loaded = VllmLoaded(self, source)
        await self._load_adapter(loaded)
        self._loaded.append(loaded)
        async for _ in loaded.stream([{"role": "user", "content": "?"}], Decoding(max_tokens=1)):
            pass
        return loaded

    async def unload(self, loaded: "VllmLoaded") -> None:
        """Forget a version whose requests have ended."""
        if loaded in self._loaded:
            self._loaded.remove(loaded)
            if loaded.source.adapter is not None:
                await self._post("/v1/unload_lora_adapter", {"lora_name": loaded.name})

    def fault(self) -> str:
        """Why vLLM can't answer now; empty: it can."""
        return self._fault or (self._child.ended if self._child else "")

    async def close(self) -> None:
        """End vLLM, if it was started here; unload from it what was loaded, if it wasn't."""
        if self._watching:
            self._watching.cancel()
        if self._child is None:
            for loaded in list(self._loaded):
                try:
                    await self.unload(loaded)
                except ServeError as error:
                    log.warning("%s", error)
        await self._client.aclose()
        if self._child:
            await asyncio.to_thread(self._child.end)

    async def _open(self, source: Source) -> None:
        from transformers import AutoTokenizer

        self._policy = Policy(None, AutoTokenizer.from_pretrained(source.base.folder, trust_remote_code=False))
        if self._url:
            self._connect(self._url, os.environ.get("VLLM_API_KEY", ""))
        else:
            await self._start(source)
        await self._learn(source.base)
        self._source = source
        self._watching = asyncio.create_task(self._watch())

    async def _start(self, source: Source) -> None:
        self._child = Child(source, self._settings)
        self._connect(self._child.url, self._child.key)
        log.info("starting vLLM (its log: %s)", self._child.log)
        try:
            await self._child.ready()
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._child.end))
            raise

    def _connect(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None)
        # trust_env: a proxy in the environment has no way to this machine's loopback.
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, limits=limits, trust_env=False)

    async def _learn(self, base: BaseRef) -> None:
        """Ask vLLM what it calls the base model, and how long its context is."""
        try:
            models = (await self._ask("GET", "/v1/models")).json()["data"]
            model = next(model for model in models if not model.get("parent"))
            self._base_name, self._context_tokens = str(model["id"]), int(model["max_model_len"])
            root = Path(str(model.get("root") or ""))
        except (ValueError, LookupError, TypeError, StopIteration) as error:
            raise ServeError(f"{self._client.base_url} is no vLLM server: its /v1/models has another shape") from error
        if str(root) != base.name and root.name not in (Path(base.folder).name, Path(base.name).name):
            raise ServeError(f"vLLM at {self._client.base_url} serves {root}, and {base.name} is needed")

    async def _load_adapter(self, loaded: "VllmLoaded") -> None:
        """Under a name that was never used: vLLM keeps prefixes that an earlier adapter of that name computed."""
        if loaded.source.adapter is None:
            loaded.name = self._base_name
            return
        served = loaded.served
        loaded.name = f"{served.version}@{served.adapter_digest[:12]}-{secrets.token_hex(4)}"
        path = str(loaded.source.adapter.resolve())
        await self._post("/v1/load_lora_adapter", {"lora_name": loaded.name, "lora_path": path})

    async def _watch(self) -> None:
        """Keep `fault` true, and start a child again that ended, with what was loaded in it."""
        misses = 0
        while True:
            await asyncio.sleep(CHECK_S)
            if self._child and self._child.ended:
                self._fault = self._child.ended
                log.error("%s", self._fault)
                if self.restarts == RESTARTS:
                    return
                self.restarts += 1
                await self._restart()
                continue
            try:
                misses = 0 if (await self._client.get("/health", timeout=5)).is_success else misses + 1
            except httpx.HTTPError:
                misses += 1
            self._fault = f"vLLM at {self._client.base_url} doesn't answer" if misses >= MISSES else ""

    async def _restart(self) -> None:
        assert self._source is not None
        try:
            await self._start(self._source)
            for loaded in self._loaded:
                await self._load_adapter(loaded)
        except ServeError as error:
            self._fault = str(error)
            log.warning("vLLM did not start again: %s", error)
        else:
            self._fault = ""

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = await self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = type(error).__name__
            raise ServeError(f"no answer from vLLM at {self._client.base_url}{path} ({reason})") from error
        if response.is_error:
            hint = ""
            if response.status_code == 404 and path.endswith("_lora_adapter"):
                hint = ": it needs --enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and the adapter under this path"
            raise ServeError(f"vLLM refused {path} ({response.status_code}){hint}: {response.text[:500]}")
        return response

    def prompt(self, chat: list[dict[str, str]], max_tokens: int) -> list[int]:
        """Token ids of a chat, as the embedded engine and the evaluation render it.

        Raises:
            RequestRefused: the template refuses it, or the context has no room for it.
        """
        return fitting_prompt(self._policy, chat, max_tokens, self._context_tokens)

    async def complete(self, name: str, prompt: list[int], decoding: Decoding) -> AsyncIterator[Piece]:
        """Stream a completion of vLLM's. Closing the iterator closes the connection, at which vLLM stops.

        Raises:
            ServeError: vLLM failed. Its message isn't passed on: it may repeat what was asked.
        """
        try:
            async with self._client.stream(
                "POST", "/v1/completions", json=_request(name, prompt, decoding)
            ) as response:
                if response.is_error:
                    raise ServeError(f"vLLM refused a completion ({response.status_code})")
                async for piece in _pieces(response, len(prompt)):
                    yield piece
                    if piece.finish_reason:
                        return
        except httpx.HTTPError as error:
            raise ServeError(f"vLLM broke off a completion ({type(error).__name__})") from error
        raise ServeError("vLLM ended a completion without saying why")


class VllmLoaded:
    """A version that vLLM has loaded.

    Attributes:
        source: what it was loaded from.
        name: what vLLM calls it.
    """

    def __init__(self, engine: VllmEngine, source: Source) -> None:
        self._engine = engine
        self.source = source
        self.name = ""

    @property
    def served(self) -> Served:
        """What it is."""
        return self.source.served

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """Complete a chat, used as it is given.

        Raises:
            RequestRefused: before the first piece: the prompt doesn't fit, or the template refuses it.
            ServeError: vLLM failed.
        """
        prompt = self._engine.prompt(chat, decoding.max_tokens)
        async for piece in self._engine.complete(self.name, prompt, decoding):
            yield piece


def _request(name: str, prompt: list[int], decoding: Decoding) -> dict[str, Any]:
    """Every way of sampling is named: vLLM would take the base model's own for what isn't."""
    greedy = decoding.temperature < LEAST_TEMPERATURE
    return {
        "model": name,
        "prompt": prompt,
        "max_tokens": decoding.max_tokens,
        "temperature": 0.0 if greedy else decoding.temperature,
        # 0 would be refused; the smallest share that keeps one token means the same.
        "top_p": 1.0 if greedy else max(decoding.top_p, 1e-6),
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": decoding.seed,
        "stop": list(decoding.stop),
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


async def _pieces(response: httpx.Response, prompt_tokens: int) -> AsyncIterator[Piece]:
    tokens = 0
    async for line in response.aiter_lines():
        kind, _, data = line.partition(": ")
        if kind != "data" or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServeError("vLLM failed in the middle of a completion")
        tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        for choice in chunk["choices"]:
            reason = choice["finish_reason"]
            if reason not in (None, "stop", "length"):
                raise ServeError(f"vLLM ended a completion: {reason}")
            if choice["text"] or reason:
                yield Piece(choice["text"], prompt_tokens, tokens, reason)
