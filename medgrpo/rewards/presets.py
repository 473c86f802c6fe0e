"""Reward sets with a name: `rewards = "corrected"` in a config."""

from collections.abc import Mapping

from medgrpo.rewards.correct import CorrectReward
from medgrpo.rewards.fluency import FluencyReward
from medgrpo.rewards.format import FormatReward
from medgrpo.rewards.original import OriginalPerplexityReward, OriginalSimilarityReward, OriginalTagsReward
from medgrpo.rewards.semantic import SemanticReward
from medgrpo.rewards.union import AnyReward

PRESETS: Mapping[str, tuple[AnyReward, ...]] = {
    "default": (
        CorrectReward(),
        FormatReward(weight=0.5),
        SemanticReward(weight=0.2),
        FluencyReward(weight=0.1),
    ),
    "corrected": (
        SemanticReward(weight=0.5),
        FluencyReward(weight=0.4),
        FormatReward(weight=0.1),
    ),
    "original": (
        OriginalSimilarityReward(weight=0.5),
        OriginalPerplexityReward(weight=0.4),
        OriginalTagsReward(weight=0.1),
    ),
}
"""Name → rewards. `original` is the notebook's sum, kept to be compared with: the audit refuses it. `corrected` has its
weights and measures what they were meant for."""
