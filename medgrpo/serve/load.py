"""From the registry to what an engine loads: the champion, a numbered version, or the base model."""

from medgrpo import registry
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.serve.engine import BASE, Served, Source
from medgrpo.settings import Settings
from medgrpo.types import ModelVersionRef


def version_source(version: ModelVersionRef, settings: Settings) -> Source:
    """A version with its own base model, prompt and dtype, its adapter downloaded and verified.

    Raises:
        NotFoundError: the stored files are not what the version says they are.
        BaseModelError: the base model here is not the one that its adapter was trained on.
    """
    folder, card = registry.fetch(version, settings)
    base = registry.resolve_base(version, card, settings)
    served = Served(
        version=f"{version.name}/{version.version}",
        run_id=version.run_id,
        dataset_digest=card.dataset.digests["train"],
        adapter_digest=version.adapter_digest,
        system_prompt=card.config.prompt.system,
        demonstrations=card.config.prompt.shown,
        base=base.name,
    )
    return Source(served=served, base=base, adapter=folder, policy=card.config.policy)


def base_source(config: Config, settings: Settings) -> Source:
    """The base model alone, for as long as nothing is promoted.

    Raises:
        BaseModelError: it can't be found or read.
    """
    base = resolve(config.policy.base, settings)
    return Source(served=base_served(config, base.name), base=base, adapter=None, policy=config.policy)


def base_served(config: Config, name: str) -> Served:
    """What the base model alone is called when it is served."""
    return Served(
        version=BASE,
        run_id="",
        dataset_digest="",
        adapter_digest="",
        system_prompt=config.prompt.system,
        demonstrations=config.prompt.shown,
        base=name,
    )
