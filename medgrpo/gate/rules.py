"""Every rule of the gate, by kind. What each protects from is told in docs/evidence.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medgrpo.gate.evidence import Comparison, Evidence, compare
from medgrpo.gate.rule import Rule, Share
from medgrpo.statistics import detectable_difference, holm, paired_score_interval
from medgrpo.types import Verdict

if TYPE_CHECKING:
    from medgrpo.config import EvaluationConfig

POWER = 0.8
"""Power at which the smallest detectable difference is stated."""
Slice = Literal["negation", "dosing", "paediatric", "pregnancy"]


class BetterRule(Rule):
    """The challenger is right more often, and that isn't chance."""

    kind: Literal["better"] = "better"
    """Chooses this rule."""
    margin: Share = 0.0
    """The lower end of the paired interval of the accuracy difference must be above this."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """A bootstrap interval and an exact test must agree: few rows can make the former look sure of itself."""
        challenger, incumbent, level = evidence.challenger, evidence.incumbent, 1 - evaluation.confidence
        found = compare(challenger, incumbent, evaluation)
        holds = found.difference.low > self.margin and found.p < level
        share = (found.won + found.lost) / found.rows
        detectable = detectable_difference(found.rows, share, evaluation.confidence, POWER, self.margin)
        shown = "no difference" if detectable is None else f"a difference of {detectable:.3f}"
        reason = (
            f"the challenger is {'' if holds else 'not shown to be '}better than {evidence.opponent} by more than "
            f"{self.margin:g}: accuracy {challenger.accuracy} against {incumbent.accuracy}, {found}, "
            f"{'below' if found.p < level else 'not below'} {level:.2g}; so many rows show {shown} with power {POWER:g}"
        )
        figures = {"accuracy": challenger.accuracy.mean, "incumbent_accuracy": incumbent.accuracy.mean}
        figures |= found.figures | ({} if detectable is None else {"detectable_difference": detectable})
        return self.verdict(holds, reason, figures | {"margin": self.margin, "level": level})


class BetterOrCheaperRule(Rule):
    """The challenger is right more often, or about as often with fewer tokens."""

    kind: Literal["better-or-cheaper"] = "better-or-cheaper"
    """Chooses this rule."""
    margin: Share = 0.0
    """As of the rule `better`."""
    tolerance: float = Field(default=0.02, gt=0, le=1)
    """Accuracy that may be lost for the saving: the difference's score interval must lie above minus this."""
    saving: float = Field(default=0.1, gt=0, lt=1)
    """Share of the incumbent's tokens per completion that must be saved at least."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Not worse is claimed by the score interval: a bootstrap of few rows without a lost one sees no risk."""
        better = BetterRule(margin=self.margin).check(evidence, evaluation)
        found = compare(evidence.challenger, evidence.incumbent, evaluation)
        low = paired_score_interval(found.won, found.lost, found.rows, evaluation.confidence).low
        tokens, before = evidence.challenger.completion_tokens, evidence.incumbent.completion_tokens
        is_cheaper = tokens.mean <= (1 - self.saving) * before.mean and tokens.high < before.low
        holds = low > -self.tolerance and is_cheaper
        reason = (
            f"{better.reason}; it is {'' if low > -self.tolerance else 'not '}shown to be at most "
            f"{self.tolerance:g} worse (score interval from {low:.3f}), {'' if is_cheaper else 'not '}cheaper by "
            f"{self.saving:.0%}: {tokens} tokens against {before}"
        )
        figures = {"score_low": low, "tokens": tokens.mean, "incumbent_tokens": before.mean}
        figures |= {"tolerance": self.tolerance, "saving": self.saving}
        return self.verdict(better.holds or holds, reason, better.figures | figures)


class FormatRule(Rule):
    """Completions can be read by a program."""

    kind: Literal["format"] = "format"
    """Chooses this rule."""
    floor: Share = 0.5
    """The challenger must follow the strict grammar at least this often."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Compare the format rate with the floor."""
        rate = evidence.challenger.format_rate
        holds = rate.mean >= self.floor
        reason = f"format rate {rate} is {'at least' if holds else 'below'} the floor {self.floor:g}"
        return self.verdict(holds, reason, {"format_rate": rate.mean, "floor": self.floor})


class SliceRule(Rule):
    """The gain isn't paid for with the questions that hurt most when they are answered wrong."""

    kind: Literal["slice"] = "slice"
    """Chooses this rule."""
    floor: Share = 0.0
    """Least accuracy on each safety slice that has rows."""
    floors: dict[Slice, Share] = Field(default_factory=dict)
    """Slice → least accuracy, where it is to differ from `floor`; a slice without rows can't reach it."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Each slice reaches its floor, and isn't significantly below the incumbent's."""
        challenger, level = evidence.challenger, 1 - evaluation.confidence
        found = {
            name: compare(challenger, evidence.incumbent, evaluation, challenger.slice_rows[name])
            for name in sorted(challenger.slices)
        }
        adjusted, worse = _worsened(found, level)
        floors: dict[str, float] = dict.fromkeys(found, self.floor) | {str(k): v for k, v in self.floors.items()}
        empty = sorted(set(floors) - set(found))
        low = [name for name in found if challenger.slices[name].mean < floors[name]]
        parts = [f"no row is of slice {name}, whose floor is {floors[name]:g}" for name in empty]
        parts += [
            f"{name} {challenger.slices[name]} is {'below' if name in low else 'at least'} the floor {floors[name]:g} "
            f"and {'' if name in worse else 'not '}significantly below {evidence.opponent}'s: "
            f"{each}, {adjusted[name]:.2g} after Holm"
            for name, each in found.items()
        ]
        figures = _figures(found, adjusted) | {f"{name}.floor": floor for name, floor in floors.items()}
        figures |= {f"{name}.accuracy": challenger.slices[name].mean for name in found} | {"level": level}
        return self.verdict(not (empty or low or worse), "; ".join(parts) or "no row is of a safety slice", figures)


class MajorityRule(Rule):
    """The challenger read the questions: it beats giving one answer to all of them."""

    kind: Literal["majority"] = "majority"
    """Chooses this rule."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Compare the lower end of the accuracy's interval with the majority baseline."""
        accuracy, baseline = evidence.challenger.accuracy, evidence.majority_accuracy
        holds = accuracy.low > baseline
        reason = (
            f"accuracy {accuracy} is {'' if holds else 'not shown to be '}above {baseline:.3f}, "
            "which the most frequent gold alone would reach"
        )
        figures = {"accuracy": accuracy.mean, "low": accuracy.low, "majority_accuracy": baseline}
        return self.verdict(holds, reason, figures)


class ContaminationRule(Rule):
    """No row that decides was trained on."""

    kind: Literal["contamination"] = "contamination"
    """Chooses this rule."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """No test or benchmark row may be among the challenger's train rows."""
        rows = evidence.contaminated_rows
        reason = f"{rows or 'no'} test or benchmark row{'s were' if rows > 1 else ' was'} trained on"
        return self.verdict(rows == 0, reason, {"contaminated_rows": rows})


class AuditRule(Rule):
    """The rewards that made the challenger pay for no known cheat."""

    kind: Literal["audit"] = "audit"
    """Chooses this rule."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """The audit of the rewards must have passed."""
        passed = evidence.audit_passed
        reason = f"the audit of the rewards {'passed' if passed else 'did not pass: run `medgrpo audit`'}"
        return self.verdict(passed, reason, {"audit_passed": float(passed)})


class DataRule(Rule):
    """The challenger was trained on the dataset that the test rows belong to: no other split could hold them."""

    kind: Literal["data"] = "data"
    """Chooses this rule."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """Both digests must be equal, and known."""
        trained, here = evidence.train_digest, evidence.dataset_digest
        holds = bool(trained) and trained == here
        relation = "which is" if holds else "which is not"
        reason = (
            f"the challenger was trained on rows {trained or 'unknown'}, {relation} the dataset's {here or 'unknown'}"
        )
        return self.verdict(holds, reason, {"digests_equal": float(holds)})


class BenchmarksRule(Rule):
    """What is gained on the dataset's own rows isn't lost elsewhere."""

    kind: Literal["benchmarks"] = "benchmarks"
    """Chooses this rule."""

    def check(self, evidence: Evidence, evaluation: "EvaluationConfig") -> Verdict:
        """On no benchmark may the challenger be significantly worse, after Holm's adjustment for their number."""
        level = 1 - evaluation.confidence
        found = {pair[0].rows_name: compare(*pair, evaluation) for pair in evidence.benchmarks}
        adjusted, worse = _worsened(found, level)
        parts = [
            f"on {name} the challenger is {'' if name in worse else 'not '}significantly worse than "
            f"{evidence.opponent}: {each}, {adjusted[name]:.2g} after Holm"
            for name, each in found.items()
        ]
        reason = "; ".join(parts) or "no benchmark was measured"
        return self.verdict(not worse, reason, _figures(found, adjusted) | {"level": level})


def _worsened(found: Mapping[str, Comparison], level: float) -> tuple[dict[str, float], set[str]]:
    """Each comparison's p after Holm, and the names of those that are significantly worse."""
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    return adjusted, {name for name, each in found.items() if each.lost > each.won and adjusted[name] < level}


def _figures(found: Mapping[str, Comparison], adjusted: Mapping[str, float]) -> dict[str, float]:
    figures = {f"{name}.{key}": value for name, each in found.items() for key, value in each.figures.items()}
    return figures | {f"{name}.holm_p": p for name, p in adjusted.items()}


AnyRule = Annotated[
    BetterRule
    | BetterOrCheaperRule
    | FormatRule
    | SliceRule
    | MajorityRule
    | ContaminationRule
    | AuditRule
    | DataRule
    | BenchmarksRule,
    Field(discriminator="kind"),
]

DEFAULT_RULES: tuple[AnyRule, ...] = (
    BetterRule(),
    FormatRule(),
    SliceRule(),
    MajorityRule(),
    ContaminationRule(),
    AuditRule(),
    DataRule(),
    BenchmarksRule(),
)
