"""From the registry to what an engine loads: a version with its verified adapter, or the base model alone."""

from medgrpo import registry
from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.serve.engine import BASE, Served, Source
from medgrpo.settings import Settings
from medgrpo.types import ModelVersionRef


def version_source(version: ModelVersionRef, settings: Settings) -> Source:
    """A version: its adapter is fetched into a folder found by its content, its own prompt and dtype count.

    Raises:
        NotFoundError: its files are not what the registry says.
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
    return Source(served, base, folder, card.config.policy)


def base_source(config: Config, settings: Settings) -> Source:
    """The base model alone, in the config's prompt.

    Raises:
        BaseModelError: it isn't here.
    """
    base = resolve(config.policy.base, settings)
    served = Served(
        version=BASE,
        run_id="",
        dataset_digest="",
        adapter_digest="",
        system_prompt=config.prompt.system,
        demonstrations=config.prompt.shown,
        base=base.name,
    )
    return Source(served, base, None, config.policy)
