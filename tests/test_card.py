"""The model card: a header that the hub reads, figures with intervals, limits, and nothing that the data could break."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from medgrpo import tracking
from medgrpo.base_models import FolderBase, HubBase
from medgrpo.config import Config
from medgrpo.data import ColumnMap, FileSource, HubSource
from medgrpo.report.card import TrainingFigures, read_training, store_card, write_card
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Interval

COMMIT = "a" * 40
COLUMNS = ColumnMap(id="id", question="q", gold="g")
CHECKPOINT = CheckpointRef(train_key="t", step=4, adapter_digest="adapter-digest")
TRAINING = TrainingFigures(run_id="run-1", rewards={"total reward": (0.25, 0.75)})


def interval(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.05, high=mean + 0.05)


def report(**more: Any) -> EvalReport:
    fields: dict[str, Any] = {"key": "k", "checkpoint": CHECKPOINT, "split": "test", "rows_digest": "d", "rows": 1200}
    fields |= {"accuracy": interval(0.5), "lenient_accuracy": interval(0.55), "format_rate": interval(0.9)}
    fields |= {"refusal_rate": interval(0.1), "completion_tokens": interval(20), "correct": (True,)}
    fields |= {"topics": {"blood-count": interval(0.4)}, "slices": {"negation": interval(0.3)}}
    return EvalReport.model_validate(fields | more)


@pytest.fixture
def write(config: Config, base: BaseRef, dataset: DatasetRef) -> Callable[..., str]:
    def write(shown: EvalReport | None = None, own: Config = config, named: BaseRef = base, licence: str = "") -> str:
        return write_card(own, named, dataset, CHECKPOINT, TRAINING, shown, licence)

    return write


def header(card: str) -> dict[str, Any]:
    parts = card.split("---\n", 2)
    assert parts[0] == ""
    found: dict[str, Any] = yaml.safe_load(parts[1])
    return found


def test_the_card_tells_data_training_figures_limits_and_licence(
    write: Callable[..., str], config: Config, base: BaseRef, dataset: DatasetRef
) -> None:
    card = write(report(), licence="apache-2.0")
    parts = ("Use", "Data", "Training", "Figures", "Limits", "Licence")
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == list(parts)
    assert "**Not medical advice:**" in card
    for fact in (
        dataset.digests["train"],
        base.digest,
        "adapter-digest",
        "run-1",
        "| total reward | 0.250 | 0.750 |",
        f"| accuracy | {interval(0.5)} |",
        f"| lenient accuracy | {interval(0.55)} |",
        f"| format rate | {interval(0.9)} |",
        f"| refusal rate | {interval(0.1)} |",
        f"| tokens | {interval(20)} |",
        f"| blood-count | {interval(0.4)} |",
        f"| negation | {interval(0.3)} |",
        "On 1,200 test rows",
        "chosen on other rows",
        "correct × 1, format × 0.5",
        "step 4 of 4",
        "The adapter: apache-2.0.",
        f"{dataset.rows['train']} train",
    ):
        assert fact in card, fact
    assert config.prompt.system.splitlines()[0] in card
    assert write(report()) == write(report())


def test_the_hub_reads_the_header(write: Callable[..., str], config: Config) -> None:
    card = write(report(), licence="apache-2.0")
    found = header(card)
    assert (found["library_name"], found["license"], found["language"]) == ("peft", "apache-2.0", "en")
    assert "base_model" not in found and "datasets" not in found, "what the hub doesn't have can't be linked"
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5 and "0.450 to 0.550" in result["metrics"][0]["name"]
    assert "1200 test rows" in result["dataset"]["name"] and result["dataset"]["type"] == "clinical"
    (read,) = ModelCard(card).data.eval_results
    assert read.metric_value == 0.5
    assert header(write())["license"] == "other" and "model-index" not in header(write())


def test_hub_names_are_linked(write: Callable[..., str], config: Config, base: BaseRef) -> None:
    policy = config.policy.model_copy(update={"base": HubBase(repo="org/name", revision=COMMIT)})
    source = HubSource(repo="org/set", revision=COMMIT, licence="mit", example_kind="text", columns=COLUMNS)
    own = config.model_copy(
        update={"policy": policy, "data": config.data.model_copy(update={"source": source, "benchmarks": (source,)})}
    )
    card = write(report(), own, base.model_copy(update={"name": "org/name", "revision": COMMIT}))
    assert header(card)["base_model"] == "org/name" and header(card)["base_model_relation"] == "adapter"
    assert header(card)["datasets"] == ["org/set"]
    assert f"org/name at {COMMIT}" in card and f"org/set at {COMMIT}" in card
    assert "| Licence of the data | mit |" in card and "| Kept out of the train rows | org/set |" in card


def test_folders_of_this_machine_stay_here(write: Callable[..., str], config: Config, base: BaseRef) -> None:
    source = FileSource(path="/home/jane/secret/ours.jsonl", example_kind="text", columns=COLUMNS, licence="own")
    policy = config.policy.model_copy(update={"base": FolderBase(path="/home/jane/llama")})
    own = config.model_copy(
        update={"policy": policy, "data": config.data.model_copy(update={"source": source, "benchmarks": (source,)})}
    )
    card = write(report(), own, base.model_copy(update={"name": "/home/jane/llama", "folder": "/home/jane/llama"}))
    assert "jane" not in card and "ours.jsonl" in card and "llama" in card


def test_without_figures_or_licence_it_says_so(write: Callable[..., str]) -> None:
    card = write()
    assert "None yet: this version has not been measured" in card and "accuracy |" not in card
    assert "None was chosen for the adapter." in card


def test_figures_on_rows_that_were_chosen_on_are_called_flattering(write: Callable[..., str]) -> None:
    assert "the figures flatter it" in write(report(split="validation"))
    assert "the figures flatter it" not in write(report(split="validation", benchmark="medqa-4"))
    assert "On 1,200 medqa-4 rows" in write(report(benchmark="medqa-4"))


HOSTILE = "a|b `c` <script>x</script>\n# head [l](javascript:x) *s*"


def test_texts_are_no_markdown(write: Callable[..., str], config: Config) -> None:
    source = config.data.source
    own = config.model_copy(
        update={
            "data": config.data.model_copy(
                update={
                    "source": FileSource(
                        path="x.csv", licence="own", citation=HOSTILE, example_kind="text", columns=COLUMNS
                    )
                }
            ),
            "prompt": config.prompt.model_copy(update={"system": HOSTILE}),
        }
    )
    assert source != own.data.source
    card = write(report(topics={HOSTILE: interval(0.5)}), own)
    body = card.split("---\n", 2)[2]
    assert "<script" not in body and "\\|b \\`c\\`" in body and "\\[l\\]" in body
    assert not re.search(r"^# head", body, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_tables_stand_alone(write: Callable[..., str]) -> None:
    """A table needs an empty line before it and a rule below its head, or Markdown shows a row of bars."""
    lines = write(report(), licence="mit").splitlines()
    heads = [place for place, line in enumerate(lines) if line.startswith("|") and not lines[place - 1].startswith("|")]
    assert len(heads) == 6
    for place in heads:
        assert lines[place - 1] == "" and set(lines[place + 1]) == {"|", "-"}


def test_a_stored_card_is_in_the_run_and_ready_for_the_registry(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    run = tracking.open_run(config.model_copy(update={"name": "stored"}), dataset, "key-stored", settings, {})
    settings.evaluation("k").mkdir(parents=True, exist_ok=True)
    files = store_card(config, base, dataset, run, report(), settings)
    assert list(files) == ["MODEL_CARD.md"] and run.run_id in files["MODEL_CARD.md"]
    client = tracking.connect(settings)
    folder = client.download_artifacts(run.run_id, "report")
    assert Path(folder, "MODEL_CARD.md").read_text(encoding="utf-8") == files["MODEL_CARD.md"]


def test_training_figures_are_the_first_and_last_steps(config: Config, dataset: DatasetRef, settings: Settings) -> None:
    run = tracking.open_run(config.model_copy(update={"name": "carded"}), dataset, "key-carded", settings, {})
    assert read_training(run, settings) == TrainingFigures(run_id=run.run_id)
    client = tracking.connect(settings)
    for time, (step, reward) in enumerate([(2, 0.25), (10, 0.75), (10, 0.5)]):
        tracking.log_step(client, run.run_id, {"reward": reward}, step, 1000 + time)
    assert read_training(run, settings).rewards == {"total reward": (0.25, 0.5)}
