"""The embedded engine: transformers' continuous batching in this process, for a CPU or one small GPU.

Every version is a merged copy over the weights of one base in memory: the copy that evaluation and sampling use, too
(`medgrpo/grpo/inference_copy.py`), so that what was evaluated is what answers.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError

from medgrpo.errors import MedgrpoError, ServeError
from medgrpo.policy import Policy, attach, load_base
from medgrpo.serve.detokenise import Detokeniser
from medgrpo.serve.engine import Decoding, Piece, RequestRefused, Served, Source

log = logging.getLogger(__name__)

PAGE_TOKENS = 32
"""Tokens of a page of the cache."""
CACHE_BYTES = 1024**3
"""Memory for keys and values per version on a CPU; at least one request of the context's length has room."""
BATCH_TOKENS = 512
"""Most tokens that one step computes, prompts included: more would keep those who wait for their next token waiting."""
GPU_SHARE = 0.25
"""Share of a GPU's free memory for a version's keys and values: champion, challenger and previous share it."""
STOP_TIMEOUT_S = 30


class EmbeddedEngine:
    """Versions in this process. Loading happens in a thread; each version generates in one of its own."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, str, bool], Policy] = {}
        self._loaded: list[EmbeddedLoaded] = []
        self._loading = asyncio.Lock()

    async def load(self, source: Source) -> "EmbeddedLoaded":
        """Load a version beside those that are loaded, and warm it.

        Raises:
            ServeError: it can't be loaded.
        """
        async with self._loading:
            try:
                loaded = await asyncio.to_thread(self._build, source)
            except MedgrpoError:
                raise
            except Exception as error:
                raise ServeError(f"{source.served.version} can't be loaded: {error}") from error
        self._loaded.append(loaded)
        async for _ in loaded.stream([{"role": "user", "content": "?"}], Decoding(max_tokens=1)):
            pass
        return loaded

    async def unload(self, loaded: "EmbeddedLoaded") -> None:
        """Forget a version whose requests have ended, and its base where no other stands on it."""
        if loaded in self._loaded:
            self._loaded.remove(loaded)
        await asyncio.to_thread(loaded.stop)
        used = {one.base for one in self._loaded}
        for base in [key for key in self._bases if key not in used]:
            if not self._loading.locked():
                del self._bases[base]

    def fault(self) -> str:
        """Why a version can't answer now; empty: all can."""
        return "; ".join(reason for one in self._loaded if (reason := one.fault()))

    async def close(self) -> None:
        """Stop generating; requests that still run raise ServeError."""
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in self._loaded))
        self._loaded.clear()
        self._bases.clear()

    def _build(self, source: Source) -> "EmbeddedLoaded":
        base = (source.base.digest, source.policy.dtype, source.policy.load_in_4bit)
        if base not in self._bases:
            self._bases[base] = load_base(source.base.folder, *base[1:])
        return EmbeddedLoaded(source, _copy(self._bases[base], source), self._bases[base].tokenizer, base)


def _copy(base: Policy, source: Source) -> Any:
    """The version's own model: merged where that can be done over shared weights, else on a base of its own."""
    from medgrpo.grpo.inference_copy import InferenceCopy, can_be_copied

    if source.adapter is None:
        return InferenceCopy(base.model).refresh()
    policy = attach(base, source.adapter)
    if can_be_copied(policy.model):
        copied = InferenceCopy(policy.model).refresh()
        policy.model.unload()  # the base goes on without it
        return copied
    policy.model.unload()
    own = load_base(source.base.folder, source.policy.dtype, source.policy.load_in_4bit)
    return attach(own, source.adapter).model.get_base_model()


class EmbeddedLoaded:
    """A version in memory, with a thread that generates for all of its requests together."""

    def __init__(self, source: Source, model: Any, tokenizer: Any, base: tuple[str, str, bool]) -> None:
        """Start generating.

        Args:
            base: names the base whose weights the model shares.
        """
        self._served = source.served
        self._model = model
        self._policy = Policy(model, tokenizer)
        self.base = base
        self._is_stopped = False
        self._start()

    @property
    def served(self) -> Served:
        """What it is."""
        return self._served

    def fault(self) -> str:
        """Why it can't answer now; empty: it can."""
        error = self._manager.background_thread_status.fatal_error
        if self._is_stopped or (error is None and self._manager.is_running()):
            return ""
        return f"{self._served.version} stopped generating ({error}) and starts again with the next request"

    def stop(self) -> None:
        """End the thread; requests that still run fail."""
        self._is_stopped = True
        self._manager.stop(block=True, timeout=STOP_TIMEOUT_S, hard_stop=True)

    async def stream(self, chat: list[dict[str, str]], decoding: Decoding) -> AsyncIterator[Piece]:
        """Complete a chat, used as it is given. Closing the iterator cancels the generation.

        Raises:
            RequestRefused: before the first piece: the prompt doesn't fit the context, or the chat template refuses it.
            ServeError: the engine failed.
        """
        prompt = self._tokenize(chat, decoding.max_tokens)
        self._revive()
        manager, name = self._manager, uuid.uuid4().hex
        given: asyncio.Queue[Any] = asyncio.Queue()
        text = Detokeniser(self._decode, decoding.stop)
        slot = self._sampling.open(decoding)
        manager.register_result_handler(name, given.put_nowait)
        is_over = False
        try:
            asked = {"max_new_tokens": decoding.max_tokens, "streaming": True, "eos_token_id": self._ends, "slot": slot}
            if manager.add_request(prompt, name, **asked) is None:
                raise ServeError(f"{self._served.version} takes no more requests")
            while not is_over:
                piece, is_over = self._read(await given.get(), text, len(prompt), decoding)
                if piece:
                    yield piece
        finally:
            self._sampling.close(slot)
            with suppress(KeyError):
                manager.output_router.result_handlers.pop(name)
            if not is_over or text.is_stopped:
                manager.cancel_request(name)

    def _read(self, given: Any, text: Detokeniser, prompt_tokens: int, decoding: Decoding) -> tuple[Piece | None, bool]:
        """What is new in what the batching gave, and whether it was the last."""
        tokens = given.generated_tokens
        if given.error is not None:
            raise ServeError(f"{self._served.version} failed: {given.error}")
        has_ended = bool(tokens) and (tokens[-1] in self._ends or len(tokens) >= decoding.max_tokens)
        is_last = has_ended or given.is_finished()
        new = text.read(tokens, is_last)
        is_last = is_last or text.is_stopped
        if not (new or is_last):
            return None, False
        reason = None
        if is_last:
            reason = "stop" if text.is_stopped or (tokens and tokens[-1] in self._ends) else "length"
        return Piece(new, prompt_tokens, len(tokens), reason), is_last  # type: ignore[arg-type]

    def _tokenize(self, chat: list[dict[str, str]], max_tokens: int) -> list[int]:
        """Token ids of the prompt, refused where context or cache have no room for it and the completion."""
        try:
            prompt = self._policy.prompt_tokens(chat)
        except TemplateError as error:
            raise RequestRefused(
                "the model's chat template refuses this order of roles: alternate user and assistant, user last",
                "messages",
                "invalid_messages",
            ) from error
        if len(prompt) + max_tokens > self._room:
            raise RequestRefused(
                f"the prompt has {len(prompt)} tokens and the completion may have {max_tokens}: more than the "
                f"{self._room} of the model's context. Shorten the messages or lower max_tokens",
                "messages",
                "context_length_exceeded",
            )
        return prompt

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._policy.tokenizer.decode(tokens, skip_special_tokens=True))

    def _revive(self) -> None:
        """Generate again after the thread has failed: one request that it couldn't take must not end all others."""
        if self._is_stopped:
            raise ServeError(f"{self._served.version} is not in memory any more")
        if fault := self.fault():
            log.error("%s", fault)
            self._start()

    def _start(self) -> None:
        from transformers import ContinuousBatchingConfig

        from medgrpo.serve.sampling import RequestSampling

        config = self._model.config.get_text_config()
        generation = self._generation()
        self._ends = generation.eos_token_id
        self._room, pages = self._space(config)
        batching = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages,
            max_batch_tokens=None if pages is None else BATCH_TOKENS,
            max_memory_percent=GPU_SHARE,
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,  # it would fetch a kernel from a hub
            per_request_processors=True,
        )
        self._manager = self._model.init_continuous_batching(generation, batching)
        self._sampling = RequestSampling()
        processors = self._manager.logit_processor
        processors.logits_processor.append(self._sampling)
        processors.tensors_required += 1
        processors.supported_keys |= self._sampling.supported_kwargs
        processors.do_processing = True
        self._manager.start()

    def _generation(self) -> Any:
        """Greedy, without what a base model's own settings may ask for."""
        from transformers import GenerationConfig

        own, tokenizer = self._model.generation_config, self._policy.tokenizer
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        return GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)

    def _space(self, config: Any) -> tuple[int, int | None]:
        """Tokens that one request may have, and pages of the cache; None: as many as fit the GPU's share."""
        context = int(config.max_position_embeddings)
        if self._model.device.type != "cpu":
            return context, None
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * self._model.dtype.itemsize
        pages = max(CACHE_BYTES // (token * PAGE_TOKENS), -(-context // PAGE_TOKENS))
        return context, int(pages)
