"""The command line: help at once, and a user's mistake is one message with exit code 2."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medgrpo.settings import Settings
from medgrpo.types import BaseRef

ROOT = Path(__file__).parent.parent
SMOKE = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
COMMANDS = [
    "run",
    "prepare",
    "audit",
    "train",
    "evaluate",
    "register",
    "promote",
    "rollback",
    "history",
    "serve",
    "ask",
    "ui",
    "plan",
    "reconcile",
]


def _medgrpo(*arguments: str, home: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MEDGRPO_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "medgrpo.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_help_names_every_command(tmp_path: Path) -> None:
    done = _medgrpo("--help", home=tmp_path)
    assert done.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str, tmp_path: Path) -> None:
    done = _medgrpo(command, "--help", home=tmp_path)
    assert done.returncode == 0
    assert f"Example:  medgrpo {command}" in done.stdout


CSV = "id,question,gold\n1,What is it?,x\n"
FILE_SOURCE = (
    'source = { kind = "file", path = "questions.csv", example_kind = "text", '
    'columns = { question = "question", gold = "answer" } }'
)


MISTAKES = {
    "broken TOML": (("[data]", "[data"), "not readable as TOML"),
    "unknown key": (("steps =", "stepz ="), "grpo.stepz: unknown key"),
    "wrong value": (("r = 8", 'r = "many"'), "policy.lora.r"),
    "missing file": (("SOURCE", FILE_SOURCE.replace("questions", "gone")), "no such file: gone.csv"),
    "wrong column": (("SOURCE", FILE_SOURCE), "no column 'answer'"),
    "no base model": (('{ kind = "tiny" }', '{ kind = "folder", path = "no/model" }'), "base model 'no/model'"),
    "no wheel": (('{ kind = "tiny" }', '{ kind = "wheel", package = "no-wheel" }'), "'no-wheel' is not installed"),
}


@pytest.mark.parametrize(
    ("command", "mistake"), [*(("prepare", name) for name in MISTAKES), ("run", "broken TOML"), ("run", "wrong column")]
)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, settings: Settings, base: BaseRef, command: str, mistake: str
) -> None:
    (before, after), said = MISTAKES[mistake]
    home = _home(tmp_path, settings)
    (tmp_path / "questions.csv").write_text(CSV, encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text(_with_source(after) if before == "SOURCE" else SMOKE.replace(before, after), encoding="utf-8")
    done = _medgrpo(command, str(config), home=home, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "home", "questions.csv"]


def _home(tmp_path: Path, settings: Settings) -> Path:
    """A home folder of its own, with the tiny base model already built."""
    shutil.copytree(settings.root / "base_models", tmp_path / "home" / "base_models")
    return tmp_path / "home"


def _with_source(source: str) -> str:
    return "\n".join(source if line.startswith("source =") else line for line in SMOKE.splitlines())


REVISION = "0123456789abcdef0123456789abcdef01234567"


def _hub(folder: Path, rows: int) -> dict[str, str]:
    """A hub cache that holds one dataset; the variables that make it the one that is read."""
    repo = folder / "datasets--medical--questions"
    snapshot = repo / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION, encoding="utf-8")
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    asked = [
        {"q": f"Is {number} mmol/L of potassium too much for an adult?", "a": str(number)} for number in range(rows)
    ]
    (snapshot / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    return {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}


def test_prepare_finds_the_revision_that_training_asks_for(
    tmp_path: Path, settings: Settings, base: BaseRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _home(tmp_path, settings)
    for name, value in _hub(tmp_path / "hub", 120).items():
        monkeypatch.setenv(name, value)
    source = 'source = { kind = "hub", repo = "medical/questions", example_kind = "text", columns = { question = "q", gold = "a" } }'
    config = tmp_path / "config.toml"
    config.write_text(_with_source(source), encoding="utf-8")
    refused = _medgrpo("train", str(config), home=home)
    assert refused.returncode == 2
    assert "data.source.revision: pin the dataset's commit" in refused.stderr
    prepared = _medgrpo("prepare", str(config), home=home)
    assert prepared.returncode == 0, prepared.stderr
    pin = f'revision = "{REVISION}"'
    assert f"data.source: add {pin} to the config" in prepared.stdout
    assert "medical/questions 01234567, licence mit: 120 rows" in prepared.stdout
    config.write_text(_with_source(source.replace("repo =", f"{pin}, repo =")), encoding="utf-8")
    pinned = _medgrpo("prepare", str(config), home=home)
    assert "data.source: add" not in pinned.stdout
    key = next(line for line in prepared.stdout.splitlines() if line.startswith("dataset "))
    assert key in pinned.stdout, "the pinned source is the same dataset"


def test_prepare_tells_what_it_dropped_and_where_the_report_is(
    tmp_path: Path, settings: Settings, base: BaseRef
) -> None:
    home = _home(tmp_path, settings)
    done = _medgrpo("prepare", "configs/smoke.toml", "--data-docs", str(tmp_path / "docs"), home=home)
    assert done.returncode == 0, done.stderr
    for words in (
        "clinical, licence apache-2.0: 240 rows",
        "168 train",
        "24 validation",
        "48 test",
        "19 checks, 0 warnings",
    ):
        assert words in done.stdout
    report = Path(done.stdout.splitlines()[-1].removeprefix("report: "))
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list((tmp_path / "docs").rglob("index.html"))


def test_plan_trains_nothing_and_tells_rows_steps_memory_and_time(
    tmp_path: Path, settings: Settings, base: BaseRef
) -> None:
    home = _home(tmp_path, settings)
    done = _medgrpo("plan", "configs/smoke.toml", "--set", "grpo.steps=77", home=home)
    assert done.returncode == 0, done.stderr
    for words in ("steps        77", "train 168", "memory", "time", '"learning_rate": 0.001'):
        assert words in done.stdout
    assert not (home / "training").exists()
    assert not (home / "mlflow.db").exists()


def test_plan_of_a_base_that_is_not_here_says_so(tmp_path: Path) -> None:
    done = _medgrpo("plan", "configs/llama31-8b.toml", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not known on this machine" in done.stdout
    assert "meta-llama/Llama-3.1-8B-Instruct" in done.stdout


def test_rollback_without_a_previous_champion_is_refused(tmp_path: Path) -> None:
    done = _medgrpo("rollback", "configs/smoke.toml", home=tmp_path)
    assert done.returncode == 2
    assert "no previous champion" in done.stderr


def test_asking_where_nothing_is_served_says_so(tmp_path: Path) -> None:
    done = _medgrpo("ask", "How are you?", "--url", "http://127.0.0.1:9", home=tmp_path)
    assert done.returncode != 0
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("which", ["mlflow", "prefect"])
def test_a_stopped_ui_leaves_nothing_running(tmp_path: Path, which: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MEDGRPO_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "medgrpo.cli", "ui", which, "--port", str(port)]
    shown = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not _listens(port):  # the server tells nobody but its clients
        assert time.monotonic() < deadline and shown.poll() is None, f"the {which} UI did not start"
        time.sleep(0.2)
    started = psutil.Process(shown.pid).children(recursive=True)
    assert started
    shown.send_signal(signal.SIGTERM)
    shown.wait(timeout=60)
    assert psutil.wait_procs(started, timeout=20)[1] == []
    assert not _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_ctrl_c_during_training_leaves_nothing_running(tmp_path: Path, settings: Settings, base: BaseRef) -> None:
    environment = os.environ | {"MEDGRPO_HOME": str(_home(tmp_path, settings)), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "medgrpo.cli", "run", "configs/smoke.toml", "--set", "grpo.steps=400"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a background job ignore it, as would the run
    run = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    assert run.stderr is not None
    assert any(b"step 2/400" in line for line in run.stderr), "the run ended before it trained"
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) >= 2, "Prefect's server and the training process"
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    run.stderr.read()
    assert run.wait(timeout=60) == 130
    assert psutil.wait_procs(started, timeout=20)[1] == []
