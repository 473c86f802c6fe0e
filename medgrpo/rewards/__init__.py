"""Rewards: one file each, named in `union.py`; sets of them in `presets.py`."""

from medgrpo.rewards.correct import CorrectReward
from medgrpo.rewards.custom import CustomReward
from medgrpo.rewards.fluency import FluencyReward
from medgrpo.rewards.format import FormatReward
from medgrpo.rewards.length import LengthReward
from medgrpo.rewards.original import OriginalPerplexityReward, OriginalSimilarityReward, OriginalTagsReward
from medgrpo.rewards.presets import PRESETS
from medgrpo.rewards.repetition import RepetitionReward
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.semantic import SemanticReward
from medgrpo.rewards.union import AnyReward
from medgrpo.rewards.verifier import VerifierReward

__all__ = [
    "PRESETS",
    "AnyReward",
    "Context",
    "CorrectReward",
    "CustomReward",
    "FluencyReward",
    "FormatReward",
    "LengthReward",
    "OriginalPerplexityReward",
    "OriginalSimilarityReward",
    "OriginalTagsReward",
    "RepetitionReward",
    "Reward",
    "SemanticReward",
    "VerifierReward",
]
