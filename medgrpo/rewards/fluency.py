"""Reward: does the reasoning read like language, in words of its own?"""

import logging
import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal, Self

from pydantic import Field, model_validator

from medgrpo.base_models import FolderBase, resolve
from medgrpo.errors import ConfigError
from medgrpo.fingerprint import digest, write_whole
from medgrpo.rewards.novelty import novelty, words_of
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.scorer import load_as, load_scorer, mean_nlls
from medgrpo.rewards.weights import weights_digest
from medgrpo.types import Frozen, Rollout

log = logging.getLogger(__name__)

MAX_TOKENS = 256
"""Reasoning tokens that are scored; what comes after them changes the novelty alone."""
MEASURED_TEXTS = 32
"""Gold texts that a band is measured on."""
SMALLEST_GAP = 0.1
"""Nats per token between language and shuffled words below which a scorer is taken not to tell them apart."""
OPEN = {"memorised": 1e-9, "fluent": 1e9, "gibberish": 1e10}
"""The band that is taken then: everything lies in it."""
RISE = 1.0
"""Nats per token over which the band rises from what is known by heart to the likeliest tenth of the gold texts."""
BAND_VERSION = 3
"""Raise it when bands are to be measured anew."""


class Band(Frozen):
    """Perplexities at which the reward begins to rise, begins to fall, and is 0 again."""

    memorised: float
    fluent: float
    gibberish: float


class FluencyReward(Reward):
    """Band × novelty, both in [0, 1]; 0 without an answer in form.

    Band: log-perplexity of the reasoning under a frozen scorer, mapped from [log `fluent`, log `gibberish`] to [1, 0]
    and clipped. It falls on the other side, too, to 0 at `memorised`: counting or a famous sentence is more likely than
    any reasoning. Novelty: `medgrpo.rewards.novelty`, against loops and echoes, which are likely as well.
    Perplexity is exp(mean negative log-likelihood per token); the gold is never read.
    """

    kind: Literal["fluency"] = "fluency"
    """Chooses this reward."""
    scorer: str = ""
    """Folder of a causal language model in the transformers layout; empty: the base model that is trained."""
    fluent: float | None = Field(default=None, ge=1)
    """Perplexity at or below which the band is 1; None: measured on train rows."""
    gibberish: float | None = Field(default=None, ge=1)
    """Perplexity at or above which the band is 0; None: measured on train rows with their words shuffled."""

    memorised: float | None = Field(default=None, gt=0)
    """Perplexity at or below which the band is 0, rising to 1 at e times as much; None: measured with the others, or
    no such side where both others are given.
    """

    @model_validator(mode="after")
    def _band_is_ordered(self) -> Self:
        if self.fluent is not None and self.gibberish is not None and self.fluent >= self.gibberish:
            raise ValueError("fluent must be below gibberish")
        return self

    def prepared(self, context: Context) -> Self:
        """The same with its scorer named and its band measured: once per machine, scorer and rows.

        Raises:
            BaseModelError: the scorer can't be read.
            ConfigError: there is nothing to measure on, or a measured end crosses the one that was given.
        """
        named = self.model_copy(update={"scorer": self.scorer or context.base.folder})
        if named.scorer == context.base.folder:
            load_as(named.scorer, context.dtype, context.load_in_4bit)
        if self.fluent is not None and self.gibberish is not None:
            return named
        band = _kept_band(named.scorer, context)
        fluent, gibberish = self.fluent or band.fluent, self.gibberish or band.gibberish
        if fluent >= gibberish:
            raise ConfigError(
                f"rewards: fluency: fluent ({fluent:.4g}) is not below gibberish ({gibberish:.4g}); measured on the "
                f"train rows they are {band.fluent:.4g} and {band.gibberish:.4g}: give both, or none"
            )
        memorised = self.memorised or band.memorised
        return named.model_copy(update={"fluent": fluent, "gibberish": gibberish, "memorised": memorised})

    def load(self) -> None:
        """Load the scorer."""
        load_scorer(self.scorer)

    def source(self) -> str:
        """Digest of a scorer of its own; the base that is trained is part of the key anyway."""
        return weights_digest(self.scorer) if self.scorer else ""

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch; neighbours and padding can't change a score."""
        if not self.scorer or self.fluent is None or self.gibberish is None:
            raise ConfigError("rewards: fluency has no scorer or band yet: call prepared() first, or give all three")
        own = [self._own(rollout) for rollout in rollouts]
        if not any(own) or self.fluent == OPEN["fluent"]:
            return own
        asked = [rollout.reasoning or "" for share, rollout in zip(own, rollouts, strict=True) if share]
        nlls = iter(mean_nlls(self.scorer, asked, MAX_TOKENS))
        return [share * self._band(next(nlls), self.fluent, self.gibberish) if share else 0.0 for share in own]

    def full_marks(self, rollout: Rollout) -> float:
        """A gold reasoning may be terse: it needn't be fluent to be right."""
        return 0.0

    def _own(self, rollout: Rollout) -> float:
        return novelty(rollout.reasoning or "", rollout.example) if self.is_answered(rollout) else 0.0

    def _band(self, nll: float, fluent: float, gibberish: float) -> float:
        low, high = math.log(fluent), math.log(gibberish)
        rise = 1.0 if self.memorised is None else (nll - math.log(self.memorised)) / RISE
        return min(1.0, max(0.0, min(rise, (high - nll) / (high - low))))


def _kept_band(scorer: str, context: Context) -> Band:
    """The band of these rows under this scorer: read where it was measured before, else measured and written."""
    texts = _gold_texts(context)
    is_base = scorer == context.base.folder
    content = context.base.digest if is_base else resolve(FolderBase(path=scorer), context.settings).digest
    key = digest([BAND_VERSION, content, context.dtype, context.load_in_4bit, MAX_TOKENS, texts])
    path = context.settings.root / "bands" / f"{key}.json"
    if path.is_file():
        return Band.model_validate_json(path.read_text(encoding="utf-8"))
    band = _measure(scorer, texts)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, band.model_dump_json())
    return band


def _gold_texts(context: Context) -> list[str]:
    """Worked reasonings, drawn from all rows: topics may take turns in them. Questions where no row has a reasoning."""
    for texts in ([row.reasoning for row in context.examples], [row.question for row in context.examples]):
        if some := [text for text in texts if words_of(text)]:
            return Random(0).sample(some, min(MEASURED_TEXTS, len(some)))
    raise ConfigError("rewards: fluency: no train rows to measure its band on: give fluent and gibberish")


def _measure(scorer: str, texts: Sequence[str]) -> Band:
    """1 between the 10th and 90th percentile of the texts' likelihood, 0 from the 10th of the shuffled ones on."""
    likelihoods = mean_nlls(scorer, texts, MAX_TOKENS)
    likely, fluent = _percentile(10, likelihoods), _percentile(90, likelihoods)
    gibberish = _percentile(10, mean_nlls(scorer, [_shuffled(text, n) for n, text in enumerate(texts)], MAX_TOKENS))
    if gibberish < fluent + SMALLEST_GAP:
        log.warning(
            "fluency: the scorer hardly tells the train rows (perplexity %.4g) from the same with their words shuffled "
            "(%.4g): it is not asked, and novelty alone counts. A larger scorer may see the difference",
            math.exp(fluent),
            math.exp(gibberish),
        )
        return Band(**OPEN)
    return Band(memorised=math.exp(likely - RISE), fluent=math.exp(fluent), gibberish=math.exp(gibberish))


def _percentile(percent: int, values: Iterable[float]) -> float:
    """The value of nearest rank."""
    ordered = sorted(values)
    return ordered[round(percent / 100 * (len(ordered) - 1))]


def _shuffled(text: str, seed: int) -> str:
    words = text.split()
    Random(seed).shuffle(words)
    return " ".join(words)
