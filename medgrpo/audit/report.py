"""What an audit found, as other stages, pages and people read it."""

from medgrpo.audit.cheats import Rule
from medgrpo.audit.ranking import RankingRow
from medgrpo.types import Frozen

TOLERANCE = 1e-6
"""Scores that differ by less count as equal: sums of floats do."""

AVERAGE_TOLERANCE = 0.02
"""Share of the honest answer's total by which an average may be above it: rows with a copied reasoning are noise."""


class RewardRow(Frozen):
    """What one reward gave to the gold answers and to the empty completion; unweighted scores."""

    label: str
    weight: float
    promised: float
    """Full marks: what it says a gold answer gets, on the row where the gold answer misses it most."""
    least: float
    """What the gold answer of that row got."""
    missed: int
    """Rows whose gold answer got less than promised."""
    example: str
    """That row."""
    gold: str
    """Its gold, as far as it may be shown."""
    lowest: float
    """The least that the reward gives: what the empty completion must get."""
    empty: float
    """The most that the empty completion got."""
    empty_example: str
    """The row on which it did."""
    measured: dict[str, float]
    """Its settings that were measured, or taken from the rest of the config: what it says in training."""

    @property
    def pays_gold(self) -> bool:
        """Whether every gold answer got full marks."""
        return not self.missed

    @property
    def pays_nothing(self) -> bool:
        """Whether the empty completion got the least."""
        return self.empty <= self.lowest + TOLERANCE


class FamilyRow(Frozen):
    """The completion of one family of cheats that comes closest to paying, or pays most."""

    family: str
    meaning: str
    rule: Rule
    tried: int
    """Completions that were scored."""
    margin: float
    """What the completion earned in total, less what the honest wrong answer did; by the rule on average over rows."""
    terms: dict[str, float]
    """Reward → weight × score of the completion."""
    honest_terms: dict[str, float]
    """The same of the honest wrong answer that it was compared with."""
    example: str
    completion: str
    """How it begins, patient data masked."""
    payer: str
    """The reward that pays it most over the honest answer; empty: none pays it more."""
    passed: bool

    @property
    def earned(self) -> float:
        """The completion's total."""
        return sum(self.terms.values())

    @property
    def bar(self) -> float:
        """The honest wrong answer's total."""
        return sum(self.honest_terms.values())


class AuditReport(Frozen):
    """The audit of a reward set on rows of a dataset."""

    rows: int
    rewards: tuple[RewardRow, ...]
    families: tuple[FamilyRow, ...]
    """Every family that applies to at least one row."""
    ranking: tuple[RankingRow, ...]
    passed: bool

    @property
    def failures(self) -> tuple[FamilyRow, ...]:
        """Families that the reward set pays."""
        return tuple(row for row in self.families if not row.passed)

    @property
    def faults(self) -> tuple[RewardRow, ...]:
        """Rewards that withhold marks from a gold answer or pay for the empty completion."""
        return tuple(row for row in self.rewards if not (row.pays_gold and row.pays_nothing))
