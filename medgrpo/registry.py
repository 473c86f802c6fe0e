"""The only user of the model registry and its aliases: champion (served), challenger (newest), previous."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.errors import BaseModelError, NotFoundError
from medgrpo.policy import adapter_digest
from medgrpo.settings import Settings
from medgrpo.tracking import connect, ensure_logged_model
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Decision, Frozen, ModelVersionRef, RunRef

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

Alias = Literal["champion", "challenger", "previous"]
CARD = "medgrpo.json"


class VersionCard(Frozen):
    """What a stored adapter needs to be used again: everything but the base model's weights."""

    config: Config
    base: BaseRef
    dataset: DatasetRef
    checkpoint: CheckpointRef


def register(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    run: RunRef,
    checkpoint: CheckpointRef,
    settings: Settings,
) -> ModelVersionRef:
    """Make a checkpoint a model version, once, and the challenger.

    The version's files are those of the checkpoint's LoggedModel: the adapter, and a card that names the base model,
    the config with its prompt, and the data. The base model's weights are not copied.
    """
    client = connect(settings)
    name = config.model_name
    _ensure_model(client, name)
    found = client.search_model_versions(
        f"name = '{name}' and tags.`medgrpo.adapter_digest` = '{checkpoint.adapter_digest}'"
    )
    if found:
        version = found[0]
    else:
        card = VersionCard(config=config, base=base, dataset=dataset, checkpoint=checkpoint)
        model_id = ensure_logged_model(client, run, checkpoint, settings.adapter(checkpoint.adapter_digest)).model_id
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
            client.log_model_artifacts(model_id, folder)
        version = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run.run_id,
            model_id=model_id,
            tags={
                "medgrpo.adapter_digest": checkpoint.adapter_digest,
                "medgrpo.train_key": checkpoint.train_key,
                "medgrpo.dataset_digest": dataset.digests["train"],
                "medgrpo.base": base.name,
                "medgrpo.step": str(checkpoint.step),
            },
        )
    client.set_registered_model_alias(name, "challenger", version.version)
    return _ref(version)


def find(name: str, alias: Alias, settings: Settings) -> ModelVersionRef | None:
    """The version that an alias points to, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return _ref(connect(settings).get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def get(name: str, version: int, settings: Settings) -> ModelVersionRef:
    """A version by its number.

    Raises:
        NotFoundError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _ref(connect(settings).get_model_version(name, str(version)))
    except MlflowException as error:
        told = settings.without_secrets(f"no version {version} of '{name}' in the registry at {settings.mlflow_uri}")
        raise NotFoundError(told) from error


def record(version: ModelVersionRef, decision: Decision, settings: Settings) -> None:
    """Store a decision beside the version, whether it promotes or not."""
    client = connect(settings)
    verdict = "promote" if decision.promote else "refuse"
    client.set_model_version_tag(version.name, str(version.version), "medgrpo.decision", verdict)
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    client.update_model_version(version.name, str(version.version), f"{verdict}\n\n{reasons}")
    client.log_dict(version.run_id, decision.model_dump(mode="json"), f"decisions/v{version.version}.json")


def read_decision(version: ModelVersionRef, settings: Settings) -> Decision:
    """The stored decision about a version.

    Raises:
        NotFoundError: none was stored.
    """
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    connect(settings)
    try:
        text = load_text(f"runs:/{version.run_id}/decisions/v{version.version}.json")
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"no decision is stored for {version.name} version {version.version}") from error
    return Decision.model_validate_json(text)


def promote(version: ModelVersionRef, settings: Settings) -> None:
    """Make a version the champion, and the champion before it `previous`. Doing it twice changes nothing."""
    client = connect(settings)
    champion = find(version.name, "champion", settings)
    if champion is not None and champion.version == version.version:
        return
    if champion is not None:
        client.set_registered_model_alias(version.name, "previous", str(champion.version))
    client.set_registered_model_alias(version.name, "champion", str(version.version))
    log.info("%s version %d is the champion now", version.name, version.version)


def rollback(name: str, settings: Settings) -> ModelVersionRef:
    """Make the previous champion the champion again; the two swap places.

    Raises:
        NotFoundError: there is no previous champion.
    """
    previous = find(name, "previous", settings)
    if previous is None:
        raise NotFoundError(f"'{name}' has no previous champion to go back to")
    promote(previous, settings)
    return previous


def fetch(version: ModelVersionRef, settings: Settings) -> tuple[Path, VersionCard]:
    """Download a version's adapter to its content-addressed folder, and read its card.

    Raises:
        NotFoundError: the stored files are not what the version says they are.
    """
    from mlflow.artifacts import download_artifacts

    connect(settings)
    target = settings.adapter(version.adapter_digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        draft = Path(folder) / "version"
        draft.mkdir()
        found = Path(download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(draft)))
        if adapter_digest(found) != version.adapter_digest:
            raise NotFoundError(f"the files of {version.name} version {version.version} don't have the digest it names")
        card = VersionCard.model_validate(json.loads((found / CARD).read_text(encoding="utf-8")))
        if not target.is_dir() or adapter_digest(target) != version.adapter_digest:
            shutil.rmtree(target, ignore_errors=True)
            found.rename(target)
    return target, card


def resolve_base(version: ModelVersionRef, card: VersionCard, settings: Settings) -> BaseRef:
    """The base model that a version's adapter was trained on, found on this disk.

    Raises:
        BaseModelError: it isn't here, or what is here under its name has other weights.
    """
    base = resolve(card.config.policy.base, settings)
    if base.digest != card.base.digest:
        raise BaseModelError(
            f"{version.name} version {version.version} was trained on {card.base.name} ({card.base.digest[:8]}), but "
            f"the base model here is {base.name} ({base.digest[:8]})"
        )
    return base


def _ensure_model(client: "MlflowClient", name: str) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)


def _ref(version: "ModelVersion") -> ModelVersionRef:
    return ModelVersionRef(
        name=version.name,
        version=int(version.version),
        run_id=version.run_id,
        adapter_digest=version.tags["medgrpo.adapter_digest"],
    )
