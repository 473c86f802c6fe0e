"""The servers of docker-compose.yml, started natively on a real PostgreSQL: the smoke pipeline, its guards, its backup.

Commands, variables, order and health checks are read from the compose file, deploy commands from its first comment, backup and
restore commands from docs/operations.md.
"""

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from native_stack import ROOT, Missing, Stack, commands_of, read_compose, running

from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.policy import adapter_digest

pytestmark = pytest.mark.slow

SECRETS = {
    "POSTGRES_PASSWORD": "super/us:er@'1",
    "MLFLOW_DB_PASSWORD": 'ml\'flow "2" $3',
    "PREFECT_DB_PASSWORD": "pre@fect/3%",
    "MLFLOW_TRACKING_USERNAME": "keeper",
    "MLFLOW_TRACKING_PASSWORD": "twelve-letters-4",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs",
    "PREFECT_API_AUTH_STRING": "pipeline:five",
    "MEDGRPO_API_KEY": "six",
    "HF_TOKEN": "",
}
"""With what a shell, a URI and SQL would trip over."""
CONFIG = "configs/stack.json"
REPLACED = {"configs/llama31-8b.toml": CONFIG, "medgrpo-train/llama31-8b": "medgrpo-train/smoke"}
"""An 8B policy needs a GPU; a deployment is called after its config's name."""
MODEL = "medgrpo-smoke"

# What answers to anybody: no more than whether it lives, and the files of the user interfaces.
OPEN = {
    "mlflow": {"/health", "/version", "/static-files"},
    "prefect": {"/api/health", "/api/ready"},
    "serve": {"/health", "/ready"},
}
PUBLIC = "/mlflow/server-info"
"""What MLflow can do, for clients before they log in; no secret, and no data."""
CLOSED = [
    ("mlflow", "GET", "/"),
    ("mlflow", "POST", "/api/2.0/mlflow/runs/search"),
    ("mlflow", "GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
    ("mlflow", "POST", "/api/2.0/mlflow/runs/create"),
    ("mlflow", "GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"),
    ("mlflow", "GET", "/api/2.0/mlflow/registered-models/search"),
    ("mlflow", "POST", "/api/2.0/mlflow/registered-models/alias"),
    ("mlflow", "POST", "/api/2.0/mlflow/users/create"),
    ("mlflow", "GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ("mlflow", "PUT", "/api/2.0/mlflow-artifacts/artifacts/0/evil"),
    ("mlflow", "DELETE", "/api/2.0/mlflow-artifacts/artifacts/0"),
    ("mlflow", "GET", "/get-artifact?path=config.json&run_uuid=0"),
    ("mlflow", "POST", "/graphql"),
    ("mlflow", "POST", "/api/3.0/mlflow/traces"),
    ("mlflow", "POST", "/v1/traces"),
    ("mlflow", "POST", "/ajax-api/3.0/jobs/"),
    ("mlflow", "GET", "/api/2.0/mlflow/secrets/get"),
    ("prefect", "POST", "/api/flows/filter"),
    ("prefect", "POST", "/api/flow_runs/filter"),
    ("prefect", "POST", "/api/deployments/filter"),
    ("prefect", "GET", "/api/admin/settings"),
    ("prefect", "POST", "/api/variables/filter"),
    ("prefect", "POST", "/api/block_documents/filter"),
    ("prefect", "POST", "/api/logs/filter"),
    ("serve", "POST", "/v1/chat/completions"),
    ("serve", "GET", "/v1/models"),
]


def _smoke() -> Config:
    overrides = ["grpo.steps=1", "grpo.checkpoints=1", "grpo.num_generations=4", "grpo.prompts_per_step=2"]
    overrides += ["data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"]
    return read_config(ROOT / "configs/smoke.toml", overrides)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """All services, the deployments made, and the pipeline run once through them."""
    # pytest's folders are closed to others, and PostgreSQL doesn't run as root.
    folder = Path(tempfile.mkdtemp(prefix="medgrpo-stack-"))
    folder.chmod(0o755)
    try:
        with running(Stack(SECRETS, folder, REPLACED)) as started:
            _run_the_pipeline(started)
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_the_pipeline(stack: Stack) -> None:
    (stack.app / CONFIG).write_text(_smoke().model_dump_json(), encoding="utf-8")
    for name in ("postgres", "mlflow", "prefect", "worker"):
        stack.start(name)
    commands = commands_of((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert [service for service, _ in commands] == ["worker", "worker"]
    for service, command in commands:
        stack.execute(service, command)
    # By hand, which counts as it stands: four steps teach too little for the gate.
    alias = {"name": MODEL, "alias": "champion", "version": "1"}
    keeper = ("keeper", SECRETS["MLFLOW_TRACKING_PASSWORD"])
    moved = f"{stack.url('mlflow')}/api/2.0/mlflow/registered-models/alias"
    httpx.post(moved, json=alias, auth=keeper, timeout=60).raise_for_status()


@pytest.fixture(scope="module")
def mlflow(stack: Stack) -> httpx.Client:
    """A client that knows the password."""
    return httpx.Client(base_url=stack.url("mlflow"), auth=("keeper", SECRETS["MLFLOW_TRACKING_PASSWORD"]), timeout=60)


def _champion(mlflow: httpx.Client) -> dict[str, Any]:
    found = mlflow.get("/api/2.0/mlflow/registered-models/alias", params={"name": MODEL, "alias": "champion"})
    assert found.status_code == 200, found.text
    version: dict[str, Any] = found.json()["model_version"]
    return version


def test_a_deployment_trains_registers_and_decides(stack: Stack, mlflow: httpx.Client) -> None:
    runs = httpx.post(f"{stack.url('prefect')}/api/flow_runs/filter", json={}, auth=("pipeline", "five")).json()
    assert {run["state_name"] for run in runs if not run["auto_scheduled"]} == {"Completed"}
    version = _champion(mlflow)
    run = mlflow.get("/api/2.0/mlflow/runs/get", params={"run_id": version["run_id"]}).json()["run"]
    assert run["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["prefect.flow_run_id"] in {run["id"] for run in runs}


def test_the_served_stage_answers_with_the_key(stack: Stack, mlflow: httpx.Client) -> None:
    stack.start("serve")
    asked = {"messages": [{"role": "user", "content": "Urea is 21 mmol/L (reference range 2.5-7.8). Low or high?"}]}
    key = {"Authorization": f"Bearer {SECRETS['MEDGRPO_API_KEY']}"}
    answer = httpx.post(f"{stack.url('serve')}/v1/chat/completions", json=asked, headers=key, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["medgrpo"]["version"] == f"{MODEL}/{_champion(mlflow)['version']}"


@pytest.mark.parametrize(("service", "method", "path"), CLOSED)
def test_a_call_without_or_with_wrong_credentials_is_refused(
    stack: Stack, service: str, method: str, path: str
) -> None:
    stack.start(service)
    wrong: list[dict[str, str]] = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="}]
    for headers in wrong:
        answer = httpx.request(method, stack.url(service) + path, headers=headers, timeout=60)
        assert answer.status_code in (401, 403), f"{headers}: {answer.status_code} {answer.text[:200]}"


def test_every_route_of_prefects_api_asks_for_the_password(stack: Stack) -> None:
    from prefect.server.api.server import create_api_app

    with httpx.Client(base_url=stack.url("prefect"), timeout=60) as client:
        tried = 0
        for template, methods in create_api_app().openapi()["paths"].items():
            path = "/api" + re.sub(r"{[^}]+}", "00000000-0000-0000-0000-000000000000", template)
            for method in methods:
                if path not in OPEN["prefect"]:
                    tried += 1
                    assert client.request(method.upper(), path).status_code == 401, f"{method} {path}"
    assert tried > 150


def test_every_route_of_mlflow_asks_for_the_password(stack: Stack) -> None:
    import mlflow.server

    with httpx.Client(base_url=stack.url("mlflow"), timeout=60) as client:
        tried = 0
        for rule in mlflow.server.app.url_map.iter_rules():
            path = re.sub(r"<[^>]+>", "0", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                if not path.startswith(tuple(OPEN["mlflow"])) and not path.endswith(PUBLIC):
                    tried += 1
                    status = client.request(method, path).status_code
                    assert status in (401, 403), f"{method} {path}: {status}"
    assert tried > 150


def test_mlflow_answers_to_its_own_names_only(stack: Stack) -> None:
    path = f"{stack.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    port = stack.url("mlflow").rpartition(":")[2]
    keeper = ("keeper", SECRETS["MLFLOW_TRACKING_PASSWORD"])
    status = {
        host: httpx.get(path, headers={"Host": host}, auth=keeper, timeout=60).status_code
        for host in (f"mlflow:{port}", f"127.0.0.1:{port}", "evil.example")
    }
    assert status == {f"mlflow:{port}": 200, f"127.0.0.1:{port}": 200, "evil.example": 403}


def test_no_secret_is_in_a_command_line_or_a_log(stack: Stack) -> None:
    import psutil

    stack.start("serve")
    told = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    told += [path.read_text(encoding="utf-8", errors="replace") for path in stack.folder.glob("*.log")]
    # Short words may stand anywhere.
    for name, secret in SECRETS.items():
        assert len(secret) < 8 or not [text for text in told if secret in text], name


def test_a_lost_cluster_comes_back_from_the_documented_backup(stack: Stack, mlflow: httpx.Client) -> None:
    """Last in this module: it throws the databases and the artifacts away."""
    before, folder = _champion(mlflow), stack.folder / "backup"
    folder.mkdir()
    stack.stop("worker")
    if "serve" in stack._processes:
        stack.stop("serve")
    for line in _documented("backup"):
        _execute(stack, line, folder)
    assert {path.name for path in folder.iterdir()} == {"mlflow.dump", "prefect.dump", "artifacts.tar"}
    for name in ("mlflow", "prefect"):
        stack.stop(name)
    shutil.rmtree(stack.put_path("/artifacts"))
    stack.put_path("/artifacts").mkdir()
    stack.renew_postgres()
    for line in _documented("restore"):
        _execute(stack, line, folder)
    stack.start("mlflow")
    assert _champion(mlflow) == before
    (stored,) = stack.put_path("/artifacts").rglob(f"{before['source'].rpartition('/')[2]}/artifacts")
    digest = {tag["key"]: tag["value"] for tag in before["tags"]}["medgrpo.adapter_digest"]
    assert adapter_digest(stored) == digest
    counted = stack.execute("postgres", ["psql", "-At", "--dbname=prefect", "--command=select count(*) from flow_run"])
    assert int(counted.stdout) >= 1


def _documented(part: str) -> list[str]:
    """The commands of a part of docs/operations.md that run inside a service."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- {part} -->\s*```\n(.*?)```", text, re.DOTALL)
    assert block, f"docs/operations.md has no commands of {part}"
    return [line for line in block[1].splitlines() if line.startswith("docker compose exec")]


def _execute(stack: Stack, line: str, folder: Path) -> None:
    """Run such a line natively, its redirections in a folder."""
    words = shlex.split(line)
    assert words[:4] == ["docker", "compose", "exec", "-T"], line
    service, command = words[4], words[5:]
    if command[-2] == ">":
        with (folder / command[-1]).open("wb") as output:
            stack.execute(service, command[:-2], stdout=output)
    elif command[-2] == "<":
        with (folder / command[-1]).open("rb") as given:
            stack.execute(service, command[:-2], stdin=given)
    else:
        stack.execute(service, command)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_variable_that_is_not_set_stops_the_stack_with_its_meaning(name: str) -> None:
    given = {key: value for key, value in SECRETS.items() if key != name}
    with pytest.raises(Missing, match=f"{name}: ."):
        read_compose(given)


def test_the_tested_postgresql_is_the_pinned_one(stack: Stack) -> None:
    shown = stack.execute("postgres", ["postgres", "--version"]).stdout.decode().split()[-1]
    assert stack.services["postgres"]["image"].startswith(f"postgres:{shown}-")
