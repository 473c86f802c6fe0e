"""Ask a policy many questions in batches, and keep each finished batch: a killed evaluation goes on behind it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from medgrpo.answer import messages, render_question
from medgrpo.config import Config
from medgrpo.fingerprint import digest, write_whole
from medgrpo.generation import Completer
from medgrpo.policy import Policy
from medgrpo.progress import track
from medgrpo.types import Example


class Shards:
    """Finished batches on disk, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, key: str) -> list[str] | None:
        """A batch's completions; None where it isn't done, or was of other prompts.

        Args:
            key: stands for the batch's prompts and how they are completed.
        """
        try:
            shard = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        completions: list[str] = shard["completions"]
        return completions if shard["key"] == key else None

    def write(self, name: str, key: str, completions: Sequence[str]) -> None:
        """Keep a batch's completions, all or none."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / f"{name}.json", json.dumps({"key": key, "completions": completions}))


class Completing(Protocol):
    """What completes prompts: see `generation.Completer`."""

    def complete(self, prompts: Sequence[Sequence[int]], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """One text per prompt."""


class Examiner:
    """Asks one policy questions, in the prompt of the config. Prompts of similar length are completed together.

    Attributes:
        policy: the one that is asked.
    """

    def __init__(
        self,
        policy: Policy,
        config: Config,
        shards: Shards | None,
        title: str,
        completer: Callable[[Policy, int], Completing] = Completer,
    ) -> None:
        """Start without a question.

        Args:
            shards: where finished batches are kept; None: nowhere.
            title: of the bar that a person sees.
            completer: makes what completes prompts, given the policy and the longest completion in tokens.
        """
        self.policy = policy
        self._config = config
        self._shards = shards
        self._title = title
        self._completer = completer(policy, config.evaluation.max_completion_tokens)
        self._prompts: dict[str, list[int]] = {}

    def ask(self, examples: Sequence[Example], name: str = "greedy", temperature: float = 0.0) -> list[str]:
        """One completion per example, in order.

        Args:
            examples: the same one may be there many times, for completions that differ.
            name: of what is asked, among all that this examiner asks.
            temperature: 0 is greedy decoding. Else each batch has random numbers of its own, from the config's seed.
        """
        prompts = [self._prompt(example) for example in examples]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        size = self._config.evaluation.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        completions = [""] * len(prompts)
        for number, batch in enumerate(track(batches, f"evaluate {self._title}: {name}")):
            texts = self._complete(f"{name}-{number:05d}", [prompts[row] for row in batch], temperature)
            for row, text in zip(batch, texts, strict=True):
                completions[row] = text
        return completions

    def _complete(self, name: str, prompts: list[list[int]], temperature: float) -> list[str]:
        key = digest([self._config.seed, name, prompts, temperature])
        texts = self._shards.read(name, key) if self._shards else None
        if texts is None:
            texts = self._completer.complete(prompts, temperature, seed=int(key[:15], 16))
            if self._shards:
                self._shards.write(name, key, texts)
        return texts

    def _prompt(self, example: Example) -> list[int]:
        question = render_question(example)
        if question not in self._prompts:
            prompt = self._config.prompt
            self._prompts[question] = self.policy.prompt_tokens(messages(prompt.system, prompt.shown, question))
        return self._prompts[question]


def generate(policy: Policy, config: Config, examples: Sequence[Example], title: str) -> list[str]:
    """Greedy completions, one per example, in order; kept nowhere."""
    return Examiner(policy, config, None, title).ask(examples)
