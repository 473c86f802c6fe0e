"""The embedded engine: versions in this process, the requests to each batched token by token as they come and go.

Versions of one base share its weights: only the layers that an adapter changes are a version's own. The copy is the one
that evaluation and sampling use (`medgrpo/grpo/inference_copy.py`), so that what was evaluated is what answers.

transformers' own batching generates in a thread of its own; what it makes comes to the event loop by callbacks.
"""

import asyncio
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformers import ContinuousBatchingConfig

from medgrpo.errors import ServeError
from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied
from medgrpo.policy import Policy, attach, load_base
from medgrpo.serve.attention import NAME as ATTENTION
from medgrpo.serve.attention import can_look_by_request
from medgrpo.serve.drawing import Draw, own_processors
from medgrpo.serve.engine import Decoding, Loaded, Piece, RequestRefused, Served, Source
from medgrpo.serve.prompt import fitting_prompt
from medgrpo.serve.text import GrowingText

log = logging.getLogger(__name__)

LEAST_TEMPERATURE = 1e-3
"""Below this a request is greedy: dividing by less overflows, and would give the same tokens."""
PAGE = 32
"""Tokens per page of the cache: prompts that begin alike share whole pages."""
CACHE_BYTES = 512 * 1024**2
"""Memory that a version's cache may take, unless one request of the whole context needs more."""
MOST_TOKENS = 64 * 1024
"""Tokens that a version's cache holds at most."""
BATCH_TOKENS = 512
"""Tokens that one step reads at most: a long prompt is read in parts, and the others go on meanwhile."""
BATCH_REQUESTS = 32
"""Requests that are generated at a time; others wait for their turn."""
STOP_S = 30
"""How long a version's thread may take to end."""


@dataclass
class _News:
    """What the generating thread last told of one request."""

    event: asyncio.Event
    output: Any = None

    def tell(self, output: Any) -> None:
        self.output = output
        self.event.set()


class EmbeddedVersion:
    """A version in memory: its merged weights, its cache, and the thread that generates."""

    def __init__(self, policy: Policy, served: Served) -> None:
        """Begin to generate. The adapter must be merged: the policy's model is a plain one.

        Args:
            policy: the model and its tokenizer.
            served: what that is.
        """
        self._policy = policy
        self._served = served
        config = policy.model.config.get_text_config()
        self._context: int = int(config.max_position_embeddings)
        self._vocabulary: int = int(policy.model.get_input_embeddings().weight.shape[0])
        self._generation = deepcopy(policy.model.generation_config)
        self._generation.update(do_sample=False, pad_token_id=policy.tokenizer.pad_token_id)
        if self._generation.eos_token_id is None:
            self._generation.eos_token_id = policy.tokenizer.eos_token_id
        ends = self._generation.eos_token_id
        self._ends = set(ends) if isinstance(ends, list) else {ends}
        self._pages = _pages(config, policy.model.dtype, self._context)
        self._attention = policy.model.config._attn_implementation
        self._numbers = count()
        self._closed = False
        self.restarts = 0
        self._batching = self._begin()

    @property
    def served(self) -> Served:
        """What it is."""
        return self._served

    @property
    def room(self) -> int:
        """Tokens that a prompt and its completion may have together."""
        return min(self._context, self._pages * PAGE)

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """Complete a chat; see `Loaded`."""
        prompt = self._prompt(chat, decoding.max_tokens)
        text = GrowingText(self._decode, decoding.stop)
        sent = 0
        with self._asked(prompt, decoding) as news:
            while True:
                await news.event.wait()
                news.event.clear()
                output = news.output
                if output.error:
                    raise ServeError("the embedded engine failed while it generated; its log says why")
                tokens = output.generated_tokens
                finished = output.is_finished()
                new = text.take(tokens, finished)
                done = finished or text.stopped
                if done:
                    ended = text.stopped or tokens[-1] in self._ends
                    yield Piece(new, len(prompt), len(tokens), "stop" if ended else "length")
                    return
                if new or sent == 0:
                    sent = len(tokens)
                    yield Piece(new, len(prompt), len(tokens))

    def revive(self) -> bool:
        """Start its thread anew if that has died; whether it had."""
        if self._closed or self._is_alive():
            return False
        reason = self._batching.background_thread_status.fatal_error or "its thread ended"
        log.error("the embedded engine of %s stopped (%s) and is started anew", self._served.version, reason)
        self._batching = self._begin()
        self.restarts += 1
        return True

    def close(self) -> None:
        """Stop the thread; running requests fail. Blocks until it has ended."""
        self._closed = True
        self._batching.stop(block=True, timeout=STOP_S, hard_stop=True)
        self._batching.destroy()

    def _begin(self) -> Any:
        """A new cache and a new thread over the same weights."""
        settings = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=self._pages,
            max_batch_tokens=BATCH_TOKENS,
            max_requests_per_batch=BATCH_REQUESTS,
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,
        )
        model = self._policy.model
        model.set_attn_implementation(self._attention)
        batching = model.init_continuous_batching(self._generation, settings)
        if can_look_by_request(model):  # afterwards: batching takes no attention that it doesn't know
            model.set_attn_implementation(ATTENTION)
        batching.logit_processor = own_processors(model._get_logits_processor(self._generation))
        batching.start()
        return batching

    def _is_alive(self) -> bool:
        return self._batching.background_thread_status.fatal_error is None and self._batching.is_running()

    @contextmanager
    def _asked(self, prompt: list[int], decoding: Decoding) -> Iterator[_News]:
        """A request in the batch for as long as the context lasts."""
        if self._closed:
            raise ServeError(f"{self._served.version} is being closed")
        self.revive()
        batching, name = self._batching, f"request-{next(self._numbers)}"
        news = _News(asyncio.Event())
        batching.register_result_handler(name, news.tell)
        try:
            kwargs = {} if decoding.temperature < LEAST_TEMPERATURE else {"draw": _draw(decoding)}
            taken = batching.add_request(
                prompt, request_id=name, max_new_tokens=decoding.max_tokens, streaming=True, **kwargs
            )
            if taken is None:
                raise ServeError("the embedded engine stopped just now: ask again")
            yield news
        finally:
            if news.output is None or not news.output.is_finished():
                batching.cancel_request(name)
                batching.output_router.result_handlers.pop(name, None)

    def _prompt(self, chat: list[dict[str, str]], max_tokens: int) -> list[int]:
        """Token ids of the prompt, refused when there is no room for it and the completion."""
        prompt = fitting_prompt(self._policy, chat, max_tokens, self.room)
        if max(prompt) >= self._vocabulary:
            raise RequestRefused("the messages hold a token that this model has no weights for", "messages", "token")
        return prompt

    def _decode(self, tokens: Any) -> str:
        return str(self._policy.tokenizer.decode(tokens, skip_special_tokens=True))


Base = tuple[str, str, bool]
"""Digest, dtype and whether it is in 4 bits: versions of the same share a base in memory."""


class EmbeddedEngine:
    """Loads versions into this process."""

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self._versions: dict[EmbeddedVersion, Base] = {}
        self._bases: dict[Base, Policy] = {}
        self._unloaded_restarts = 0
        self._loading = asyncio.Lock()

    async def load(self, source: Source) -> Loaded:
        """Load a version and let it generate once; see `Engine`."""
        base = (source.base.digest, source.policy.dtype, source.policy.load_in_4bit)
        async with self._loading:
            try:
                version = await asyncio.to_thread(lambda: EmbeddedVersion(self._policy(source, base), source.served))
            except Exception as error:  # damaged files make the libraries raise types of their own
                raise ServeError(f"{source.served.version} can't be loaded: {error}") from error
        try:
            async for _ in version.stream([{"role": "user", "content": "?"}], Decoding(max_tokens=2)):
                pass
        except BaseException:
            await asyncio.to_thread(version.close)
            raise
        self._versions[version] = base
        return version

    async def unload(self, loaded: Loaded) -> None:
        """Stop a version's thread and free its memory."""
        for version in [v for v in self._versions if v is loaded]:
            del self._versions[version]
            self._unloaded_restarts += version.restarts
            await asyncio.to_thread(version.close)
        async with self._loading:
            for base in self._bases.keys() - self._versions.values():
                del self._bases[base]
        gc.collect()

    @property
    def restarts(self) -> int:
        """How often a thread had died and was started anew."""
        return self._unloaded_restarts + sum(version.restarts for version in self._versions)

    def fault(self) -> str:
        """Always empty: a thread that died is started anew at once, over the same weights."""
        for version in self._versions:
            version.revive()
        return ""

    async def close(self) -> None:
        """Stop all threads."""
        for version in list(self._versions):
            await self.unload(version)

    def _policy(self, source: Source, base: Base) -> Policy:
        """The version as a plain model, its adapter merged into the weights the way evaluation does it.

        Raises:
            BaseModelError: the base model can't be read, or the adapter doesn't fit it.
        """
        if base not in self._bases:
            self._bases[base] = load_base(source.base.folder, source.policy.dtype, source.policy.load_in_4bit)
        shared = self._bases[base]
        if source.adapter is None:
            return Policy(InferenceCopy(shared.model).refresh(), shared.tokenizer)
        try:
            policy = attach(shared, source.adapter)
        except BaseException:
            del self._bases[base]  # half of the adapter may be on it; versions that stand on it are copies
            raise
        try:
            if can_be_copied(policy.model):
                return Policy(InferenceCopy(policy.model).refresh(), shared.tokenizer)
        finally:
            policy.model.unload()  # the shared base stays plain
        alone = load_base(source.base.folder, source.policy.dtype, source.policy.load_in_4bit)
        own = attach(alone, source.adapter).model
        # Merging into 4-bit weights would round the adapter away: it stays beside them.
        plain = own.get_base_model() if source.policy.load_in_4bit else own.merge_and_unload(safe_merge=True)
        return Policy(plain.eval(), shared.tokenizer)


def _draw(decoding: Decoding) -> Draw:
    seed = secrets.randbits(63) if decoding.seed is None else decoding.seed
    return Draw.of(decoding.temperature, decoding.top_p, seed)


def _pages(config: Any, dtype: torch.dtype, context: int) -> int:
    """Pages of the cache: as many as the memory for it holds, and enough for a few whole contexts at most."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
    tokens = min(max(CACHE_BYTES // per_token, context), MOST_TOKENS)
    return int(-(-tokens // PAGE))
