"""From the registry to an engine: the champion, a numbered version, or the base model where nothing is promoted."""

import logging

from medgrpo import registry
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.policy import attach, load_base
from medgrpo.serve.engine import Engine, Served
from medgrpo.settings import Settings

log = logging.getLogger(__name__)

BASE = "base"
"""The version's name where the base model is served."""


def load_engine(config: Config, settings: Settings, version: int | None = None) -> Engine:
    """Load what the registry calls champion, or one version; the base model where there is no champion.

    Raises:
        NotFoundError: no such version.
        BaseModelError: the base model here is not the one that its adapter was trained on.
    """
    chosen = (
        registry.find(config.model_name, "champion", settings)
        if version is None
        else registry.get(config.model_name, version, settings)
    )
    if chosen is None:
        log.warning("no champion of %s yet: serving the base model", config.model_name)
        return _base_engine(config, settings)
    folder, card = registry.fetch(chosen, settings)
    policy_config = card.config.policy
    base = registry.resolve_base(chosen, card, settings)
    policy = attach(load_base(base.folder, policy_config.dtype, policy_config.load_in_4bit), folder)
    served = Served(
        version=f"{chosen.name}/{chosen.version}",
        run_id=chosen.run_id,
        dataset_digest=card.dataset.digests["train"],
        system_prompt=card.config.prompt.system,
        demonstrations=card.config.prompt.shown,
        base=base.name,
    )
    return Engine(policy, served)


def _base_engine(config: Config, settings: Settings) -> Engine:
    base = resolve(config.policy.base, settings)
    policy = load_base(base.folder, config.policy.dtype, config.policy.load_in_4bit)
    served = Served(
        version=BASE,
        run_id="",
        dataset_digest="",
        system_prompt=config.prompt.system,
        demonstrations=config.prompt.shown,
        base=base.name,
    )
    return Engine(policy, served)
