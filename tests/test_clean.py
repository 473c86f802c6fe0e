"""Cleaning: what is old and not needed goes; champion and previous go on serving, and their figures can be recomputed."""

import fcntl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_server import free_port, prefect_server
from serve_driver import served_answer

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.errors import MedgrpoError, UserError
from medgrpo.evaluation import check_figures
from medgrpo.registry import Aliases
from medgrpo.settings import Settings
from medgrpo.stages import Stages
from medgrpo.tracking import FLOW_RUN_TAG, connect, tag_run
from medgrpo.upkeep.clean import Item, Plan, carry_out, describe, parse_age, plan_cleaning
from medgrpo.upkeep.flow_runs import ended_flow_runs

NOW = parse_age("0h")


@pytest.mark.parametrize(
    ("text", "age"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("8w", timedelta(weeks=8))]
)
def test_an_age_is_read(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1.5d", "30 days", "3m", ""])
def test_what_is_no_age_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"--older-than.*as in 30d"):
        parse_age(text)


def test_the_command_refuses_before_it_loads_anything() -> None:
    command = [sys.executable, "-m", "medgrpo.cli", "clean", "--older-than", "soon"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "'soon' is no age" in ended.stderr


def test_a_training_that_somebody_works_on_is_left_alone(tmp_path: Path) -> None:
    folders = [tmp_path / "training" / name for name in ("busy", "idle")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
    items = tuple(Item(kind="training", name=folder.name, place=str(folder)) for folder in folders)
    with (folders[0] / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert carry_out(Plan(items=items, kept=(), prefect_url=""), Settings(home=tmp_path)) == 1
    assert [folder.exists() for folder in folders] == [True, False]


def test_the_table_says_how_much_and_that_nothing_is_gone_yet() -> None:
    items = (Item(kind="training", name="a", place="x", size=3 * 2**20), Item(kind="adapter", name="b", size=2**19))
    told = describe(Plan(items=items, kept=(), prefect_url=""), done=False)
    assert "training           1      3 MiB" in told
    assert told.endswith("Nothing was removed. 4 MiB would go with --yes.")
    assert "--yes" not in describe(Plan(items=items, kept=(), prefect_url=""), done=True)


def test_a_prefect_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(MedgrpoError, match=rf"127.0.0.1:{port}.*PREFECT_API_URL"):
        ended_flow_runs(NOW, f"http://127.0.0.1:{port}/api")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home folder of this module: it is cleaned."""
    return Settings(home=tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def made(config: Config, home: Settings) -> dict[str, Stages]:
    """Three trainings with a version and a decision each: an old one, the previous champion, the champion."""
    found = {}
    for seed, name in enumerate(("old", "previous", "champion"), 21):
        grpo = config.grpo.model_copy(update={"steps": 1, "checkpoints": 1})
        found[name] = Stages(config.model_copy(update={"seed": seed, "grpo": grpo}), home)
        assert found[name].proposal.decision.verdicts
    registry.set_aliases(
        config.model_name,
        Aliases(champion=found["champion"].version.version, previous=found["previous"].version.version),
        home,
    )
    return found


def _flow_run(url: str, flow: str) -> str:
    """A flow run that has just ended."""
    flow_id = httpx.post(f"{url}/flows/", json={"name": flow}, timeout=30).json()["id"]
    run: dict[str, Any] = httpx.post(f"{url}/flow_runs/", json={"flow_id": flow_id}, timeout=30).json()
    for kind in ("RUNNING", "COMPLETED"):
        state = {"state": {"type": kind}, "force": True}
        httpx.post(f"{url}/flow_runs/{run['id']}/set_state", json=state, timeout=30).raise_for_status()
    return str(run["id"])


@pytest.mark.slow
def test_what_is_young_stays(made: dict[str, Stages], home: Settings) -> None:
    assert plan_cleaning(parse_age("1d"), home).items == ()


@pytest.mark.slow
def test_only_what_nobody_needs_goes_and_the_rest_still_works(
    made: dict[str, Stages], home: Settings, tmp_path: Path
) -> None:
    old, *needed = made.values()
    keys = {name: _report_keys(stages) for name, stages in made.items()}
    client = connect(home)
    trash = client.create_run(old.run.experiment_id, run_name="mistake").info.run_id
    for run_id in (trash, made["previous"].run.run_id):
        client.delete_run(run_id)
    with prefect_server(tmp_path) as url:
        of_champion, done = _flow_run(url, "medgrpo-train"), _flow_run(url, "medgrpo")
        foreign = _flow_run(url, "payroll")
        tag_run(made["champion"].run.run_id, FLOW_RUN_TAG, of_champion, home)
        assert [run.run_id for run in ended_flow_runs(NOW, url)] == [of_champion, done]
        assert ended_flow_runs(parse_age("1h"), url) == []
        plan = plan_cleaning(NOW, home, url)
        before = {path for path in home.root.rglob("*") if path.is_file()}
        _is_of_the_old_one(plan, old, needed, keys)
        gone = {item.name.split()[0] for item in plan.items if item.kind in ("flow run", "MLflow run")}
        assert gone == {trash, done}
        text = describe(plan, done=False)
        assert "(champion and challenger)" in text and "(previous)" in text
        assert before == {path for path in home.root.rglob("*") if path.is_file()}, "a dry run removes nothing"
        assert carry_out(plan, home) == len(plan.items)
        left = httpx.post(f"{url}/flow_runs/filter", json={}, timeout=30).json()
        assert {run["id"] for run in left} == {of_champion, foreign}
    assert plan_cleaning(NOW, home).items == ()
    client.restore_run(made["previous"].run.run_id)
    assert not home.training(old.run.key).exists()
    for name in ("champion", "previous"):
        _still_works(made[name], home)


def _report_keys(stages: Stages) -> set[str]:
    return {report.key for report in (*stages.reports("validation"), *stages.compared())}


def _is_of_the_old_one(plan: Plan, old: Stages, needed: list[Stages], keys: dict[str, set[str]]) -> None:
    found = {
        kind: {item.name for item in plan.items if item.kind == kind} for kind in ("training", "dataset", "adapter")
    }
    assert found["training"] == {old.run.key}
    assert found["dataset"] == {old.dataset.key}
    assert found["adapter"] == {old.version.adapter_digest} - {stages.version.adapter_digest for stages in needed}
    evaluations = {item.name for item in plan.items if item.kind == "evaluation"}
    assert keys["old"] <= evaluations
    assert not evaluations & (keys["previous"] | keys["champion"])


def _still_works(stages: Stages, home: Settings) -> None:
    """It serves, and its figures come again out of the stored rows, without a training."""
    log = home.training(stages.run.key) / "train.log"
    trained = log.stat().st_size
    served, _ = served_answer(stages.config, home, "Is 2 more than 1?", stages.version.version)
    assert served.version.endswith(f"/{stages.version.version}")
    again = Stages(stages.config, home)
    for split in ("validation", "test"):
        for report in again.reports(split):
            check_figures(report, again.config.evaluation, home)
    assert again.version == stages.version
    assert log.stat().st_size == trained, "it must not train again"
