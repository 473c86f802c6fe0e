"""Promotion: who the challenger must beat, what the gate says of it, and what follows from that."""

import getpass
import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from medgrpo import registry
from medgrpo.audit.audit import audit_config
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.data.facts import question_hash
from medgrpo.data.store import read_benchmark, read_split
from medgrpo.errors import NotFoundError, UserError
from medgrpo.gate import Evidence, decide
from medgrpo.promotion import moves
from medgrpo.promotion.audit_log import Mover
from medgrpo.serve.check import check_champion
from medgrpo.settings import Settings
from medgrpo.types import (
    BaseRef,
    CheckpointRef,
    DatasetRef,
    Decision,
    EvalReport,
    Frozen,
    ModelVersionRef,
    Outcome,
)

log = logging.getLogger(__name__)


class Incumbent(Frozen):
    """A version with its own base and prompt, ready to be evaluated: the champion, or the base model in its place."""

    config: Config
    base: BaseRef
    checkpoint: CheckpointRef
    version: ModelVersionRef | None


class Proposal(Frozen):
    """What the gate says about a challenger, and which champion it was compared with."""

    version: ModelVersionRef
    compared_with: int | None
    """The champion's version; None: there was none, and the base model stood for it."""
    decision: Decision

    @property
    def is_open(self) -> bool:
        """Whether the champion is to be moved: the gate says so, and the version isn't the champion already."""
        return self.decision.promote and self.compared_with != self.version.version


def find_incumbent(config: Config, settings: Settings) -> Incumbent:
    """What the challenger must beat: the champion, or the base model where there is no champion.

    The champion answers with the prompt that it was trained with, on the rows of this config. A promotion that was cut
    off is finished first.

    Raises:
        NotFoundError: the champion's files are not what the registry says.
        BaseModelError: the champion's base model can't be found.
        PromotionStopped: a version whose promotion was cut off doesn't answer, and was taken back.
    """
    moves.settle(config.model_name, _serving(config, settings), settings)
    champion = registry.find(config.model_name, "champion", settings)
    if champion is None:
        base = resolve(config.policy.base, settings)
        return Incumbent(config=config, base=base, checkpoint=CheckpointRef.base(), version=None)
    return ready(config, champion, settings)


def ready(config: Config, version: ModelVersionRef, settings: Settings) -> Incumbent:
    """A version ready to be evaluated on a config's rows, with the prompt and the base that it was trained with.

    Raises:
        NotFoundError: its files are not what the registry says.
        BaseModelError: its base model can't be found.
    """
    _, card = registry.fetch(version, settings)
    own = config.model_copy(update={"policy": card.config.policy, "prompt": card.config.prompt})
    base = registry.resolve_base(version, card, settings)
    return Incumbent(config=own, base=base, checkpoint=card.checkpoint, version=version)


def find_version(config: Config, version: str, settings: Settings) -> Incumbent:
    """A version by its number or alias, ready to be evaluated.

    Raises:
        UserError: neither a number nor an alias, or nothing has this alias.
        NotFoundError: there is no such version, or its files are not what the registry says.
    """
    name = config.model_name
    if version.isdecimal():
        return ready(config, registry.get(name, int(version), settings), settings)
    if version not in get_args(registry.Alias):
        raise UserError(f"--version {version}: give a number, {', '.join(get_args(registry.Alias))}")
    found = registry.find(name, version, settings)  # type: ignore[arg-type]  # it is one of them
    if found is None:
        raise UserError(f"{name} has no {version} yet: `medgrpo history` tells what was promoted")
    return ready(config, found, settings)


def gather_evidence(
    config: Config,
    dataset: DatasetRef,
    version: ModelVersionRef,
    challenger: EvalReport,
    incumbent: EvalReport,
    benchmarks: Sequence[tuple[EvalReport, EvalReport]],
    settings: Settings,
) -> Evidence:
    """All that the gate looks at. What the challenger was trained on and with is read from its card.

    Args:
        challenger: the best checkpoint's report on the test rows.
        incumbent: the champion's report on the same rows, or the base model's.
        benchmarks: the two's reports on each benchmark.

    Raises:
        NotFoundError: the rows that the challenger was trained on aren't on this disk.
    """
    card = registry.read_card(version, settings)
    tested = read_split(dataset, "test", settings)
    held_out = [*tested, *(row for name in dataset.benchmarks for row in read_benchmark(dataset, name, settings))]
    # Word for word: rewritten benchmark questions are looked for, and left out, when a dataset is prepared.
    trained = {question_hash(row) for row in read_split(card.dataset, "train", settings)}
    golds = Counter(row.gold for row in tested)
    return Evidence(
        challenger=challenger,
        incumbent=incumbent,
        incumbent_is_base=incumbent.checkpoint.is_base,
        benchmarks=tuple(benchmarks),
        majority_accuracy=max(golds.values()) / len(tested),
        contaminated_rows=sum(question_hash(row) in trained for row in held_out),
        audit_passed=audit_config(card.config, card.base, card.dataset, settings).passed,
        train_digest=card.dataset.digests["train"],
        dataset_digest=dataset.digests["train"],
    )


def weigh(
    config: Config, version: ModelVersionRef, champion: int | None, evidence: Evidence, settings: Settings
) -> Proposal:
    """Ask the gate, and store its decision beside the version. Moves nothing.

    A version that is the champion already keeps the decision that made it so.

    Args:
        champion: the version that the incumbent's reports are about; None: the base model.
    """
    if champion == version.version:
        try:
            return Proposal(version=version, compared_with=champion, decision=registry.read_decision(version, settings))
        except NotFoundError:
            log.warning("%s version %d was made champion without a decision", version.name, version.version)
    decision = decide(evidence, config.gate, config.evaluation)
    registry.record(version, decision, champion, settings)
    return Proposal(version=version, compared_with=champion, decision=decision)


def read_proposal(config: Config, settings: Settings) -> Proposal:
    """The challenger with its stored decision.

    Raises:
        NotFoundError: there is no challenger, or nothing was decided about it.
    """
    version = registry.find(config.model_name, "challenger", settings)
    if version is None:
        raise NotFoundError(f"'{config.model_name}' has no challenger: run `medgrpo run` first")
    decision = registry.read_decision(version, settings)
    return Proposal(version=version, compared_with=registry.read_compared(version, settings), decision=decision)


def carry_out(config: Config, proposal: Proposal, mover: Mover, settings: Settings) -> Outcome:
    """Do what the decision says: move the champion and see whether it answers, or note the refusal.

    Where the config asks for approval, nothing moves that the mover hasn't approved.

    Raises:
        PromotionStopped: see `moves.promote`.
    """
    version, decision = proposal.version, proposal.decision
    if proposal.compared_with == version.version:
        return "champion already"
    if not decision.promote:
        broken = ", ".join(verdict.rule for verdict in decision.verdicts if not verdict.holds)
        because = mover.model_copy(update={"reason": f"the gate says no: {broken}"})
        moves.refuse(version, decision, because, settings)
        log.info("%s version %d is not promoted: %s", version.name, version.version, broken)
        return "refused"
    if config.registry.approval and not mover.approved:
        log.info("%s version %d waits for approval: `medgrpo promote`", version.name, version.version)
        return "waits for approval"
    check = _serving(config, settings)
    moved = moves.promote(version, proposal.compared_with, decision, mover, check, settings)
    return "promoted" if moved else "champion already"


def turn_down(proposal: Proposal, mover: Mover, settings: Settings) -> Outcome:
    """Note that a person doesn't approve."""
    moves.refuse(proposal.version, proposal.decision, mover, settings)
    return "refused"


def terminal_user() -> str:
    """Who sits at this terminal, as the log of moves names them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def describe(proposal: Proposal) -> str:
    """The comparison as text: both policies' figures and the paired difference are in the rules' reasons."""
    version, decision = proposal.version, proposal.decision
    champion = (
        f"champion (version {proposal.compared_with})" if proposal.compared_with else "base model (no champion yet)"
    )
    marks = {True: "holds ", False: "BROKEN"}
    return "\n".join(
        [
            f"{version.name}: challenger (version {version.version}) against the {champion}, on the test rows",
            f"  paired difference in accuracy: {decision.difference}",
            *(f"  {marks[verdict.holds]}  {verdict.rule}: {verdict.reason}" for verdict in decision.verdicts),
            f"The gate says: {'promote' if decision.promote else 'refuse'}",
        ]
    )


def describe_figures(challenger: EvalReport, incumbent: EvalReport) -> str:
    """Both policies' figures on one set of rows, with their intervals, as a small table."""
    rows = [("champion" if not incumbent.checkpoint.is_base else "base", incumbent), ("challenger", challenger)]
    return "\n".join(
        [
            f"{challenger.rows} {challenger.rows_name} rows",
            f"  {'':12} {'accuracy':24} {'format rate':24} tokens",
            *(
                f"  {name:12} {report.accuracy!s:24} {report.format_rate!s:24} {report.completion_tokens.mean:.1f}"
                for name, report in rows
            ),
        ]
    )


def _serving(config: Config, settings: Settings) -> moves.Check:
    def check(version: ModelVersionRef) -> None:
        check_champion(config, version, settings)

    return check
