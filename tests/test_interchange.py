"""lm-evaluation-harness itself asks and scores the rows: the same prompts, the same accuracy, the same shape of results."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install '.[dev]')")

from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from medgrpo.answer import render_completion
from medgrpo.cli import app
from medgrpo.config import Config
from medgrpo.data import PresetSource
from medgrpo.evaluation import evaluate, read_rows
from medgrpo.evaluation.rows import judge
from medgrpo.interchange.results import write_results
from medgrpo.interchange.task import write_task
from medgrpo.policy import load_base
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, Example

SETS = {
    "medqa-4": "medqa/dev_4options.jsonl",
    "medmcqa": "medmcqa/dev_first2000.jsonl",
    "pubmedqa": "pubmedqa/pqal_train500.json",
    "medcalc": "medcalc/one_shot_55.csv",
    "mmlu-anatomy": "mmlu/anatomy_test.csv",
}
REASONING = "The findings in the question lead to this answer."


class Replay(LM):
    """Gives stored completions in the order of the rows, and keeps the prompts that it was asked with."""

    def __init__(self, completions: Sequence[str], tokenizer: Any = None) -> None:
        super().__init__()
        self.completions = completions
        self.tokenizer = tokenizer
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.prompts = [request.args[0] for request in requests]
        return [self.completions[request.doc_id] for request in requests]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    @property
    def tokenizer_name(self) -> str:
        return "tiny"

    def chat_template(self, chat_template: Any = False) -> str:
        return self.tokenizer.chat_template

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError


def harness(model: Any, task: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """What the harness says of a model on a task whose files are in the folder."""
    monkeypatch.chdir(folder)
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=tasks, log_samples=True, bootstrap_iters=0, verbosity="ERROR", **more
    )


def say(example: Example, kind: int) -> str:
    """A completion of one of the ways in which policies answer, right and wrong."""
    wrong = next((letter for letter in example.options if letter != example.gold), "-1")
    gold = example.gold if example.kind == "choice" else example.gold_text
    return [
        render_completion(REASONING, gold),
        render_completion(REASONING, wrong),
        render_completion(REASONING, example.gold_text),
        f"<answer>{gold}</answer>",
        f"{render_completion(REASONING, gold)} So I am sure.",
        render_completion("Yes.", gold),
        f"The answer is {gold}.",
        "",
    ][kind]


def asking(name: str, shown: Sequence[tuple[str, str]] = ()) -> Config:
    demonstrations = [{"question": question, "completion": completion} for question, completion in shown]
    return Config.model_validate(
        {
            "name": name,
            "data": {"source": {"kind": "clinical", "rows": 60}},
            "policy": {"base": {"kind": "tiny"}},
            "prompt": {"demonstrations": demonstrations} if shown else {},
        }
    )


@pytest.mark.parametrize("name", SETS)
def test_the_harness_finds_the_same_accuracy_on_the_same_completions(
    name: str, shared_data: Path, base: BaseRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = PresetSource(name=name, path=str(shared_data / SETS[name])).load(0)[:80]
    draw = random.Random(name)
    completions = [say(example, draw.randrange(8)) for example in examples]
    ours = judge(examples, completions, load_base(base.folder).tokenizer)
    task = write_task(asking(name), examples, "test", tmp_path)

    found = harness(Replay(completions), task, tmp_path, monkeypatch)

    figures = found["results"][task]
    assert figures["acc,none"] == pytest.approx(ours["correct"].mean())
    assert figures["acc_lenient,none"] == pytest.approx(ours["lenient"].mean())
    assert figures["format,none"] == pytest.approx(ours["strict"].mean())
    assert 0 < ours["correct"].mean() < ours["lenient"].mean() < 1
    rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
    assert [row["acc"] for row in rows] == ours["correct"].astype(float).tolist()


@pytest.mark.parametrize("name", ["medqa-4", "medmcqa", "mmlu-anatomy"])
def test_the_harness_alone_finds_the_same_accuracy_where_answers_are_letters(
    name: str, shared_data: Path, base: BaseRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = PresetSource(name=name, path=str(shared_data / SETS[name])).load(0)[:80]
    draw = random.Random(name)
    completions = [say(example, draw.choice([0, 1, 3, 4, 6, 7])) for example in examples]
    ours = judge(examples, completions, load_base(base.folder).tokenizer)
    task = write_task(asking(name), examples, "test", tmp_path)

    found = harness(Replay(completions), f"{task}_letters", tmp_path, monkeypatch)

    assert found["results"][f"{task}_letters"]["exact_match,strict"] == pytest.approx(ours["correct"].mean())
    assert 0 < ours["correct"].mean() < 1


SHOWN = [("Is 3 more than 2?", render_completion("Three is more than two.", "yes"))]


@pytest.mark.parametrize("shown", [[], SHOWN], ids=["plain", "with a worked question"])
def test_results_are_what_the_harness_writes_and_it_asks_the_same_prompts(
    shown: list[tuple[str, str]],
    base: BaseRef,
    dataset: DatasetRef,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = asking("written", shown)
    report = evaluate(config, base, dataset, CheckpointRef.base(), "test", settings)

    (path,) = write_results(config, base, dataset, [report], tmp_path / "results", settings)

    ours = json.loads(path.read_text())
    (lines,) = path.parent.glob("samples_*.jsonl")
    samples = [json.loads(line) for line in lines.read_text().splitlines()]
    (task,) = ours["results"]
    completions = read_rows(report, settings)["completion"].tolist()
    replay = Replay(completions, load_base(base.folder).tokenizer)
    theirs = harness(
        replay, task, tmp_path / "results", monkeypatch, apply_chat_template=True, fewshot_as_multiturn=True
    )
    assert [sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples] == replay.prompts
    rows = sorted(theirs["samples"][task], key=lambda row: row["doc_id"])
    assert samples[0].keys() == rows[0].keys()
    for name in ("acc", "doc_hash", "prompt_hash", "target_hash", "filtered_resps", "target", "doc"):
        assert [sample[name] for sample in samples] == [row[name] for row in rows], name
    for metric in ("acc", "acc_lenient", "format"):
        assert ours["results"][task][f"{metric},none"] == pytest.approx(theirs["results"][task][f"{metric},none"])
        assert ours["results"][task][f"{metric},none"] == pytest.approx(sum(s[metric] for s in samples) / len(samples))
    for name in ("n-shot", "higher_is_better", "n-samples", "group_subtasks", "versions"):
        assert ours[name] == theirs[name], name


def test_an_adapter_from_anywhere_is_evaluated_as_the_harness_does_it(
    base: BaseRef, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = get_peft_model(load_base(base.folder).model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv("MEDGRPO_HOME", str(settings.root))
    overrides = ["data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"]
    command = ["evaluate", "configs/smoke.toml", "--split", "test", "--adapter", str(tmp_path / "adapter")]
    command += ["--lm-eval", str(tmp_path / "results"), *(part for key in overrides for part in ("--set", key))]

    said = CliRunner().invoke(app, command, catch_exceptions=False)

    assert said.exit_code == 0, said.output
    assert "base " in said.output and "adapter " in said.output
    (written,) = (tmp_path / "results").glob("adapter-*/results_*.json")
    ((task, ours),) = json.loads(written.read_text())["results"].items()
    theirs = harness(
        "hf",
        task,
        tmp_path / "results",
        monkeypatch,
        model_args=f"pretrained={base.folder},peft={tmp_path / 'adapter'},dtype=float32",
        device="cpu",
        batch_size=4,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    for metric in ("acc", "acc_lenient", "format"):
        assert ours[f"{metric},none"] == pytest.approx(theirs["results"][task][f"{metric},none"])
    samples = [json.loads(line) for line in next(written.parent.glob("samples_*")).read_text().splitlines()]
    rows = sorted(theirs["samples"][task], key=lambda row: row["doc_id"])
    assert [s["resps"][0][0].strip() for s in samples] == [row["resps"][0][0].strip() for row in rows]


@pytest.mark.parametrize(
    ("arguments", "told"),
    {
        "no adapter": (["--adapter", "docs"], "adapter_model.safetensors not found there"),
        "both": (["--adapter", "docs", "--version", "1"], "give one of them"),
        "no such version": (["--version", "7"], "no version 7"),
        "no champion": (["--version", "champion"], "has no champion yet"),
        "no alias": (["--version", "best"], "give a number, champion, challenger, previous"),
    }.values(),
)
def test_what_can_not_be_evaluated_is_told(
    arguments: list[str], told: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medgrpo.errors import MedgrpoError

    monkeypatch.setenv("MEDGRPO_HOME", str(settings.root))
    with pytest.raises(MedgrpoError, match=told):
        CliRunner().invoke(
            app, ["evaluate", "configs/smoke.toml", "--set", "name=unpromoted", *arguments], catch_exceptions=False
        )


def test_a_folder_that_can_not_be_written_to(config: Config, tmp_path: Path) -> None:
    from medgrpo.errors import UserError

    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(UserError, match="can't write to"):
        write_task(config, [], "test", taken)
    assert list(tmp_path.iterdir()) == [taken]
