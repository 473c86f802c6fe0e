"""Promotion: who the challenger must beat, what the gate says, and moving the alias when it says so."""

import logging

from medgrpo import registry
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.errors import NotFoundError
from medgrpo.gate import decide
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, Decision, EvalReport, Frozen, ModelVersionRef

log = logging.getLogger(__name__)


class Incumbent(Frozen):
    """What is served now, ready to be evaluated: the champion with its own base and prompt, or the base model."""

    config: Config
    base: BaseRef
    checkpoint: CheckpointRef
    version: ModelVersionRef | None


def find_incumbent(config: Config, settings: Settings) -> Incumbent:
    """What the challenger must beat: the champion, or the base model where there is no champion.

    The champion answers with the prompt that it was trained with, on the rows of this config.

    Raises:
        NotFoundError: the champion's files are not what the registry says.
        BaseModelError: the champion's base model can't be found.
    """
    champion = registry.find(config.model_name, "champion", settings)
    if champion is None:
        base = resolve(config.policy.base, settings)
        return Incumbent(config=config, base=base, checkpoint=CheckpointRef.base(), version=None)
    _, card = registry.fetch(champion, settings)
    own = config.model_copy(update={"policy": card.config.policy, "prompt": card.config.prompt})
    base = registry.resolve_base(champion, card, settings)
    return Incumbent(config=own, base=base, checkpoint=card.checkpoint, version=champion)


def decide_and_promote(
    config: Config, version: ModelVersionRef, challenger: EvalReport, incumbent: EvalReport, settings: Settings
) -> Decision:
    """Ask the gate, store its decision beside the version, and move the champion if it says so.

    A version that is the champion already keeps the decision that made it so.
    """
    champion = registry.find(config.model_name, "champion", settings)
    if champion is not None and champion.version == version.version:
        try:
            return registry.read_decision(version, settings)
        except NotFoundError:
            log.warning("%s version %d was made champion without a decision", version.name, version.version)
    decision = decide(challenger, incumbent, config.gate, config.evaluation)
    registry.record(version, decision, settings)
    if decision.promote:
        registry.promote(version, settings)
    else:
        log.info("%s version %d is not promoted", version.name, version.version)
    return decision
