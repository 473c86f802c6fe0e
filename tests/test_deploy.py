"""Deployments against a real Prefect server: made once, refused when wrong, started by a schedule, run by a worker."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

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
    with httpx.Client(base_url=prefect_api, trust_env=False, timeout=60) as client:
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


# --- containers


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_container_pool_s_template_takes_what_a_deployment_says(on_server: str, api: httpx.Client, kind: Any) -> None:
    """Prefect's own template; no container is started here."""
    place = {"pool": f"in-{kind}", "pool_type": kind, "image": "medgrpo:local"}
    done = changes([target(kind)], **place)
    assert done[f"work pool in-{kind}"] == done[f"deployment medgrpo-train/{kind}"] == "created"
    assert set(changes([target(kind)], **place).values()) == {"unchanged"}
    template = api.get(f"/work_pools/in-{kind}").json()["base_job_template"]
    variables = read(api, f"medgrpo-train/{kind}")["job_variables"]
    assert variables["image"] == "medgrpo:local"
    used = json.dumps(template["job_configuration"])
    for name in variables:
        assert name in template["variables"]["properties"], name
        assert f"{{{{ {name} }}}}" in used, f"{name} goes nowhere"


# --- what crashes


def test_hooks_take_their_arguments_by_name() -> None:
    """As a worker calls them for a flow run that it has ended, or found dead."""
    from flows.pipeline import pipeline, train_from_file
    from flows.reconcile import reconcile

    for flow in (pipeline, train_from_file, reconcile):
        for hook in (*flow.on_running_hooks, *flow.on_crashed_hooks, *flow.on_cancellation_hooks):
            inspect.signature(hook).bind(flow=flow, flow_run=None, state=None)


def change_state(api: httpx.Client, run: str, *kinds: str) -> None:
    """What the worker and the process of a flow run tell Prefect."""
    for kind in kinds:
        asked = {"state": {"type": kind, "name": kind.capitalize()}, "force": True}
        until(lambda asked=asked: api.post(f"/flow_runs/{run}/set_state", json=asked).is_success, f"{run} isn't {kind}")


def state_name(api: httpx.Client, run: str) -> str:
    return str(api.get(f"/flow_runs/{run}").json().get("state_name"))


@pytest.mark.slow
def test_a_crashed_run_is_tried_again_by_itself_until_it_gives_up(on_server: str, api: httpx.Client) -> None:
    """Real automations. The crashes are told to Prefect as a worker tells them; the end is the flow's own."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    from flows.pipeline import train_from_file
    from flows.recovery import MAX_RETRIES

    changes([target("crashing")])
    deployment = read(api, "medgrpo-train/crashing")["id"]
    broken, run = start(api, deployment, {}), start(api, deployment, {})
    change_state(api, broken, "PENDING", "CRASHED")
    for _ in range(MAX_RETRIES + 1):
        change_state(api, run, "PENDING", "RUNNING", "CRASHED")
        until(lambda: state_name(api, run) == "AwaitingRetry", "it was not tried again")
    assert state_name(api, broken) == "Crashed", "what could not start is left alone"
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(run))
    parameters = {"start_from": None, **found.parameters}
    last = run_flow(train_from_file, flow_run=found, parameters=parameters, return_type="state")
    assert last.is_failed()
    assert f"crashed {MAX_RETRIES + 1} times in a row" in last.message
    for made in (broken, run):
        api.delete(f"/flow_runs/{made}")


# --- a scheduled run, from the clock to the registry, and what comes after it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where flows run: no checkout, only a config."""
    made = tmp_path_factory.mktemp("flows-run-here")
    shutil.copy(SMOKE, made)
    return made


@pytest.fixture(scope="module")
def worker(prefect_api: str, settings: Settings, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A real process worker, with medgrpo as a package."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "scheduled", "--type", "process"]
    environment = os.environ | {
        "MEDGRPO_HOME": str(settings.root),
        "PREFECT_API_URL": prefect_api,
        "PREFECT_LOCAL_STORAGE_PATH": str(settings.root / "results"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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


def stages(api: httpx.Client, run: str, wanted: Sequence[str]) -> dict[str, set[str]]:
    """Stage → states of its task runs, once these stages are among them: Prefect hears of them a little later."""

    def read_all() -> dict[str, set[str]] | None:
        found: dict[str, set[str]] = {}
        for one in api.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json():
            found.setdefault(one["name"].rsplit("-", 1)[0], set()).add(one["state_name"])
        return found if set(wanted) <= set(found) else None

    return until(read_all, f"no task runs of {wanted}")


OVERRIDES = ["name=scheduled", "grpo.steps=2", "grpo.checkpoints=1", "grpo.num_generations=4"]
OVERRIDES += ["grpo.prompts_per_step=2", "data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"]


@pytest.fixture(scope="module")
def scheduled(prefect_api: str, api: httpx.Client, worker: Any, folder: Path) -> Any:
    """The first run of a deployment that Prefect's scheduler has started, once it has ended."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deploy import parse_schedule

    place = {"pool": "scheduled", "directory": str(folder), "schedule": parse_schedule("", "15s", "UTC")}
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        changes([target("scheduled", "smoke.toml", OVERRIDES)], **place)
    deployment = read(api, "medgrpo-train/scheduled")
    first = until(
        lambda: next((one for one in flow_runs(api, deployment["id"]) if one["state_type"] != "SCHEDULED"), None),
        "the worker took up no scheduled run",
        worker,
    )
    path = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    # SQLite answers 503 while the server's own services write.
    until(lambda: api.patch(path, json={"active": False}).is_success, "the schedule could not be ended")
    return ended(api, first["id"])


@pytest.mark.slow
def test_a_scheduled_run_trains_registers_and_decides(scheduled: Any, settings: Settings) -> None:
    assert scheduled["auto_scheduled"]
    assert scheduled["state_name"] == "Completed", scheduled["state"]["message"]
    version = registry.get("medgrpo-scheduled", 1, settings)
    assert registry.read_decision(version, settings).reasons


@pytest.mark.slow
def test_the_next_run_of_an_unchanged_config_is_nothing_new(scheduled: Any, api: httpx.Client) -> None:
    run = start(api, scheduled["deployment_id"], {})
    done = ended(api, run)
    assert (done["state_type"], done["state_name"]) == ("COMPLETED", "NothingNew")
    assert "medgrpo-scheduled version 1" in done["state"]["message"]
    assert set(stages(api, run, ["find-finished"])) == {"resolve-base", "prepare", "find-finished"}


@pytest.mark.slow
def test_changed_data_trains_again_and_a_retry_after_it_does_not(
    scheduled: Any, api: httpx.Client, settings: Settings, tmp_path: Path, on_server: str
) -> None:
    """The evaluation fails; then what `prefect flow-run retry` and the UI's button do."""
    kept, trainings = settings.root / "evaluations", settings.root / "training"
    before = set(trainings.iterdir())
    kept.rename(tmp_path / "evaluations")
    kept.write_text("not a folder: nothing can be stored under it", encoding="utf-8")
    try:
        run = start(api, scheduled["deployment_id"], {"parameters": {"overrides": [*OVERRIDES, "data.source.rows=64"]}})
        assert ended(api, run)["state_type"] == "FAILED"
    finally:
        kept.unlink()
        (tmp_path / "evaluations").rename(kept)
    (training,) = set(trainings.iterdir()) - before
    begun = (training / "job.json").stat().st_mtime_ns  # written whenever the training process starts

    command = [sys.executable, "-m", "prefect", "flow-run", "retry", run]
    subprocess.run(command, check=True, capture_output=True)
    done = ended(api, run)
    assert (done["state_name"], done["run_count"]) == ("Completed", 2), done["state"]["message"]
    assert (training / "job.json").stat().st_mtime_ns == begun, "it must not train again"
    found = stages(api, run, ["evaluate all", "close-run"])
    for stage in ("resolve-base", "prepare", "validate", "audit", "train", "report"):
        assert "Cached" in found[stage], (stage, found)
    assert found["evaluate all"] == {"Failed", "Completed"}
    first, second = (registry.get("medgrpo-scheduled", number, settings) for number in (1, 2))
    assert first.run_id != second.run_id
