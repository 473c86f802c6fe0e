"""The engine for more requests than one process can take: vLLM, started beside this process or found at a URL.

It gets the prompt's token ids, so that both engines see exactly the same prompt.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx

from medgrpo.errors import MedgrpoError, ServeError
from medgrpo.policy import Policy
from medgrpo.serve.engine import Decoding, Piece, Served, Source
from medgrpo.serve.prompt import fitting_prompt
from medgrpo.settings import Settings
from medgrpo.vllm.child import Hosted, lora_rank
from medgrpo.vllm.server import Server, completion_request

log = logging.getLogger(__name__)

CHECK_S = 2.0
"""How often vLLM's health is looked at, in seconds."""
MISSES = 3
"""Looks in a row that may fail before it counts as a fault."""
RESTARTS = 3
"""How often a vLLM that ended is started again."""


class VllmEngine:
    """vLLM with LoRA adapters. A child starts with the first version that is loaded, on that version's base.

    Args:
        settings: where vLLM's executable is (`vllm_command`), or its URL (`vllm_engine_url`).
        url: a running vLLM, `http://host:8001`, in place of the settings'. The environment's VLLM_API_KEY is its key.
    """

    def __init__(self, settings: Settings, url: str = "") -> None:
        self._settings = settings
        self._url = url
        self.server: Server | None = None
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
            if self.server is None:
                self.server = await self._open(source)
        if source.base.digest != self.server.base.digest:
            raise ServeError(f"vLLM serves {self.server.base.name}, not {source.base.name}: start the stage again")
        loaded = VllmLoaded(self.server, source, self._policy)
        await loaded.load_adapter()
        self._loaded.append(loaded)
        async for _ in loaded.stream([{"role": "user", "content": "?"}], Decoding(max_tokens=1)):
            pass
        return loaded

    async def unload(self, loaded: "VllmLoaded") -> None:
        """Forget a version whose requests have ended."""
        if loaded in self._loaded:
            self._loaded.remove(loaded)
            await loaded.unload_adapter()

    def fault(self) -> str:
        """Why vLLM can't answer now; empty: it can."""
        child = self.server.child if self.server else None
        return self._fault or (child.ended if child else "")

    async def close(self) -> None:
        """End vLLM, if it was started here; unload from it what was loaded, if it wasn't."""
        if self._watching:
            self._watching.cancel()
        if self.server is None:
            return
        if self.server.child is None:
            for loaded in list(self._loaded):
                try:
                    await self.unload(loaded)
                except ServeError as error:
                    log.warning("%s", error)
        await self.server.close()

    async def _open(self, source: Source) -> Server:
        rank = lora_rank([source.adapter] if source.adapter else [])
        hosted = Hosted(source.base, source.policy, rank)
        server = Server(hosted, self._settings.serving / "vllm.log", self._settings, self._url)
        self._policy = server.prompting()
        await server.open()
        self._watching = asyncio.create_task(self._watch(server))
        return server

    async def _watch(self, server: Server) -> None:
        """Keep `fault` true, and start a child again that ended, with what was loaded in it."""
        misses = 0
        while True:
            await asyncio.sleep(CHECK_S)
            if server.child and server.child.ended:
                self._fault = server.child.ended
                log.error("%s", self._fault)
                if self.restarts == RESTARTS:
                    return
                self.restarts += 1
                await self._restart(server)
                continue
            misses = 0 if await server.is_healthy() else misses + 1
            self._fault = f"vLLM at {server.url} doesn't answer" if misses >= MISSES else ""

    async def _restart(self, server: Server) -> None:
        try:
            await server.open()
            for loaded in self._loaded:
                await loaded.load_adapter()
        except MedgrpoError as error:
            self._fault = str(error)
            log.warning("vLLM did not start again: %s", error)
        else:
            self._fault = ""


class VllmLoaded:
    """A version that vLLM has loaded."""

    def __init__(self, server: Server, source: Source, policy: Policy) -> None:
        self._server = server
        self._source = source
        self._policy = policy
        self._name = ""

    @property
    def served(self) -> Served:
        """What it is."""
        return self._source.served

    async def load_adapter(self) -> None:
        """Load its adapter, or learn the base's name where it has none; again in a vLLM that was started again."""
        served, adapter = self.served, self._source.adapter
        label = f"{served.version}@{served.adapter_digest[:12]}"
        self._name = await self._server.load_adapter(adapter, label) if adapter else self._server.base_name

    async def unload_adapter(self) -> None:
        """Take its adapter out of vLLM's memory."""
        if self._source.adapter:
            await self._server.unload_adapter(self._name)

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """Complete a chat, used as it is given. Closing the iterator stops the generation.

        Raises:
            RequestRefused: before the first piece: the prompt doesn't fit, or the template refuses it.
            ServeError: vLLM failed.
        """
        prompt = fitting_prompt(self._policy, chat, decoding.max_tokens, self._server.context_tokens)
        # 0 as top_p would be refused; the smallest share that keeps one token means the same.
        drawing = {"top_p": max(decoding.top_p, 1e-6), "stop": list(decoding.stop)}
        body = completion_request(
            self._name, prompt, decoding.max_tokens, decoding.temperature, decoding.seed, **drawing
        )
        async with self._server.stream(body) as response, aclosing(_pieces(response, len(prompt))) as pieces:
            async for piece in pieces:
                yield piece
                if piece.finish_reason:
                    return
        raise ServeError("vLLM ended a completion without saying why")


async def _pieces(response: httpx.Response, prompt_tokens: int) -> AsyncGenerator[Piece]:
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
