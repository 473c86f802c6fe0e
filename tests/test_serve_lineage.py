"""A version's whole lineage over HTTP, from a real MLflow; and what is told while MLflow doesn't answer."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from serve_driver import Fixed, Saying, asking, served, stage

from medgrpo import registry, tracking
from medgrpo.config import Config
from medgrpo.policy import store_adapter
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Decision, Interval, ModelVersionRef, Verdict

DECISION = Decision(
    promote=True,
    verdicts=(Verdict(rule="accuracy", holds=True, reason="0.61 is above 0.48", figures={"difference": 0.13}),),
    challenger="report-b",
    incumbent="report-a",
    difference=Interval(mean=0.13, low=0.02, high=0.24),
)


@pytest.fixture
def version(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> ModelVersionRef:
    own = config.model_copy(update={"name": "test-lineage"})
    run = tracking.open_run(own, dataset, "key-lineage", settings, {})
    folder = settings.root / "made-for-lineage"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    made = store_adapter(folder, settings)
    checkpoint = CheckpointRef(train_key=run.key, step=4, adapter_digest=made)
    return registry.register(own, base, dataset, run, checkpoint, settings)


def test_the_whole_lineage_is_told(
    version: ModelVersionRef, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    name = f"{version.name}/{version.version}"
    what = replace(served(name), run_id=version.run_id, dataset_digest=dataset.digests["train"])
    with asking(stage(settings.home, Fixed(champion=Saying(what)))) as client:
        client.timeout = 60
        undecided = client.get("/v1/versions/current").json()
        assert (undecided["problem"], undecided["decision"], undecided["compared_with"]) == ("", None, None)
        registry.record(version, DECISION, None, settings)
    with asking(stage(settings.home, Fixed(champion=Saying(what)))) as client:
        told = client.get("/v1/versions/champion").json()
    assert (told["version"], told["run"]["run_id"]) == (name, version.run_id)
    assert told["adapter_digest"] == version.adapter_digest
    assert told["base"]["digest"] == base.digest
    assert told["dataset"]["digest"] == dataset.digests["train"] and told["dataset"]["key"] == dataset.key
    assert told["checkpoint"]["step"] == 4 and told["config"]["name"] == "test-lineage"
    assert told["decision"]["reasons"] == ["0.61 is above 0.48"] and told["decision"]["promote"]
    assert told["compared_with"] == "base"


def test_requests_become_masked_traces_of_their_version(version: ModelVersionRef, settings: Settings) -> None:
    name = f"{version.name}/{version.version}"
    what = Fixed(
        champion=Saying(replace(served(name), run_id=version.run_id)), base=Saying(replace(served("base"), run_id=""))
    )
    user = [{"role": "user", "content": "Call +1 202 555 0147: is his sodium of 128 mmol/l low?"}]
    with asking(stage(settings.home, what, trace_share=1)) as client:
        told = client.post("/v1/chat/completions", json={"messages": user, "temperature": 0.5, "seed": 3}).json()
        assert client.post("/v1/chat/completions", json={"messages": user, "model": "base"}).status_code == 200
    client = tracking.connect(settings)
    experiment = client.get_run(version.run_id).info.experiment_id
    (trace,) = client.search_traces(locations=[experiment], filter_string=f"tags.`medgrpo.version` = '{name}'")
    assert trace.info.tags["medgrpo.completion"] == told["id"]
    assert (
        trace.info.trace_metadata["mlflow.modelId"]
        == client.get_model_version(*name.split("/")).source[len("models:/") :]
    )
    assert trace.info.trace_metadata["mlflow.modelId"].startswith("m-")
    (span,) = trace.data.spans
    assert "sodium of 128" in str(span.inputs) and "555" not in str(span.inputs)
    assert span.outputs == told["choices"][0]["message"]["content"]
    assert (span.attributes["seed"], span.attributes["completion_tokens"]) == (3, told["usage"]["completion_tokens"])


def test_a_registry_that_does_not_answer_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgrpo.serve.lineage.PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        with asking(stage(tmp_path, Fixed(champion=Saying()), tracking_uri=uri)) as client:
            for _ in range(2):
                told = client.get("/v1/versions/current").json()
                assert told["problem"] == "the registry doesn't answer"
                assert (told["version"], told["run"]["run_id"]) == ("medgrpo-tiny/3", "run-1")
                assert "secret" not in str(told)
            assert client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}]}).is_success
