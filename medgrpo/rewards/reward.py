"""What every reward is: a frozen, picklable value that scores parsed completions."""

from abc import abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field

from medgrpo.judge import is_readable
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example, Frozen, Rollout


@dataclass(frozen=True)
class Context:
    """What a reward may be made ready with, before it scores anything."""

    base: BaseRef
    """The base model that is trained: the scorer, where a reward names none."""
    examples: Sequence[Example]
    """Rows of the train split, for bands that are measured once."""
    max_completion_tokens: int
    """Completions are cut at this many tokens."""
    settings: Settings
    """Where measured bands are kept."""
    dtype: str = "auto"
    """What the base model computes in, in training and so in scoring."""
    load_in_4bit: bool = False
    """Whether the base model is trained, and so scores, in 4 bits."""


class Reward(Frozen):
    """A reward with its settings. A subclass adds `kind: Literal["name"] = "name"`, its settings and `score`."""

    lowest: ClassVar[float] = 0.0
    """The least that `score` gives, and what the empty completion must get."""
    highest: ClassVar[float] = 1.0
    """The most that `score` gives."""
    is_cached: ClassVar[bool] = True
    """Whether a completion's score depends on it and its example alone, as it should."""

    kind: str
    weight: float = Field(default=1.0, gt=0)
    """Factor of this reward in the total reward."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Longest time that one batch may take, in seconds; a slower one stops the run."""

    @property
    def label(self) -> str:
        """What reports and metrics call it; no two rewards of a config share one."""
        return self.kind

    @property
    def is_async(self) -> bool:
        """Whether `score` gives an awaitable, so that several such rewards can wait at the same time."""
        return False

    def prepared(self, context: Context) -> Self:
        """The same reward, ready to score: models named, bands measured, the user's function found.

        Raises:
            UserError: it can't be made ready; the message says what to do.
        """
        return self

    @abstractmethod
    def score(self, rollouts: Sequence[Rollout]) -> Sequence[float] | Awaitable[Sequence[float]]:
        """Score a batch: one number in [`lowest`, `highest`] per rollout, in order, independent of the others.

        Raises:
            Exception: anything; it stops the run with the reward's name. A failure is never turned into a score.
        """

    def load(self) -> None:
        """Load the models that it scores with, so that none is loaded in the middle of a training."""

    def is_answered(self, rollout: Rollout) -> bool:
        """Whether a completion follows the grammar and gives one answer in its question's form: else it earns nothing.

        Else a reward for style would pay for a hedge behind a fine reasoning.
        """
        return is_readable(rollout.answer, rollout.example)

    def full_marks(self, rollout: Rollout) -> float:
        """What the gold completion of this example must reach in the audit; 0 where the reward can't promise any."""
        return 1.0

    def source(self) -> str:
        """Digest of code outside this package that decides the scores; empty where there is none."""
        return ""
