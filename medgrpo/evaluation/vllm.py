"""Policies in one vLLM: the base model and the adapters side by side, with all of a batch's prompts asked at once."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from medgrpo.config import PolicyConfig
from medgrpo.errors import ServeError, UserError
from medgrpo.evaluation.policies import adapter_folder
from medgrpo.policy import Policy
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef
from medgrpo.vllm.child import Hosted, lora_rank
from medgrpo.vllm.server import Server, completion_request


class VllmPolicies:
    """A base model in vLLM, which starts when the first policy is needed. Its adapters stay loaded until the end."""

    def __init__(
        self, base: BaseRef, policy: PolicyConfig, checkpoints: Sequence[CheckpointRef], settings: Settings
    ) -> None:
        self._base = base
        self._policy = policy
        self._checkpoints = [checkpoint for checkpoint in checkpoints if not checkpoint.is_base]
        self._settings = settings
        self._runner = asyncio.Runner()
        self._names: dict[str, str] = {}

    @contextmanager
    def wearing(self, checkpoint: CheckpointRef) -> Iterator[Policy]:
        """The policy of a checkpoint; in place of weights it has the name that vLLM knows it by.

        Raises:
            NotFoundError: the adapter isn't on this disk, or isn't what was stored.
            UserError: vLLM can't be started here.
            ServeError: vLLM failed.
        """
        name = self._server.base_name if checkpoint.is_base else self._load(checkpoint)
        yield Policy(name, self._prompting.tokenizer)

    def completer(self, policy: Policy, max_tokens: int) -> "VllmCompleter":
        """What completes prompts with a policy of `wearing`."""
        return VllmCompleter(self._server, self._runner, policy, max_tokens)

    def close(self) -> None:
        """End vLLM; of one that isn't ours only our adapters are unloaded."""
        if "_server" in self.__dict__:
            self._runner.run(self._leave())
        self._runner.close()

    @cached_property
    def _server(self) -> Server:
        rank = lora_rank(adapter_folder(checkpoint, self._settings) for checkpoint in self._checkpoints)
        hosted = Hosted(self._base, self._policy, rank)
        log = self._settings.root / "evaluations" / "vllm.log"
        server = Server(hosted, log, self._settings)
        self._runner.run(server.open())
        return server

    @cached_property
    def _prompting(self) -> Policy:
        return self._server.prompting()

    def _load(self, checkpoint: CheckpointRef) -> str:
        digest = checkpoint.adapter_digest
        if digest not in self._names:
            folder = adapter_folder(checkpoint, self._settings)
            self._names[digest] = self._runner.run(self._server.load_adapter(folder, digest[:12]))
        return self._names[digest]

    async def _leave(self) -> None:
        if self._server.child is None:
            for name in self._names.values():
                with suppress(ServeError):  # it may be gone
                    await self._server.unload_adapter(name)
        await self._server.close()


class VllmCompleter:
    """Completes prompts with one policy in vLLM."""

    def __init__(self, server: Server, runner: asyncio.Runner, policy: Policy, max_tokens: int) -> None:
        """Ask nothing yet.

        Args:
            runner: the loop that the server is used from.
            max_tokens: completions are cut at so many tokens.
        """
        self._server = server
        self._runner = runner
        self._policy = policy
        self._max_tokens = max_tokens

    def complete(self, prompts: Sequence[Sequence[int]], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """The completions' texts, without special tokens.

        Args:
            prompts: token ids; all are asked at once.
            temperature: 0: greedy. Above it tokens are drawn from all of the vocabulary.
            seed: the first prompt's; the next one has the number after it.

        Raises:
            UserError: a prompt doesn't fit vLLM's context.
            ServeError: vLLM failed.
        """
        longest = max(len(prompt) for prompt in prompts) + self._max_tokens
        if longest > self._server.context_tokens:
            raise UserError(
                f"a prompt and its completion may need {longest} tokens, and vLLM's context has "
                f"{self._server.context_tokens}: lower evaluation.max_completion_tokens, or raise --max-model-len in "
                "MEDGRPO_VLLM_ARGUMENTS"
            )
        tokens = self._runner.run(self._all(prompts, temperature, seed))
        texts: list[str] = self._policy.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    async def _all(self, prompts: Sequence[Sequence[int]], temperature: float, seed: int) -> Any:
        name = self._policy.model
        bodies = [
            completion_request(name, list(prompt), self._max_tokens, temperature, seed + place if temperature else None)
            for place, prompt in enumerate(prompts)
        ]
        return await asyncio.gather(*map(self._server.complete, bodies))
