"""Reward: what does a classifier of right and wrong answers say?"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field

from medgrpo.answer import render_question
from medgrpo.errors import BaseModelError, ConfigError
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.weights import weights_digest
from medgrpo.types import Example, Rollout

DEFAULT_TEMPLATE = """Is the student's answer to the question right, judged by the answer key?

Answer key: {gold}

Student's answer: {answer}

Question: {question}"""
"""The question comes last: a text that is too long for the verifier is cut at its end."""
_FIELD = re.compile(r"\{(question|answer|gold|completion)\}")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class VerifierReward(Reward):
    """Probability of the label `positive` under a sequence classifier, or 1 / 0 at a threshold of it.

    Softmax over the labels; sigmoid for a classifier with one logit, as reward models have. Each row is scored alone.
    0 without an answer in form. Such a verifier is HuatuoGPT-o1's (arXiv 2412.18925), on the hub as
    FreedomIntelligence/medical_o1_verifier_3B.
    """

    kind: Literal["verifier"] = "verifier"
    """Chooses this reward."""
    scorer: str = Field(min_length=1)
    """Folder of a sequence classifier in the transformers layout, or its hub repository `owner/name`."""
    revision: str = Field(default="", pattern=r"^([0-9a-f]{40})?$")
    """The hub repository's commit; empty: the newest, which may change between two runs."""
    template: str = DEFAULT_TEMPLATE
    """What the classifier reads: {question} (with options), {answer}, {gold} and {completion} are filled in."""
    positive: int = Field(default=1, ge=0)
    """Place of the label that means 'right'; without meaning for a classifier with one logit."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Probability from which on the reward is 1, else 0; None: the probability itself."""
    device: str = ""
    """Where it runs, in torch's words; empty: cuda where there is one, else cpu."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest text in tokens; the classifier's own limit holds too."""

    def prepared(self, context: Context) -> Self:
        """The same, after its verifier was loaded once.

        Raises:
            BaseModelError: it can't be.
            ConfigError: it has no label `positive`.
        """
        labels = self._load().labels
        if labels > 1 and self.positive >= labels:
            raise ConfigError(
                f"rewards: verifier: positive is {self.positive}, but {self.scorer} has {labels} labels: "
                f"give one of 0 to {labels - 1}"
            )
        return self

    def load(self) -> None:
        """Load the verifier."""
        self._load()

    def source(self) -> str:
        """Digest of the verifier's content, where it is a folder; a hub repository has its `revision`."""
        return weights_digest(self.scorer)

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch, row by row, so that neighbours and padding can't change a score."""
        return [self._score(rollout) if self.is_answered(rollout) else 0.0 for rollout in rollouts]

    def full_marks(self, rollout: Rollout) -> float:
        """A verifier can be wrong about a gold answer, too."""
        return 0.0

    def _score(self, rollout: Rollout) -> float:
        probability = self._load().probability(fill(self.template, rollout), self.positive, self.max_tokens)
        return probability if self.threshold is None else float(probability >= self.threshold)

    def _load(self) -> "Verifier":
        return load_verifier(self.scorer, self.revision, self.device)


class Verifier(NamedTuple):
    """A loaded classifier with its tokenizer, in evaluation mode."""

    model: Any
    tokenizer: Any

    @property
    def labels(self) -> int:
        """Number of logits."""
        return int(self.model.config.num_labels)

    def probability(self, text: str, positive: int, max_tokens: int) -> float:
        """Probability of a label, in float32 whatever the weights are in."""
        import torch

        ids = self.tokenizer(text, truncation=True, max_length=min(max_tokens, self._limit()))["input_ids"]
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0].float()
        return float(logits[0].sigmoid() if len(logits) == 1 else logits.softmax(-1)[positive])

    def _limit(self) -> int:
        """Most tokens that it takes; positions alone don't tell where some are kept for padding, as in RoBERTa."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(min(positions, self.tokenizer.model_max_length))


def fill(template: str, rollout: Rollout) -> str:
    """The text that the classifier reads, filled in one pass: '{gold}' in an answer stays what it is."""
    fields = {
        "question": render_question(rollout.example),
        "answer": rollout.answer or "",
        "gold": _gold(rollout.example),
        "completion": rollout.completion,
    }
    return _FIELD.sub(lambda found: fields[found[1]], template)


@lru_cache(maxsize=2)
def load_verifier(scorer: str, revision: str, device: str) -> Verifier:
    """Load a classifier once per process: safetensors only, and no code from its folder is run.

    Raises:
        BaseModelError: it is neither a folder nor to be had from the hub, or it is no classifier.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from medgrpo.policy import choose_dtype

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not Path(scorer).is_dir() and not _HUB_ID.fullmatch(scorer):
        raise BaseModelError(f"no verifier in {scorer}: name a folder with config.json and *.safetensors")
    try:
        tokenizer = AutoTokenizer.from_pretrained(scorer, trust_remote_code=False, **options)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            scorer,
            dtype=choose_dtype() if place.startswith("cuda") else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"the verifier {scorer} can't be loaded: {error}. Check the name, the network and `hf auth login`, or "
            "download it and name its folder"
        ) from error
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"]))
        raise BaseModelError(f"{scorer} is no sequence classifier: it has no weights for {missing}")
    return Verifier(model.to(place).eval(), tokenizer)


def _gold(example: Example) -> str:
    """The gold in words; of a choice with its letter, since an answer may give either."""
    return f"{example.gold}. {example.gold_text}" if example.kind == "choice" else example.gold_text
