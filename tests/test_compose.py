"""The files that start the services say the same as the code: variables, secrets, ports, command lines, entrypoints."""

import ast
import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from medgrpo.environment import prefect_variables
from medgrpo.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NAMES = ("postgres", "mlflow", "prefect", "worker", "serve")
DOCKERFILES = ("Dockerfile", "mlflow/Dockerfile")

INTERPOLATION = re.compile(r"\$\{(\w+)([^}]*)\}")
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|AUTH_STRING")
SERVICE_KEYS = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "environment",
    "healthcheck",
    "image",
    "init",
    "logging",
    "ports",
    "restart",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "user",
    "volumes",
}


def settings_variables() -> set[str]:
    return {f"MEDGRPO_{field.upper()}" for field in Settings.model_fields}


def compose_text() -> str:
    """The compose file as the parser sees it: a variable in a comment is no variable."""
    return yaml.safe_dump(COMPOSE, width=10_000)


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assignments = [line.partition("=") for line in lines if line and not line.startswith("#")]
    names = [name for name, _, _ in assignments]
    assert len(names) == len(set(names)), "a variable is there twice"
    assert all(equals for _, equals, _ in assignments)
    return {name: value for name, _, value in assignments}


def flag_value(command: list[str], flag: str) -> str:
    for position, word in enumerate(command):
        if word == flag:
            return command[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    raise AssertionError(f"{flag} is not in {command}")


def flags(command: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in command if word.startswith("-")}


def seconds(duration: str) -> int:
    parts = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert parts, duration
    return 60 * int(parts[1] or 0) + int(parts[2] or 0)


def dockerfile_steps(path: str) -> list[list[str]]:
    """A Dockerfile's instructions as words, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / path).read_text(encoding="utf-8"))
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@cache
def help_of(*command: str) -> frozenset[str]:
    """Every option that a command's `--help` lists; its prose, which names options too, doesn't count."""
    shown = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    columns = [re.match(r"[\s│|]*(-{1,2}\w.*?)(?:\s{3,}|$)", line) for line in shown.splitlines()]
    found = {word.strip(",") for column in columns if column for word in re.split(r"[\s/]+", column[1])}
    return frozenset(word for word in found if word.startswith("-"))


def test_the_services_are_the_documented_ones() -> None:
    assert set(SERVICES) == set(NAMES)
    assert set(COMPOSE) <= {"name", "services", "volumes", *(key for key in COMPOSE if key.startswith("x-"))}


def test_the_file_fits_the_compose_specification() -> None:
    import check_jsonschema
    import jsonschema

    vendored = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text(encoding="utf-8"))
    jsonschema.validate(COMPOSE, schema)
    wrong = COMPOSE | {"services": SERVICES | {"mlflow": SERVICES["mlflow"] | {"helthcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("name", NAMES)
def test_service_has_only_known_keys_of_the_right_shape(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert all(isinstance(value, str) for value in service["environment"].values()), "quote booleans and numbers"
    assert all(isinstance(word, str) for word in service.get("command", []))
    assert all(condition == {"condition": "service_healthy"} for condition in service.get("depends_on", {}).values())
    assert set(service.get("depends_on", {})) <= set(SERVICES)


@pytest.mark.parametrize("name", NAMES)
def test_service_is_built_here_or_pinned(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        build = service["build"]
        assert (ROOT / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
    else:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", service["image"]), "not a full version"


def test_prefect_worker_and_served_stage_share_one_image() -> None:
    assert (
        len({(SERVICES[name]["image"], str(SERVICES[name]["build"])) for name in ("prefect", "worker", "serve")}) == 1
    )


@pytest.mark.parametrize("name", NAMES)
def test_service_is_watched_and_restarted(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    assert seconds(service["stop_grace_period"]) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_service_does_not_run_as_root(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        assert service["user"] not in ("root", "0", 0)
        return
    steps = dockerfile_steps(service["build"]["dockerfile"])
    last_stage = max(position for position, step in enumerate(steps) if step[0] == "FROM")
    users = [step[1] for step in steps[last_stage:] if step[0] == "USER"]
    assert users and users[-1] not in ("root", "0")
    assert "user" not in service


@pytest.mark.parametrize(
    ("name", "path", "port"),
    [
        ("mlflow", "/health", "5000"),
        ("prefect", "/api/health", "4200"),
        ("worker", "/health", "8080"),
        ("serve", "/health", "8000"),
    ],
)
def test_health_check_asks_where_the_service_listens(name: str, path: str, port: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][-1] == f"http://127.0.0.1:{port}{path}"
    if name == "worker":
        from prefect.settings.models.worker import WorkerWebserverSettings

        assert "--with-healthcheck" in service["command"]
        assert WorkerWebserverSettings.model_fields["port"].default == int(port)
    else:
        assert flag_value(service["command"], "--port") == port
        assert flag_value(service["command"], "--host") == "0.0.0.0"


def test_health_probe_fails_when_nothing_listens() -> None:
    probe = SERVICES["mlflow"]["healthcheck"]["test"]
    command = [sys.executable, *probe[2:-1], "http://127.0.0.1:1/health"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_ports_are_published_on_loopback_only() -> None:
    published = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", [])]
    assert {name for name, _ in published} == {"mlflow", "prefect", "serve"}
    for name, port in published:
        assert isinstance(port, str)
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert outside == inside == flag_value(SERVICES[name]["command"], "--port")


def test_volumes_are_declared_and_used() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    for source in (source for source in sources if source.startswith(".")):
        assert (ROOT / source).is_file()
    assert all(mount.endswith(":ro") for mount in mounts if mount.startswith("."))


def test_compose_and_example_name_the_same_variables() -> None:
    assert {name for name, _ in INTERPOLATION.findall(compose_text())} == set(example())


def test_every_variable_is_required_and_none_has_a_default() -> None:
    text = compose_text()
    for name, rest in INTERPOLATION.findall(text):
        optional = name == "HF_TOKEN"
        assert re.match(r"\?." if optional else r":\?.", rest), f"{name}{rest}"
    assert text.count("$") == len(INTERPOLATION.findall(text)), "a variable without braces, or a nested one"
    assert not any(example().values())


def test_secrets_come_from_the_environment_only() -> None:
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if SECRET.search(name) and not name.startswith("MLFLOW_AUTH_CONFIG"):
                assert INTERPOLATION.fullmatch(value), name
    for name in (".env.example", "docker-compose.yml", "prefect.yaml", "mlflow/basic_auth.ini", *DOCKERFILES):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), f"{name}: a password in a URI"
    for path in DOCKERFILES:
        assert not [step for step in dockerfile_steps(path) if step[0] in ("ARG", "ENV") and SECRET.search(str(step))]


def test_every_variable_of_the_example_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert "openssl rand -base64 32" in "\n".join(lines)
    for block in "\n".join(lines).split("\n\n"):
        assert block.startswith("#"), block


def test_our_variables_are_settings() -> None:
    known = settings_variables() | {"MEDGRPO_API_KEY"}
    used = {name for service in SERVICES.values() for name in service["environment"] if name.startswith("MEDGRPO_")}
    assert used | {name for name in example() if name.startswith("MEDGRPO_")} <= known
    assert used >= {"MEDGRPO_HOME", "MEDGRPO_TRACKING_URI", "MEDGRPO_API_KEY"}


def test_served_stage_reads_its_key_where_compose_puts_it() -> None:
    from medgrpo.serve.api_keys import API_KEY

    assert API_KEY in SERVICES["serve"]["environment"]


def test_worker_and_served_stage_share_the_home_and_the_tracking_server() -> None:
    for name in ("worker", "serve"):
        environment = SERVICES[name]["environment"]
        assert f"medgrpo-home:{environment['MEDGRPO_HOME']}" in SERVICES[name]["volumes"]
        host = environment["MEDGRPO_TRACKING_URI"].removeprefix("http://")
        assert host in flag_value(SERVICES["mlflow"]["command"], "--allowed-hosts").split(",")
        assert host == f"mlflow:{flag_value(SERVICES['mlflow']['command'], '--port')}"
        assert (
            SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_PASSWORD"] == environment["MLFLOW_TRACKING_PASSWORD"]
        )
        assert (
            SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_ADMIN_USERNAME"] == environment["MLFLOW_TRACKING_USERNAME"]
        )


def test_worker_reaches_prefect_and_keeps_its_folders(tmp_path: Path) -> None:
    environment = SERVICES["worker"]["environment"]
    server = SERVICES["prefect"]
    assert environment["PREFECT_API_URL"] == f"http://prefect:{flag_value(server['command'], '--port')}/api"
    assert environment["PREFECT_API_AUTH_STRING"] == server["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    here = prefect_variables(Settings(home=tmp_path))
    for name in ("PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH", "PREFECT_LOGGING_EXTRA_LOGGERS"):
        assert environment[name] == here[name].replace(str(tmp_path.resolve()), environment["MEDGRPO_HOME"])


def test_processes_get_the_time_they_ask_for_to_end() -> None:
    from medgrpo.grpo import launch
    from medgrpo.serve import process

    assert seconds(SERVICES["worker"]["stop_grace_period"]) > launch.GRACE_S
    assert seconds(SERVICES["serve"]["stop_grace_period"]) > process.GRACE_S


def test_both_servers_use_their_database_without_a_password_in_the_uri() -> None:
    mlflow, prefect, postgres = (SERVICES[name] for name in ("mlflow", "prefect", "postgres"))
    auth = configparser.ConfigParser()
    auth.read(ROOT / "mlflow/basic_auth.ini", encoding="utf-8")
    uri = "postgresql://mlflow@postgres:5432/mlflow"
    assert flag_value(mlflow["command"], "--backend-store-uri") == auth["mlflow"]["database_uri"] == uri
    assert "admin_password" not in auth["mlflow"]
    url = prefect["environment"]["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert url == "postgresql+asyncpg://prefect@postgres:5432/prefect"
    init = (ROOT / "mlflow/postgres-init.sh").read_text(encoding="utf-8")
    for name, service in (("mlflow", mlflow), ("prefect", prefect)):
        variable = f"{name.upper()}_DB_PASSWORD"
        assert f"CREATE DATABASE {name} OWNER {name};" in init
        assert f"\\getenv {name}_password {variable}" in init
        assert service["environment"]["PGPASSWORD"] == postgres["environment"][variable]


def test_init_script_can_be_run_by_another_user() -> None:
    script = ROOT / "mlflow/postgres-init.sh"
    assert script.stat().st_mode & 0o005 == 0o005
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_mlflow_reads_its_auth_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.server.auth.config import read_auth_config

    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(ROOT / "mlflow/basic_auth.ini"))
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "from the environment")
    config = read_auth_config()
    assert (config.admin_username, config.admin_password) == ("someone", "from the environment")
    assert config.default_permission == "READ"


def test_mlflow_variables_are_known_to_mlflow() -> None:
    import mlflow
    from mlflow import environment_variables

    assert mlflow.__file__ and not Path(mlflow.__file__).is_relative_to(ROOT / "mlflow")
    source = Path(environment_variables.__file__).read_text(encoding="utf-8")
    for service in SERVICES.values():
        for name in service["environment"]:
            if name.startswith("MLFLOW_") and not name.endswith("_DB_PASSWORD"):
                assert f'"{name}"' in source, name


def test_prefect_variables_are_known_to_prefect() -> None:
    from prefect.settings import Settings as PrefectSettings
    from prefect.settings.legacy import _get_valid_setting_names

    known = _get_valid_setting_names(PrefectSettings)
    for service in SERVICES.values():
        for name in service["environment"]:
            if name.startswith("PREFECT_") and not name.endswith("_DB_PASSWORD"):
                assert name in known, name


@pytest.mark.parametrize("name", ["mlflow", "prefect", "worker"])
def test_command_line_uses_options_that_exist(name: str) -> None:
    command = SERVICES[name]["command"]
    words = 2 if name == "mlflow" else 3
    assert flags(command) <= help_of(*command[:words])


def test_help_lists_only_real_options() -> None:
    assert "--no-such-option" not in help_of("mlflow", "server")
    assert {"--host", "-h", "--port"} <= help_of("mlflow", "server")
    assert {"--pool", "-p", "--type"} <= help_of("prefect", "worker", "start")


def test_served_stage_command_is_one_that_our_cli_has() -> None:
    import typer.main

    from medgrpo.cli import app

    command = SERVICES["serve"]["command"]
    group: Any = typer.main.get_command(app)
    serve = group.commands[command[1]]
    options = {option for parameter in serve.params for option in parameter.opts}
    assert command[0] == "medgrpo"
    assert flags(command) <= options
    arguments = [parameter for parameter in serve.params if parameter.param_type_name == "argument"]
    assert len(arguments) == 1
    assert (ROOT / command[2]).is_file()


def test_worker_polls_the_pool_that_the_deployments_use() -> None:
    command = SERVICES["worker"]["command"]
    assert {flag_value(command, "--pool")} == {one["work_pool"]["name"] for one in deployments().values()}
    assert flag_value(command, "--type") == "process"


def test_prefect_reads_the_deployments_as_they_are_written() -> None:
    from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    written = prefect_yaml()
    read = PrefectYamlModel.model_validate(written)
    # Prefect ignores keys that it doesn't know: a typo would go unnoticed.
    known = {field.alias or name for name, field in PrefectYamlModel.model_fields.items()}
    assert set(written) <= known
    assert all(set(one) <= set(DeploymentConfig.model_fields) for one in deployments().values())
    assert written["prefect-version"] == importlib.metadata.version("prefect")
    assert [(one.name, one.concurrency_limit) for one in read.deployments] == [
        ("llama31-8b", 1),
        ("medgrpo", 1),
        ("llama31-8b", None),
    ]
    (schedule,) = deployments()["train_from_file"]["schedules"]
    assert schedule["active"] is False
    assert set(schedule) <= {"cron", "timezone", "slug", "active"}
    cron = {"cron": schedule["cron"], "timezone": schedule["timezone"]}
    assert not DeploymentScheduleCreate(schedule=cron, active=schedule["active"], slug=schedule["slug"]).active


@pytest.mark.parametrize("deployment", ["train_from_file", "promotion", "reconcile"])
def test_a_deployment_names_a_flow_that_takes_its_parameters(deployment: str) -> None:
    """By the syntax tree: importing the flow would need the whole stack."""
    one = deployments()[deployment]
    module, _, name = one["entrypoint"].rpartition(".")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    decorators = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    assert [node.id for node in decorators if isinstance(node, ast.Name)] == ["flow"]
    arguments = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    required = arguments[: len(arguments) - len(function.args.defaults)]
    assert set(required) <= set(one["parameters"]) <= set(arguments)
    if "config_path" in arguments:
        assert (ROOT / one["parameters"]["config_path"]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES)
def test_dockerfile_is_pinned_and_installs_under_the_constraints(path: str) -> None:
    steps = dockerfile_steps(path)
    bases = [step[1] for step in steps if step[0] == "FROM"]
    assert bases and all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    installs = [step for step in steps if step[0] == "RUN" and "pip" in step and "install" in step]
    assert installs and all(step[step.index("-c") + 1].endswith("constraints.txt") for step in installs)


@pytest.mark.parametrize("path", DOCKERFILES)
def test_dockerfile_copies_what_exists_and_reaches_the_builder(path: str) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for step in dockerfile_steps(path):
        if step[0] == "COPY" and not step[1].startswith("--from"):
            for source in step[1:-1]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in kept, source


def test_mlflow_folder_never_becomes_a_package() -> None:
    assert not [path for path in (ROOT / "mlflow").rglob("*") if path.suffix in (".py", ".pyi", ".pyc")]


def prefect_yaml() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    return loaded


def deployments() -> dict[str, dict[str, Any]]:
    """By the flow's function: deployments are called after their config."""
    return {one["entrypoint"].rpartition(".")[2]: one for one in prefect_yaml()["deployments"]}
