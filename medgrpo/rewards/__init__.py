"""Rewards: one file each. To add one, write its class and name it in `AnyReward`."""

from typing import Annotated

from pydantic import Field

from medgrpo.rewards.correct import CorrectReward
from medgrpo.rewards.fluency import FluencyReward
from medgrpo.rewards.format import FormatReward
from medgrpo.rewards.reward import Reward
from medgrpo.rewards.semantic import SemanticReward

AnyReward = Annotated[
    CorrectReward | FormatReward | SemanticReward | FluencyReward,
    Field(discriminator="kind"),
]

__all__ = ["AnyReward", "CorrectReward", "FluencyReward", "FormatReward", "Reward", "SemanticReward"]
