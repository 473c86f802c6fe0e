"""The only user of the model registry and its aliases: champion (served), challenger (newest), previous."""

import fcntl
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.errors import BaseModelError, NotFoundError
from medgrpo.fingerprint import digest
from medgrpo.policy import adapter_digest
from medgrpo.settings import Settings
from medgrpo.stage_runs import log_stage
from medgrpo.tracking import KEY_TAG, connect, ensure_logged_model
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Decision, Frozen, ModelVersionRef, RunRef

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

Alias = Literal["champion", "challenger", "previous"]
CARD = "medgrpo.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
"""What of a base model's folder is its tokenizer."""
VERDICT, DECIDED, COMPARED = "medgrpo.decision", "medgrpo.decision_digest", "medgrpo.compared_with"
"""Tags of a version that tell of its decision: the verdict, the digest, and the champion that it was compared with."""


class Aliases(Frozen):
    """The versions that are served and were served; None: there is none."""

    champion: int | None = None
    previous: int | None = None


class VersionCard(Frozen):
    """What a stored adapter needs to be used again: everything but the base model's weights."""

    config: Config
    base: BaseRef
    dataset: DatasetRef
    checkpoint: CheckpointRef


class Kept(Frozen):
    """A version that an alias points to, with all that it came from and that its decision rests on."""

    version: ModelVersionRef
    aliases: tuple[str, ...]
    card: VersionCard
    reports: tuple[str, ...]
    """Keys of the two reports that its decision compared; none where no decision is stored."""


def lock_file(name: str, settings: Settings) -> Path:
    """The file whose lock `alone` holds."""
    return settings.root / "locks" / digest(name)


@contextmanager
def alone(name: str, settings: Settings) -> Iterator[None]:
    """Wait until no other process of this home folder moves this model's aliases or adds versions.

    The lock ends with its holder, however that dies. Writers of other machines are kept apart by the log alone.
    """
    path = lock_file(name, settings)
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process adds a version of %s or moves its champion: waiting for it", name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def register(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    run: RunRef,
    checkpoint: CheckpointRef,
    settings: Settings,
    files: Mapping[str, str] | None = None,
) -> ModelVersionRef:
    """Make a checkpoint a model version, once, and the challenger.

    The version's files are those of the checkpoint's LoggedModel: the adapter, the tokenizer, the prompt, and a card
    that names the base model, the config and the data. The base model's weights are not copied.

    Args:
        files: name → text of more files, such as the model card for people.
    """
    client = connect(settings)
    name = config.model_name
    with alone(name, settings):
        ensure_model(client, name)
        found = client.search_model_versions(
            f"name = '{name}' and tags.`medgrpo.adapter_digest` = '{checkpoint.adapter_digest}'"
        )
        card = VersionCard(config=config, base=base, dataset=dataset, checkpoint=checkpoint)
        version = found[0] if found else _create_version(client, card, run, settings, files or {})
    client.set_registered_model_alias(name, "challenger", version.version)
    return _ref(version)


def _create_version(
    client: "MlflowClient", card: VersionCard, run: RunRef, settings: Settings, files: Mapping[str, str]
) -> "ModelVersion":
    checkpoint = card.checkpoint
    model_id = ensure_logged_model(client, run, checkpoint, settings.adapter(checkpoint.adapter_digest)).model_id
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder), card, files)
        client.log_model_artifacts(model_id, folder)
    return client.create_model_version(
        card.config.model_name,
        source=f"models:/{model_id}",
        run_id=run.run_id,
        model_id=model_id,
        tags={
            "medgrpo.adapter_digest": checkpoint.adapter_digest,
            "medgrpo.train_key": checkpoint.train_key,
            "medgrpo.dataset_key": card.dataset.key,
            "medgrpo.dataset_digest": card.dataset.digests["train"],
            "medgrpo.base": card.base.name,
            "medgrpo.base_digest": card.base.digest,
            "medgrpo.step": str(checkpoint.step),
        },
    )


def _write_files(folder: Path, card: VersionCard, files: Mapping[str, str]) -> None:
    """What belongs to a version beside its adapter."""
    (folder / "tokenizer").mkdir()
    for pattern in TOKENIZER_FILES:
        for path in Path(card.base.folder).glob(pattern):
            shutil.copy(path, folder / "tokenizer")
    told = {CARD: card.model_dump_json(indent=2), "prompt.json": card.config.prompt.model_dump_json(indent=2)}
    for name, text in {**files, **told}.items():
        (folder / name).write_text(text, encoding="utf-8")


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


def decision_file(version: int) -> str:
    """Where a version's decision lies among the artifacts of its run."""
    return f"decisions/v{version}.json"


def record(version: ModelVersionRef, decision: Decision, compared_with: int | None, settings: Settings) -> None:
    """Store a decision beside the version, whether it promotes or not.

    Args:
        compared_with: version of the champion; None: there was none, and the base model stood for it.
    """
    client = connect(settings)
    verdict = "promote" if decision.promote else "refuse"
    client.log_dict(version.run_id, decision.model_dump(mode="json"), decision_file(version.version))
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    client.update_model_version(version.name, str(version.version), f"{verdict}\n\n{reasons}")
    champion = str(compared_with) if compared_with else ""
    _log_gate(client, version, decision, champion)
    for tag, value in ((VERDICT, verdict), (COMPARED, champion), (DECIDED, digest(decision))):
        client.set_model_version_tag(version.name, str(version.version), tag, value)


def _log_gate(client: "MlflowClient", version: ModelVersionRef, decision: Decision, champion: str) -> None:
    """Show the decision as a stage of the run that the version came from."""
    run = client.get_run(version.run_id)
    training = RunRef(run_id=version.run_id, key=run.data.tags.get(KEY_TAG, ""), experiment_id=run.info.experiment_id)
    figures = {
        f"gate/{verdict.rule}/{name}": value for verdict in decision.verdicts for name, value in verdict.figures.items()
    }
    figures |= {"gate/promote": float(decision.promote), "gate/difference": decision.difference.mean}
    against = f"version {champion}" if champion else "the base model"
    log_stage(client, training, f"gate version {version.version} against {against}", digest(decision), figures)


def read_decision(version: ModelVersionRef, settings: Settings) -> Decision:
    """The stored decision about a version.

    Raises:
        NotFoundError: none was stored, or it was changed.
    """
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    stored = connect(settings).get_model_version(version.name, str(version.version)).tags.get(DECIDED)
    try:
        text = load_text(f"runs:/{version.run_id}/{decision_file(version.version)}")
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"no decision is stored for {version.name} version {version.version}") from error
    try:
        decision = Decision.model_validate_json(text)
    except ValueError:  # of an earlier version of medgrpo, or damaged
        decision = None
    if decision is None or digest(decision) != stored:
        raise NotFoundError(
            f"the decision about {version.name} version {version.version} isn't the one that was stored: run "
            "`medgrpo promote` to decide again"
        )
    return decision


def read_compared(version: ModelVersionRef, settings: Settings) -> int | None:
    """The champion that a version was compared with when it was decided about; None: the base model."""
    tags = connect(settings).get_model_version(version.name, str(version.version)).tags
    return int(tags[COMPARED]) if tags.get(COMPARED) else None


def read_aliases(name: str, settings: Settings) -> Aliases:
    """Which versions are served and were served, at one moment."""
    from mlflow.exceptions import MlflowException

    try:
        found = connect(settings).get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return Aliases()
        raise
    return Aliases(**{alias: int(found[alias]) for alias in Aliases.model_fields if alias in found})


def set_aliases(name: str, aliases: Aliases, settings: Settings) -> None:
    """Make the aliases point there. The champion is moved last, in one step: there is always the old or the new one."""
    client = connect(settings)
    found = read_aliases(name, settings)
    for alias, version in (("previous", aliases.previous), ("champion", aliases.champion)):
        if version is not None:
            client.set_registered_model_alias(name, alias, str(version))
        elif getattr(found, alias) is not None:
            client.delete_registered_model_alias(name, alias)


def read_card(version: ModelVersionRef, settings: Settings) -> VersionCard:
    """What is stored about a version beside its adapter.

    Raises:
        NotFoundError: its files are not in MLflow.
    """
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    connect(settings)
    try:
        return VersionCard.model_validate_json(load_text(f"models:/{version.name}/{version.version}/{CARD}"))
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"the files of {version.name} version {version.version} are not in MLflow") from error


def fetch(version: ModelVersionRef, settings: Settings) -> tuple[Path, VersionCard]:
    """Download a version's adapter to its content-addressed folder, and read its card.

    Raises:
        NotFoundError: the stored files are not what the version says they are.
    """
    target = settings.adapter(version.adapter_digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        found, card = download(version, Path(folder) / "version", settings)
        if not target.is_dir() or adapter_digest(target) != version.adapter_digest:
            shutil.rmtree(target, ignore_errors=True)
            found.rename(target)
    return target, card


def download(version: ModelVersionRef, folder: Path, settings: Settings) -> tuple[Path, VersionCard]:
    """Download all files of a version to below a new folder; where they lie, and its card.

    Raises:
        NotFoundError: the stored files are not what the version says they are.
    """
    from mlflow.artifacts import download_artifacts

    connect(settings)
    folder.mkdir()
    found = Path(download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(folder)))
    if adapter_digest(found) != version.adapter_digest:
        raise NotFoundError(f"the files of {version.name} version {version.version} don't have the digest it names")
    return found, VersionCard.model_validate(json.loads((found / CARD).read_text(encoding="utf-8")))


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


def kept_versions(settings: Settings) -> list[Kept]:
    """The champion, previous and challenger of every registered model.

    Raises:
        NotFoundError: the files of one of them are not in MLflow, so nobody can tell what it came from.
    """
    client = connect(settings)
    found, token = [], None
    while True:
        page = client.search_registered_models(page_token=token)
        for model in page:
            aliases = {alias: version for alias, version in model.aliases.items() if alias in get_args(Alias)}
            for number in sorted(set(aliases.values()), key=int):
                named = tuple(alias for alias in get_args(Alias) if aliases.get(alias) == number)
                found.append(_kept(get(model.name, int(number), settings), named, settings))
        token = page.token
        if not token:
            return found


def _kept(version: ModelVersionRef, aliases: tuple[str, ...], settings: Settings) -> Kept:
    try:
        decision = read_decision(version, settings)
        reports: tuple[str, ...] = (decision.challenger, decision.incumbent)
    except NotFoundError:
        reports = ()
    return Kept(version=version, aliases=aliases, card=read_card(version, settings), reports=reports)


def ensure_model(client: "MlflowClient", name: str, about: str | None = None) -> None:
    """Create a registered model where there is none of this name; two may try at once."""
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _ref(version: "ModelVersion") -> ModelVersionRef:
    return ModelVersionRef(
        name=version.name,
        version=int(version.version),
        run_id=version.run_id,
        adapter_digest=version.tags["medgrpo.adapter_digest"],
    )
