"""MLflow, for real on SQLite: one run per key, one version per adapter, aliases that move as the gate says."""

import shutil
from pathlib import Path

import pytest

from medgrpo import registry, tracking
from medgrpo.config import Config, PromptConfig
from medgrpo.errors import NotFoundError, TrackingError
from medgrpo.fingerprint import digest
from medgrpo.policy import adapter_digest
from medgrpo.promotion import find_incumbent
from medgrpo.registry import Aliases
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Interval, ModelVersionRef, RunRef

ROWS = 60


def _report(right: int, name: str) -> EvalReport:
    """A report in which the first `right` rows are right, all in the strict grammar."""
    share = Interval(mean=right / ROWS, low=0, high=1)
    return EvalReport(
        key=name,
        checkpoint=CheckpointRef.base(),
        split="test",
        rows_digest="rows",
        rows=ROWS,
        accuracy=share,
        lenient_accuracy=share,
        format_rate=Interval(mean=1, low=1, high=1),
        refusal_rate=Interval(mean=0, low=0, high=0),
        completion_tokens=Interval(mean=20, low=20, high=20),
        topics={},
        slices={},
        correct=tuple(row < right for row in range(ROWS)),
    )


@pytest.fixture
def own(config: Config, request: pytest.FixtureRequest) -> Config:
    """The config under a name of the test's own, so that tests share no registered model."""
    return config.model_copy(update={"name": f"test-{digest(request.node.name)[:8]}"})


@pytest.fixture
def run(own: Config, dataset: DatasetRef, settings: Settings) -> RunRef:
    return tracking.open_run(own, dataset, f"key-{own.name}", settings, {})


def _version(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings, weights: bytes
) -> ModelVersionRef:
    folder = settings.root / "made" / digest(weights.hex())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    made = adapter_digest(folder)
    target = settings.adapter(made)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    checkpoint = CheckpointRef(train_key=run.key, step=len(weights), adapter_digest=made)
    return registry.register(own, base, dataset, run, checkpoint, settings, {"MODEL_CARD.md": f"# {own.name}\n"})


def test_a_run_is_found_again_by_its_key(own: Config, dataset: DatasetRef, run: RunRef, settings: Settings) -> None:
    again = tracking.open_run(own, dataset, run.key, settings, {"prefect.flow_run_id": "f1"})
    other = tracking.open_run(own, dataset, "other", settings, {})
    assert again == run
    assert other.run_id != run.run_id
    stored = tracking.connect(settings).get_run(run.run_id)
    assert stored.data.tags["prefect.flow_run_id"] == "f1"
    assert {d.dataset.digest for d in stored.inputs.dataset_inputs} == set(dataset.digests.values())


def test_a_failed_flow_leaves_no_run_that_looks_busy(own: Config, dataset: DatasetRef, settings: Settings) -> None:
    mine = tracking.open_run(own, dataset, "k1", settings, {tracking.FLOW_RUN_TAG: "flow-a"})
    others = tracking.open_run(own, dataset, "k2", settings, {tracking.FLOW_RUN_TAG: "flow-b"})
    tracking.end_runs_of("flow-a", "FAILED", settings)
    client = tracking.connect(settings)
    assert client.get_run(mine.run_id).info.status == "FAILED"
    assert client.get_run(others.run_id).info.status == "RUNNING"


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(TrackingError, match="mysql://nowhere"):
        tracking.connect(Settings(tracking_uri="mysql://nowhere/none"))


def test_one_adapter_is_one_version(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    first = _version(own, base, dataset, run, settings, b"one")
    again = _version(own, base, dataset, run, settings, b"one")
    other = _version(own, base, dataset, run, settings, b"other")
    assert (first.version, again.version, other.version) == (1, 1, 2)
    assert registry.find(own.model_name, "challenger", settings) == other
    assert registry.find(own.model_name, "champion", settings) is None


def test_the_incumbent_is_the_base_until_there_is_a_champion(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    assert find_incumbent(own, settings).checkpoint.is_base
    prompt = own.prompt.model_copy(update={"system": "Another prompt."})
    trained_otherwise = own.model_copy(update={"prompt": prompt})
    version = _version(trained_otherwise, base, dataset, run, settings, b"champion")
    registry.set_aliases(own.model_name, Aliases(champion=version.version), settings)
    incumbent = find_incumbent(own, settings)
    assert incumbent.version == version
    assert incumbent.checkpoint.adapter_digest == version.adapter_digest
    assert incumbent.config.prompt.system == "Another prompt.", "a champion answers with its own prompt"


def test_a_version_holds_what_is_needed_to_use_it(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    from transformers import AutoTokenizer

    version = _version(own, base, dataset, run, settings, b"useful")
    shutil.rmtree(settings.adapter(version.adapter_digest))
    folder, card = registry.fetch(version, settings)
    assert card == registry.read_card(version, settings)
    assert (card.config, card.base, card.dataset) == (own, base, dataset)
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == f"# {own.name}\n"
    assert PromptConfig.model_validate_json((folder / "prompt.json").read_text(encoding="utf-8")) == own.prompt
    chat = [{"role": "user", "content": "How much potassium?"}]
    stored, ours = (AutoTokenizer.from_pretrained(str(place)) for place in (folder / "tokenizer", base.folder))
    assert stored.apply_chat_template(chat)["input_ids"] == ours.apply_chat_template(chat)["input_ids"]
    tags = tracking.connect(settings).get_model_version(version.name, str(version.version)).tags
    assert tags["medgrpo.dataset_key"] == dataset.key
    assert tags["medgrpo.base_digest"] == base.digest


def test_aliases_are_read_and_moved_together(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    assert registry.read_aliases("no such model", settings) == Aliases()
    for weights in (b"one", b"two"):
        _version(own, base, dataset, run, settings, weights)
    assert registry.read_aliases(own.model_name, settings) == Aliases(), "the challenger is neither"
    for aliases in (Aliases(champion=1), Aliases(champion=2, previous=1), Aliases(previous=2), Aliases(), Aliases()):
        registry.set_aliases(own.model_name, aliases, settings)
        assert registry.read_aliases(own.model_name, settings) == aliases


def test_files_that_are_not_what_the_version_names_are_refused(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    version = _version(own, base, dataset, run, settings, b"good")
    assert registry.fetch(version, settings)[1].dataset == dataset
    for stored in Path(settings.artifacts).rglob("adapter_model.safetensors"):
        if stored.read_bytes() == b"good":
            stored.write_bytes(b"evil")
    with pytest.raises(NotFoundError, match="digest"):
        registry.fetch(version, settings)
    with pytest.raises(NotFoundError, match="no version 9"):
        registry.get(own.model_name, 9, settings)


def test_an_interrupted_upload_is_finished_later(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    client = tracking.connect(settings)
    client.create_logged_model(run.experiment_id, name="step-000005", source_run_id=run.run_id)
    version = _version(own, base, dataset, run, settings, b"fives")  # its step is 5, so it is that LoggedModel
    assert (registry.fetch(version, settings)[0] / "adapter_model.safetensors").read_bytes() == b"fives"


def test_a_damaged_local_adapter_is_fetched_again(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    version = _version(own, base, dataset, run, settings, b"whole")
    local = settings.adapter(version.adapter_digest) / "adapter_model.safetensors"
    local.write_bytes(b"wh")
    assert registry.fetch(version, settings)[0] == local.parent
    assert local.read_bytes() == b"whole"


def test_an_incumbents_figures_stand_beside_the_challengers(
    own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings
) -> None:
    adapter = settings.adapter(_version(own, base, dataset, run, settings, b"other").adapter_digest)
    foreign = CheckpointRef(train_key="another training", step=900, adapter_digest="d" * 32)
    mine = CheckpointRef(train_key=run.key, step=4, adapter_digest="e" * 32)
    for checkpoint, right in ((mine, 40), (foreign, 20)):
        report = _report(right, "r").model_copy(update={"checkpoint": checkpoint})
        tracking.log_evaluation(run, dataset, report, adapter, settings)
    metrics = tracking.connect(settings).get_run(run.run_id).data.metrics
    assert metrics["eval/test/accuracy"] == pytest.approx(40 / ROWS)
    assert metrics["eval/test/incumbent/accuracy"] == pytest.approx(20 / ROWS)
