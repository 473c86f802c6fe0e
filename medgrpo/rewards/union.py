"""Every reward there is, by kind. A new one is named here."""

from typing import Annotated

from pydantic import Field

from medgrpo.rewards.correct import CorrectReward
from medgrpo.rewards.custom import CustomReward
from medgrpo.rewards.fluency import FluencyReward
from medgrpo.rewards.format import FormatReward
from medgrpo.rewards.length import LengthReward
from medgrpo.rewards.original import OriginalPerplexityReward, OriginalSimilarityReward, OriginalTagsReward
from medgrpo.rewards.repetition import RepetitionReward
from medgrpo.rewards.semantic import SemanticReward
from medgrpo.rewards.verifier import VerifierReward

AnyReward = Annotated[
    CorrectReward
    | FormatReward
    | SemanticReward
    | FluencyReward
    | LengthReward
    | RepetitionReward
    | VerifierReward
    | CustomReward
    | OriginalSimilarityReward
    | OriginalPerplexityReward
    | OriginalTagsReward,
    Field(discriminator="kind"),
]
