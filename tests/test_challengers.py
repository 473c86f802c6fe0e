"""Four challengers of real runs, before the whole gate: equal, better in form alone, better, and worse.

The question says in words where a value lies ("It is below."), which a tiny policy can learn within a minute; the audit
of the rewards passes, as the answer itself isn't in the question.
"""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from medgrpo import registry
from medgrpo.cli.champion import REFUSED
from medgrpo.config_file import read_config
from medgrpo.data.clinical import generate
from medgrpo.promotion.audit_log import read_log
from medgrpo.settings import Settings
from medgrpo.stages import Stages
from medgrpo.types import EvalReport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = {"low": "It is below.", "high": "It is above.", "normal": "It is at most and at least."}
NOTHING = ("grpo.learning_rate=1e-9",)
LESSONS = (*NOTHING, "warm_start.rows=320", "warm_start.batch_size=8")
RUNS = {
    "equal": NOTHING,
    "form": (*LESSONS, "warm_start.learning_rate=6e-3"),
    "better": (*LESSONS, "warm_start.epochs=12", "warm_start.learning_rate=1e-2"),
    "worse": (*LESSONS, "warm_start.learning_rate=1.0"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("challengers"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "flagged.jsonl"
    rows = [
        {
            "question": f"{row.question} {WORDS[row.gold_text]}",
            "answer": row.gold_text,
            "reasoning": row.reasoning,
        }
        for row in generate(500, 5, ("blood-count",))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def challenge(name: str, questions: Path, home: Settings) -> Stages:
    """The stages of one run, trained when they are asked."""
    columns = '{question="question", gold="answer", reasoning="reasoning"}'
    overrides = [
        f'data.source={{kind="file", path="{questions}", example_kind="text", columns={columns}}}',
        "data.test_rows=128",
        "data.validation_rows=24",
        "policy.base.lessons=52",
        "grpo.steps=1",
        "grpo.checkpoints=1",
        *RUNS[name],
    ]
    return Stages(read_config(ROOT / "configs" / "smoke.toml", overrides), home)


def broken(stages: Stages) -> set[str]:
    return {verdict.rule for verdict in stages.proposal.decision.verdicts if not verdict.holds}


def figures(stages: Stages) -> tuple[EvalReport, EvalReport]:
    return stages.compared()


def answer_at_a_terminal(typed: str, stages: Stages, home: Settings) -> int:
    """Exit code of `medgrpo promote`, asked in a terminal whether the version is to be made champion."""
    path = home.root / "config.json"
    path.write_text(stages.config.model_dump_json(), encoding="utf-8")
    ours, theirs = pty.openpty()
    os.write(ours, f"{typed}\n".encode())  # the terminal keeps it until it is read
    command = [sys.executable, "-m", "medgrpo.cli", "promote", str(path)]
    environment = os.environ | {"MEDGRPO_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert f"Make version {stages.version.version} the champion?" in done.stdout, done.stderr
    return done.returncode


def test_four_challengers_get_the_right_decisions_for_the_right_reasons(questions: Path, home: Settings) -> None:
    equal = challenge("equal", questions, home)
    challenger, incumbent = figures(equal)
    assert incumbent.checkpoint.is_base and challenger.correct == incumbent.correct
    assert not equal.proposal.decision.promote and "better" in broken(equal)
    assert equal.proposal.decision.difference.mean == 0

    form = challenge("form", questions, home)
    challenger, incumbent = figures(form)
    assert challenger.format_rate.low > incumbent.format_rate.high, "its form is better, and not by chance"
    assert not form.proposal.decision.promote and "better" in broken(form)
    assert "format" not in broken(form), "nothing is wrong with its form"

    better = challenge("better", questions, home)
    assert broken(better) == set() and better.proposal.decision.promote
    assert better.proposal.decision.difference.low > 0.25
    assert answer_at_a_terminal("n", better, home) == REFUSED
    assert registry.find(better.config.model_name, "champion", home) is None
    assert answer_at_a_terminal("y", better, home) == 0
    log = read_log(better.config.model_name, home)
    assert [(entry.kind, entry.reason) for entry in log.valid[-3:]] == [
        ("refuse", "declined in the terminal"),
        ("promote", "asked"),
        ("done", ""),
    ]
    champion = registry.find(better.config.model_name, "champion", home)
    assert champion is not None and champion.version == better.version.version

    worse = challenge("worse", questions, home)
    challenger, incumbent = figures(worse)
    assert incumbent.checkpoint.adapter_digest == better.chosen.adapter_digest, "compared with the champion"
    assert not worse.proposal.decision.promote and {"better", "format"} <= broken(worse)
    assert worse.proposal.decision.difference.high < 0
    assert registry.find(worse.config.model_name, "champion", home) == champion
