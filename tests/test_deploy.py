"""Deployments against a real Prefect server: made once, refused when wrong, started by a schedule, run by a worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT
from prefect_server import until

from medgrpo import registry
from medgrpo.errors import UserError
from medgrpo.processes import end_group
from medgrpo.settings import Settings

SMOKE = str(ROOT / "configs" / "smoke.toml")


def changes(targets: list[Any], **place: Any) -> dict[str, str]:
    from flows.deploy import Place, deploy

    return dict(deploy(targets, Place(**place)))


def target(name: str, path: str = SMOKE, overrides: list[str] | None = None) -> Any:
    from flows.deploy import Target

    return Target(name, path, overrides or [])


@pytest.fixture(scope="module")
def api(prefect_api: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=prefect_api, trust_env=False, timeout=30) as client:
        yield client


def read(api: httpx.Client, name: str) -> Any:
    return api.get(f"/deployments/name/{name}").raise_for_status().json()


def test_a_second_deploy_changes_nothing(on_server: str, api: httpx.Client) -> None:
    from flows.deploy import parse_schedule

    place = {"schedule": parse_schedule("0 2 * * 0", "", "Europe/London"), "directory": str(ROOT), "pool": "twice"}
    place["notify_url"] = "http://127.0.0.1:9/secret-token"
    first = changes([target("twice")], **place)
    assert first["deployment medgrpo-train/twice"] == first["work pool twice"] == "created"
    ids = sorted(one["id"] for one in api.post("/automations/filter", json={}).json())
    second = changes([target("twice")], **place)
    assert set(second.values()) == {"unchanged"}, second
    assert sorted(one["id"] for one in api.post("/automations/filter", json={}).json()) == ids
    deployment = read(api, "medgrpo-train/twice")
    (schedule,) = deployment["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * 0" and schedule["schedule"]["timezone"] == "Europe/London"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert api.get("/v2/concurrency_limits/tag:gpu").json()["limit"] == 1
    assert api.get("/work_pools/twice").json()["type"] == "process"


def test_a_change_is_brought_there_and_a_schedule_kept(on_server: str, api: httpx.Client) -> None:
    from flows.deploy import parse_schedule

    changes([target("kept")], schedule=parse_schedule("", "6h", "UTC"))
    done = changes([target("kept", overrides=["seed=5"])], gpus=2)
    assert done["deployment medgrpo-train/kept"] == done["limit of the tag gpu: 2 at once"] == "updated"
    deployment = read(api, "medgrpo-train/kept")
    assert deployment["parameters"]["overrides"] == ["seed=5"]
    assert deployment["schedules"][0]["schedule"]["interval"] == 6 * 3600
    assert changes([], gpus=1)["limit of the tag gpu: 1 at once"] == "updated"


@pytest.mark.parametrize(
    "wrong",
    [
        {"config_path": 3},
        {"config_path": "smoke.yaml"},
        {"overrides": ["seed"]},
        {"overrides": "seed=3"},
        {"start_from": "traning"},
        {"steps": 3},
    ],
    ids=str,
)
def test_a_wrong_form_is_refused(on_server: str, api: httpx.Client, wrong: dict[str, Any]) -> None:
    changes([target("form")])
    deployment = read(api, "medgrpo-train/form")
    asked = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": wrong})
    assert asked.status_code == 409, asked.text
    good = {"overrides": ["seed=3", "grpo.beta=0.01"], "start_from": "evaluate", "config_path": "configs/own.toml"}
    made = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": good})
    assert made.status_code == 201, made.text
    api.delete(f"/flow_runs/{made.json()['id']}")


def test_prefect_yaml_says_the_same(on_server: str) -> None:
    from flows.deploy import RECONCILE, flows_of

    path = "configs/llama31-8b.toml"
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    training, promoting = flows_of(target("llama31-8b", path), None)
    meant = [training, RECONCILE, promoting]
    for entry, flow in zip(written, meant, strict=True):
        assert entry["name"] == flow.name
        for key in ("entrypoint", "tags", "description", "parameters"):
            assert entry[key] == getattr(flow, key), key
        assert entry.get("concurrency_limit") == flow.concurrency_limit
        assert entry["work_pool"]["name"] == "medgrpo"


@pytest.mark.parametrize(
    ("cron", "interval", "told"),
    [
        ("every night", "", "--cron 'every night'"),
        ("", "6", "--interval '6'"),
        ("", "-3h", "--interval '-3h'"),
        ("0 2 * * *", "6h", "choose one"),
    ],
)
def test_a_wrong_schedule_is_one_message(cron: str, interval: str, told: str) -> None:
    from flows.deploy import parse_schedule

    with pytest.raises(UserError, match=told):
        parse_schedule(cron, interval, "UTC")


def run_deploy(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "medgrpo.cli", "deploy", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)


def test_no_server_is_one_clear_message(tmp_path: Path) -> None:
    away = run_deploy({"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}, SMOKE)
    assert away.returncode == 2
    assert away.stderr.startswith("medgrpo: no Prefect server answers at http://127.0.0.1:9/api")
    assert "Traceback" not in away.stderr


# --- a scheduled run, from the clock to the registry


@pytest.fixture
def worker(on_server: str, settings: Settings, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A real process worker."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "scheduled", "--type", "process"]
    environment = os.environ | {
        "MEDGRPO_HOME": str(settings.root),
        "PREFECT_API_URL": on_server,
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.root / "results"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            end_group(process, 20)


def flow_runs(api: httpx.Client, deployment: str) -> list[Any]:
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
    return list(api.post("/flow_runs/filter", json=wanted).raise_for_status().json())


def start(api: httpx.Client, deployment: str, asked: dict[str, Any]) -> str:
    """Id of a new flow run."""
    path = f"/deployments/{deployment}/create_flow_run"
    made = until(
        lambda: answer if (answer := api.post(path, json=asked)).is_success else None, "no flow run could be made"
    )
    return str(made.json()["id"])


def ended(api: httpx.Client, run: str) -> Any:
    """The flow run once it has ended."""

    def last() -> Any:
        found = api.get(f"/flow_runs/{run}").json()
        return found if found.get("state_type") in ("COMPLETED", "FAILED", "CRASHED") else None

    return until(last, f"flow run {run} did not end")


@pytest.mark.slow
def test_a_scheduled_run_trains_registers_and_decides(
    on_server: str, api: httpx.Client, worker: Any, settings: Settings, tmp_path: Path
) -> None:
    from flows.deploy import parse_schedule

    overrides = ["name=scheduled", "grpo.steps=2", "grpo.checkpoints=1", "grpo.num_generations=4"]
    overrides += ["grpo.prompts_per_step=2", "data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"]
    place = {"pool": "scheduled", "directory": str(ROOT)}
    changes([target("scheduled", SMOKE, overrides)], schedule=parse_schedule("", "15s", "UTC"), **place)
    deployment = read(api, "medgrpo-train/scheduled")
    first = until(
        lambda: next((one for one in flow_runs(api, deployment["id"]) if one["state_type"] != "SCHEDULED"), None),
        "the worker took up no scheduled run",
        worker,
    )
    assert first["auto_scheduled"]
    schedule = deployment["schedules"][0]["id"]
    path = f"/deployments/{deployment['id']}/schedules/{schedule}"
    # SQLite answers 503 while the server's own services write.
    until(lambda: api.patch(path, json={"active": False}).is_success, "the schedule could not be ended")
    done = ended(api, first["id"])
    assert done["state_name"] == "Completed", done["state"]["message"]

    version = registry.get("medgrpo-scheduled", 1, settings)
    assert registry.read_decision(version, settings).reasons
