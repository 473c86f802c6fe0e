"""The audit: a reward set proves itself on the user's own rows before it trains anything.

Every gold completion must reach full marks, the empty completion none, and every known cheat must earn less in
total than an honest wrong answer in the strict grammar.
"""

from collections.abc import Callable, Sequence

from medgrpo.answer import is_correct, parse, read_number, render_completion, render_gold, render_question
from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.errors import AuditFailed
from medgrpo.rewards.fluency import load_scorer
from medgrpo.rewards.reward import Reward
from medgrpo.rewards.scoring import bound, score, total
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Example, Frozen, Rollout

TOLERANCE = 1e-6
AUDITED_ROWS = 64

CHEATS: dict[str, Callable[[Example], str]] = {
    "empty completion": lambda _: "",
    "empty blocks": lambda _: render_completion("", ""),
    "gold without any block": lambda e: e.gold_text,
    "gold in the reasoning only": lambda e: f"<reasoning>{e.gold_text}</reasoning>",
    "question echoed": render_question,
    "repeated tags": lambda _: "<reasoning></reasoning><answer></answer>" * 8,
    "filler without an answer": lambda _: "<reasoning>" + "Let us think step by step. " * 40 + "</reasoning>",
    "gold and a second answer": lambda e: render_gold(e) + "\n<answer>unsure</answer>",
}
"""Name → completion that must not pay. Each earns less than an honest wrong answer, or the reward set is refused."""


class AuditRow(Frozen):
    """What one family of completions earned, on average and at most, over the audited rows."""

    family: str
    mean: float
    highest: float
    passed: bool
    example: str
    """The row on which it earns most, measured from the honest wrong answer."""
    reward: str
    """The reward that pays most there."""


class AuditReport(Frozen):
    """The audit of a reward set on rows of a dataset."""

    rows: int
    families: tuple[AuditRow, ...]

    @property
    def failures(self) -> tuple[AuditRow, ...]:
        """Families that the reward set pays wrongly."""
        return tuple(row for row in self.families if not row.passed)


def audit_config(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> AuditReport:
    """Audit a config's rewards on the first train rows of its dataset; see `audit`."""
    examples = read_split(dataset, "train", settings)[:AUDITED_ROWS]
    try:
        return audit(bound(config.rewards, base), examples)
    finally:
        load_scorer.cache_clear()  # the training process loads its own: don't keep a second base model in memory


def audit(rewards: Sequence[Reward], examples: Sequence[Example]) -> AuditReport:
    """Audit a reward set on these examples.

    Raises:
        AuditFailed: a gold completion misses full marks, the empty completion earns something, or a cheat pays; the
            message names reward, family and row.
    """
    _require_full_marks(rewards, examples)
    _require_nothing_for_nothing(rewards, examples)
    honest = total(rewards, [_rollout(example, _honest_wrong(example)) for example in examples])
    rows = [_audit_cheat(name, cheat, rewards, examples, honest) for name, cheat in CHEATS.items()]
    report = AuditReport(rows=len(examples), families=tuple(rows))
    if report.failures:
        table = "; ".join(
            f"'{row.family}' earns up to {row.highest:.3f} (example '{row.example}', most from reward '{row.reward}')"
            for row in report.failures
        )
        raise AuditFailed(
            f"the reward set pays known cheats like an honest wrong answer ({min(honest):.3f} or more): {table}. "
            "Lower the weight of the term that pays, or make it stricter."
        )
    return report


def _require_full_marks(rewards: Sequence[Reward], examples: Sequence[Example]) -> None:
    golds = [_rollout(example, render_gold(example)) for example in examples]
    for reward in rewards:
        for rollout, value in zip(golds, score(reward, golds), strict=True):
            if value < reward.full_marks(rollout) - TOLERANCE:
                raise AuditFailed(
                    f"reward '{reward.kind}' gives {value:.3f} to the gold answer of example '{rollout.example.id}': "
                    f"check that its gold {rollout.example.gold!r} is an answer to the question"
                )


def _require_nothing_for_nothing(rewards: Sequence[Reward], examples: Sequence[Example]) -> None:
    blanks = [_rollout(example, "") for example in examples]
    for reward in rewards:
        for rollout, value in zip(blanks, score(reward, blanks), strict=True):
            if value > TOLERANCE:
                raise AuditFailed(
                    f"reward '{reward.kind}' gives {value:.3f} to the empty completion of example "
                    f"'{rollout.example.id}': a policy that says nothing must earn nothing"
                )


def _audit_cheat(
    name: str,
    cheat: Callable[[Example], str],
    rewards: Sequence[Reward],
    examples: Sequence[Example],
    honest: Sequence[float],
) -> AuditRow:
    rollouts = [_rollout(example, cheat(example)) for example in examples]
    earned = total(rewards, rollouts)
    worst = max(range(len(earned)), key=lambda place: earned[place] - honest[place])
    payer = max(rewards, key=lambda reward: reward.weight * score(reward, rollouts[worst : worst + 1])[0])
    return AuditRow(
        family=name,
        mean=sum(earned) / len(earned),
        highest=max(earned),
        passed=earned[worst] < honest[worst],
        example=rollouts[worst].example.id,
        reward=payer.kind,
    )


def _honest_wrong(example: Example) -> str:
    """A completion in the strict grammar with the example's reasoning and an answer that isn't right."""
    if example.kind == "choice":
        answer = next(letter for letter in example.options if letter != example.gold)
    elif example.kind == "numeric":
        highest = example.limits[1] if example.limits else read_number(example.gold) + example.tolerance
        answer = f"{highest + abs(highest) + 10 * example.tolerance + 1:g}"
    elif example.kind == "date":
        answer = next(day for day in ("01/01/1900", "01/02/1900") if not is_correct(day, example))
    else:
        answer = next(text for text in ("none of these", "something else") if not is_correct(text, example))
    assert not is_correct(answer, example)
    return render_completion(example.reasoning or "The facts in the question lead to this.", answer)


def _rollout(example: Example, completion: str) -> Rollout:
    return Rollout(example=example, completion=completion, parsed=parse(completion))
