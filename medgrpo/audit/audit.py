"""The audit: a reward set proves itself on the user's own rows before it trains anything.

Every gold completion must reach full marks, the empty completion the least, and every known cheat must earn less than
an honest wrong answer in the strict grammar. How much of the rest of the signal is right is measured beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from medgrpo.answer import parse
from medgrpo.audit.cheats import FAMILIES, Family, Rule
from medgrpo.audit.honest import Row, make_row
from medgrpo.audit.page import TEMPLATE, describe_refusal, render_page
from medgrpo.audit.ranking import Encode, make_pairs, rank
from medgrpo.audit.report import AVERAGE_TOLERANCE, TOLERANCE, AuditReport, FamilyRow, RewardRow
from medgrpo.config import Config
from medgrpo.data.patient_data import mask
from medgrpo.data.store import read_split
from medgrpo.errors import AuditFailed, BaseModelError, TrackingError
from medgrpo.fingerprint import digest, source_digest, write_whole
from medgrpo.keys import rewards_digest, trainer_source
from medgrpo.page import template_digest
from medgrpo.progress import phases
from medgrpo.rewards.reward import Context, Reward
from medgrpo.rewards.scorer import forget_scorers
from medgrpo.rewards.scoring import RewardSet, prepared
from medgrpo.rewards.semantic import SemanticReward, load_encoder
from medgrpo.settings import Settings
from medgrpo.tracking import log_files
from medgrpo.types import BaseRef, DatasetRef, Example, Rollout, RunRef

AUDITED_ROWS = 64
"""Train rows that a config's rewards are audited on."""
SHOWN_CHARACTERS = 160
"""Longest text that is shown of a completion or a gold."""
PAGE, FIGURES = "report.html", "report.json"

CountTokens = Callable[[str], int]
Terms = Mapping[str, float]


def audit(
    rewards: Sequence[Reward],
    examples: Sequence[Example],
    encode: Encode | None = None,
    count_tokens: CountTokens = lambda text: len(text.split()),
    configured: Sequence[Reward] | None = None,
) -> AuditReport:
    """Audit a reward set on these examples; what it pays wrongly is in the report, not raised.

    Args:
        rewards: ready to score (`scoring.prepared`).
        encode: for plain similarity's ranking accuracy; None: that is left out.
        count_tokens: the length of a completion, as rewards for length read it.
        configured: the same rewards before they were prepared, so that the report tells what was measured.

    Raises:
        RewardError: a reward raised, or gave what is no score.
    """
    asked = RewardSet(rewards)
    with phases("audit", len(examples) + 1) as next_phase:
        audited = []
        for place, example in enumerate(examples):
            next_phase(f"row {place + 1} of {len(examples)}")
            audited.append(_audit_row(asked, make_row(example, _after(place, examples)), count_tokens))
        next_phase("ranking")
        ranking = rank(asked, make_pairs(examples), encode)
    pairs = zip(rewards, configured or rewards, strict=True)
    judged = [_reward_row(reward, audited, _measured(reward, before)) for reward, before in pairs]
    families = tuple(row for family in FAMILIES if (row := _family_row(family, audited)) is not None)
    passed = all(row.passed for row in families) and all(row.pays_gold and row.pays_nothing for row in judged)
    return AuditReport(rows=len(examples), rewards=tuple(judged), families=families, ranking=ranking, passed=passed)


class _Try(NamedTuple):
    """A cheat on a row, and the honest wrong answer that it is compared with."""

    rollout: Rollout
    terms: Terms
    honest_terms: Terms

    @property
    def margin(self) -> float:
        return sum(self.terms.values()) - sum(self.honest_terms.values())


class _Audited(NamedTuple):
    """What was earned on one row."""

    gold: Rollout
    gold_terms: Terms
    empty_terms: Terms
    tries: Mapping[str, Sequence[_Try]]
    """By family."""


def _after(place: int, examples: Sequence[Example]) -> Iterator[Example]:
    """The other rows, beginning with the next one."""
    yield from examples[place + 1 :]
    yield from examples[:place]


def _audit_row(asked: RewardSet, row: Row, count_tokens: CountTokens) -> _Audited:
    """Score all that is known of a row in one batch."""
    cheats = {family.name: tuple(family.build(row)) for family in FAMILIES}
    texts = list(dict.fromkeys([row.right, "", *row.honest(), *(text for made in cheats.values() for text in made)]))
    rollouts = {text: _rollout(row.example, text, count_tokens) for text in texts}
    terms = dict(zip(texts, asked.terms(list(rollouts.values())), strict=True))
    honest = dict(zip(row.wrong, (terms[text] for text in row.honest()), strict=True))
    lowest = min(honest.values(), key=lambda found: sum(found.values()))

    def tried(text: str) -> _Try:
        """A cheat that gives an honest answer is compared with the one that gives the same."""
        return _Try(rollouts[text], terms[text], honest.get(rollouts[text].parsed.answer or "", lowest))

    tries = {name: [tried(text) for text in made] for name, made in cheats.items()}
    return _Audited(rollouts[row.right], terms[row.right], terms[""], tries)


def _rollout(example: Example, completion: str, count_tokens: CountTokens) -> Rollout:
    return Rollout(example=example, completion=completion, parsed=parse(completion), tokens=count_tokens(completion))


def _measured(reward: Reward, before: Reward) -> dict[str, float]:
    """The numbers that preparing a reward put in."""
    given = before.model_dump()
    numbers = {name: value for name, value in reward.model_dump().items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if value != given.get(name)}


def _reward_row(reward: Reward, audited: Sequence[_Audited], measured: dict[str, float]) -> RewardRow:
    def short(row: _Audited) -> float:
        return reward.full_marks(row.gold) - row.gold_terms[reward.label] / reward.weight

    worst = max(audited, key=short)
    paid = max(audited, key=lambda row: row.empty_terms[reward.label])
    return RewardRow(
        label=reward.label,
        weight=reward.weight,
        promised=reward.full_marks(worst.gold),
        least=worst.gold_terms[reward.label] / reward.weight,
        missed=sum(short(row) > TOLERANCE for row in audited),
        example=worst.gold.example.id,
        gold=_shown(worst.gold.example.gold_text),
        lowest=reward.lowest,
        empty=paid.empty_terms[reward.label] / reward.weight,
        empty_example=paid.gold.example.id,
        measured=measured,
    )


def _family_row(family: Family, audited: Sequence[_Audited]) -> FamilyRow | None:
    """The family's worst completion; None where it applies to no row."""
    tries = [found for row in audited for found in row.tries[family.name]]
    if not tries:
        return None
    worst = max(tries, key=lambda found: found.margin)
    margin = _average(family, audited) if family.rule == "not above on average" else worst.margin
    over = {label: paid - worst.honest_terms[label] for label, paid in worst.terms.items()}
    payer = max(over, key=lambda label: over[label])
    return FamilyRow(
        family=family.name,
        meaning=family.meaning,
        rule=family.rule,
        tried=len(tries),
        margin=margin,
        terms=dict(worst.terms),
        honest_terms=dict(worst.honest_terms),
        example=worst.rollout.example.id,
        completion=_shown(worst.rollout.completion),
        payer=payer if over[payer] > TOLERANCE else "",
        passed=_keeps(family.rule, margin, sum(worst.honest_terms.values())),
    )


def _average(family: Family, audited: Sequence[_Audited]) -> float:
    """The margin over all rows of the family's completion that earns most: each has a place of its own in every row."""
    by_place = zip_longest(*(row.tries[family.name] for row in audited))
    return max(fmean(found.margin for found in place if found is not None) for place in by_place)


def _keeps(rule: Rule, margin: float, bar: float) -> bool:
    """Whether a margin keeps its family's rule."""
    if rule == "below":
        return margin < -TOLERANCE
    return margin <= (AVERAGE_TOLERANCE * bar if rule == "not above on average" else TOLERANCE)


def _shown(text: str) -> str:
    """What is shown of a text: its beginning on one line, masked before it is cut, as half a number isn't found."""
    line = " ".join(mask(text[: 4 * SHOWN_CHARACTERS]).split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1].rstrip() + "…"


def audit_config(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> AuditReport:
    """Audit a config's rewards, prepared as training prepares them, on the first of its train rows; see `audit`.

    Report and page are kept at `page_path`: the same audit is found again there.
    """
    if found := read_audit(config, base, dataset, settings):
        return found
    examples = read_split(dataset, "train", settings)
    try:
        rewards = prepared(config.rewards, _context(config, base, examples, settings))
        count_tokens = _token_counter(base)
        report = audit(rewards, examples[:AUDITED_ROWS], _encode(rewards), count_tokens, config.rewards)
    finally:
        forget_scorers()  # the training process loads its own: don't keep a second base model in memory
    page = page_path(config, base, dataset, settings)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, render_page(config.name, report))
    write_whole(page.with_name(FIGURES), report.model_dump_json(indent=1) + "\n")  # last: what is found is whole
    return report


def _context(config: Config, base: BaseRef, examples: Sequence[Example], settings: Settings) -> Context:
    """All train rows, as in training: what is measured on a part of them would be another band."""
    policy = config.policy
    return Context(base, examples, config.grpo.max_completion_tokens, settings, policy.dtype, policy.load_in_4bit)


def audit_for_run(config: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings) -> AuditReport:
    """Audit a config's rewards, and store report and page in the run whether they pass or not.

    Raises:
        AuditFailed: the reward set is refused; the message shows which term pays for which cheat.
        TrackingError: the rewards passed, but MLflow doesn't take the report.
    """
    report = audit_config(config, base, dataset, settings)
    page = page_path(config, base, dataset, settings)
    files = [page.with_name(FIGURES), page]
    if report.passed:
        log_files(run.run_id, files, "audit", settings)
        return report
    with suppress(TrackingError):  # what is wrong with the rewards matters more than where it is told
        log_files(run.run_id, files, "audit", settings)
    raise AuditFailed(describe_refusal(report, page))


def audit_key(config: Config, base: BaseRef, dataset: DatasetRef) -> str:
    """Key of an audit: rewards, the rows, the base that scores, and the code that judges and shows."""
    scored = [config.grpo.max_completion_tokens, config.policy.dtype, config.policy.load_in_4bit]
    told = [config.name, rewards_digest(config), *scored]
    code = [trainer_source(), source_digest("audit"), template_digest(TEMPLATE)]
    return digest(["audit", told, dataset, base.digest, code])


def page_path(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> Path:
    """Where an audit's page lies, or will lie; the report is beside it."""
    return settings.root / "audits" / audit_key(config, base, dataset) / PAGE


def read_audit(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> AuditReport | None:
    """The stored outcome of an audit, or None."""
    path = page_path(config, base, dataset, settings).with_name(FIGURES)
    return AuditReport.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _encode(rewards: Sequence[Reward]) -> Encode | None:
    """The encoder that the rewards use, else the default one; None where that isn't installed."""
    named = [reward.encoder for reward in rewards if isinstance(reward, SemanticReward) and reward.architecture == "bi"]
    try:
        encoder = load_encoder(named[0] if named else SemanticReward().encoder)
    except BaseModelError:
        return None
    return lambda texts: encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def _token_counter(base: BaseRef) -> CountTokens:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
