"""What every reward is: a frozen, picklable value that scores parsed completions in [0, 1]."""

from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from medgrpo.types import Frozen, Rollout


class Reward(Frozen):
    """A reward with its settings. A subclass adds `kind: Literal["name"] = "name"`, its settings and `score`."""

    kind: str
    weight: float = Field(default=1.0, gt=0)
    """Factor of this reward in the total reward."""

    @abstractmethod
    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch: one finite number in [0, 1] per rollout, in order, independent of the other rollouts.

        Raises:
            Exception: anything; it stops the run with the reward's name. A failure is never turned into a score.
        """

    def full_marks(self, rollout: Rollout) -> float:
        """What the gold completion of this example must reach in the audit; 0 where the reward can't promise any."""
        return 1.0
