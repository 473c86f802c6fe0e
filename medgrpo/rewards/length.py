"""Reward: does the completion come to its end before it is cut?"""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from medgrpo.errors import ConfigError
from medgrpo.rewards.reward import Context, Reward
from medgrpo.types import Rollout


class LengthReward(Reward):
    """1 up to `limit` - `soft` tokens, falling linearly to 0 at `limit`; 0 without an answer in form.

    The soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), moved from [-1, 0] to [0, 1].
    """

    kind: Literal["length"] = "length"
    """Chooses this reward."""
    limit: int | None = Field(default=None, ge=1)
    """Tokens of a completion from which on it earns nothing; None: where training cuts completions."""
    soft: int | None = Field(default=None, ge=1)
    """Tokens before the limit over which the reward falls; None: a fifth of the limit, rounded up."""

    @model_validator(mode="after")
    def _soft_fits(self) -> Self:
        if self.limit is not None and self.soft is not None and self.soft > self.limit:
            raise ValueError(f"soft ({self.soft}) must not be above limit ({self.limit})")
        return self

    def prepared(self, context: Context) -> Self:
        """The same with both numbers in place.

        Raises:
            ConfigError: `soft` is above the limit that training sets.
        """
        limit = self.limit or context.max_completion_tokens
        soft = self.soft or -(-limit // 5)
        if soft > limit:
            raise ConfigError(f"rewards: length: soft ({soft}) is above grpo.max_completion_tokens ({limit})")
        return self.model_copy(update={"limit": limit, "soft": soft})

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score a batch."""
        return [self._score(rollout) for rollout in rollouts]

    def full_marks(self, rollout: Rollout) -> float:
        """A gold completion that is itself too long for the limit can't be promised any."""
        return float(self._share(rollout.tokens) == 1.0)

    def _score(self, rollout: Rollout) -> float:
        return self._share(rollout.tokens) if self.is_answered(rollout) else 0.0

    def _share(self, tokens: int) -> float:
        if self.limit is None or self.soft is None:
            raise ConfigError("rewards: length has no limit yet: call prepared() first, or give limit and soft")
        return min(1.0, max(0.0, (self.limit - tokens) / self.soft))
