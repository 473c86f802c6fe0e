"""Reconciling: what a dead process left is found and mended, and what a living one works on, right beside it, is not."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT

from medgrpo import tracking
from medgrpo.processes import STARTED_BY, held_file, hold, is_held, started_by
from medgrpo.settings import Settings
from medgrpo.upkeep.reconcile import (
    OLD_S,
    SILENT_S,
    Finding,
    FlowRunFacts,
    Report,
    judge_flow_run,
    mend,
    orphans,
    reconcile_leftovers,
    reconcile_processes,
    reconcile_runs,
)

HOLDER = """
import sys
from medgrpo.processes import hold
from medgrpo.settings import Settings
for name in sys.argv[1:]:
    hold(name, Settings())
print("held", flush=True)
sys.stdin.read()
"""
STARTER = """
import os, subprocess, sys
from medgrpo.processes import started_by
from medgrpo.settings import Settings
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], env=os.environ | started_by(Settings()))
print(child.pid, flush=True)
sys.stdin.read()
"""
TIED = """
import subprocess, sys
from medgrpo.processes import tied
code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
child = subprocess.Popen(
    tied([sys.executable, "-c", code]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
)
print(child.stdout.readline(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@contextmanager
def another(code: str, home: Settings, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process of its own in this home, and the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"MEDGRPO_HOME": str(home.root), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def dead(home: Settings, *names: str) -> None:
    """Let a process hold these names, and be killed."""
    with another(HOLDER, home, *names) as (_, said):
        assert said == "held"


def test_a_name_is_held_until_its_process_dies_however_it_does(home: Settings) -> None:
    path = held_file("run", home)
    assert is_held(path) is None
    with another(HOLDER, home, "run") as (process, _):
        assert is_held(path) is True
        process.kill()
        process.wait()
        assert is_held(path) is False
        hold("run", home)
        assert is_held(path) is True, "whoever goes on with it holds it again"


def test_several_processes_may_hold_one_name(home: Settings) -> None:
    with another(HOLDER, home, "run"), another(HOLDER, home, "run") as (_, said):
        assert said == "held"
        assert is_held(held_file("run", home)) is True


def test_a_tied_command_dies_with_its_starter(home: Settings) -> None:
    with another(TIED, home) as (starter, number):
        command = psutil.Process(int(number))
        group = [command, *command.parents()[:1]]
        starter.kill()
        assert psutil.wait_procs(group, timeout=20)[1] == []


def test_an_orphan_is_ended_and_its_living_neighbour_is_not(home: Settings) -> None:
    with another(STARTER, home) as (starter, lost), another(STARTER, home) as (_, cared):
        orphan, child = psutil.Process(int(lost)), psutil.Process(int(cared))
        try:
            assert orphans(home) == []
            starter.kill()
            starter.wait()
            (found,) = reconcile_processes(home, fix=False)
            assert found.subject == lost and not found.mended
            assert orphan.is_running()
            (found,) = reconcile_processes(home, fix=True)
            assert found.mended
            assert psutil.wait_procs([orphan], timeout=20)[1] == []
            assert child.is_running()
        finally:
            for process in (orphan, child):
                if process.is_running():
                    process.kill()


def test_another_home_s_orphans_are_not_ours(home: Settings, tmp_path: Path) -> None:
    other = Settings(home=tmp_path / "other")
    with another(STARTER, other) as (starter, number):
        starter.kill()
        starter.wait()
        assert orphans(home) == []
        (found,) = reconcile_processes(other, fix=True)
        assert found.subject == number


def test_who_started_a_child_is_told_in_its_environment(home: Settings) -> None:
    told = started_by(home)[STARTED_BY]
    assert is_held(Path(told)) is True
    assert started_by(home)[STARTED_BY] == told


SPEAKER = """
import sys
from rich.console import Console
from medgrpo.progress import outlive_output
outlive_output()
console = Console()
console.print("here")
sys.stdin.readline()
for _ in range(3):
    console.print("is anybody there?")
open(sys.argv[1], "w").write("went on")
"""


def test_a_process_goes_on_when_whoever_reads_it_is_gone(home: Settings, tmp_path: Path) -> None:
    with another(SPEAKER, home, str(tmp_path / "end")) as (process, said):
        assert said == "here"
        assert process.stdout is not None and process.stdin is not None
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(60)
    assert (tmp_path / "end").read_text(encoding="utf-8") == "went on"


# --- flow runs


@pytest.mark.parametrize(
    ("state", "since_s", "silent_s", "held", "is_found"),
    [
        ("RUNNING", 100, None, "dead", True),
        ("CANCELLING", 100, None, "dead", True),
        ("RUNNING", 100, None, "alive", False),
        ("RUNNING", 10, None, "dead", False),  # a retry that has not said yet that it lives
        ("RUNNING", 1e6, None, "elsewhere", False),
        ("RUNNING", 1e6, SILENT_S - 1, "elsewhere", False),
        ("RUNNING", 1e6, SILENT_S + 1, "elsewhere", True),
        ("RUNNING", 1e6, SILENT_S + 1, "alive", False),
        ("PAUSED", 1e6, None, "dead", False),
        ("COMPLETED", 1e6, None, "dead", False),
    ],
)
def test_which_flow_runs_are_dead(
    home: Settings, state: str, since_s: float, silent_s: float | None, held: str, is_found: bool
) -> None:
    facts = FlowRunFacts(id="flow", name="calm-owl", state=state, since_s=since_s, silent_s=silent_s)
    if held == "dead":
        held_file("flow", home).parent.mkdir()
        held_file("flow", home).touch()
    elif held == "alive":
        hold("flow", home)
    assert (judge_flow_run(facts, home) is not None) == is_found


# --- MLflow runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("store"))


@pytest.fixture
def opened(store: Settings) -> Iterator[Callable[..., str]]:
    """Opens runs; none stays open after a test."""
    client = tracking.connect(store)
    made: list[str] = []

    def open_run(**tags: str) -> str:
        run = client.create_run("0", tags={name.replace("__", "."): value for name, value in tags.items()})
        made.append(run.info.run_id)
        return str(run.info.run_id)

    yield open_run
    for run in made:
        client.set_terminated(run)


def status(run: str, store: Settings) -> str:
    return str(tracking.connect(store).get_run(run).info.status)


def flow_states(**states: str) -> Callable[[str], FlowRunFacts | None]:
    """What Prefect says about flow runs."""
    known = {name: FlowRunFacts(id=name, name=name, state=state, since_s=100) for name, state in states.items()}
    return known.get


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_dead_process_s_run_is_closed_beside_a_living_one_s(store: Settings, opened: Callable[..., str]) -> None:
    lost, alive = opened(), opened()
    dead(store, lost)
    with another(HOLDER, store, alive):
        findings = by_subject(reconcile_runs(flow_states(), store, fix=False))
        assert set(findings) == {lost}
        assert status(lost, store) == "RUNNING", "nothing is changed by looking"
        assert by_subject(reconcile_runs(flow_states(), store, fix=True))[lost].mended
        assert (status(lost, store), status(alive, store)) == ("FAILED", "RUNNING")


def test_a_run_of_a_training_that_goes_on_is_left_alone(store: Settings, opened: Callable[..., str]) -> None:
    lost = opened(medgrpo__key="trains")
    dead(store, lost)
    lock = store.training("trains") / ".lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert reconcile_runs(flow_states(), store, fix=True) == []
    (found,) = reconcile_runs(flow_states(), store, fix=True)
    assert found.mended


def test_a_run_from_elsewhere_is_judged_by_its_flow_run(store: Settings, opened: Callable[..., str]) -> None:
    names = ("CRASHED", "CANCELLED", "RUNNING", "SCHEDULED")
    runs = {name: opened(prefect__flow_run_id=name) for name in names}
    unknown = opened()
    states = flow_states(**{name: name for name in names})
    findings = by_subject(reconcile_runs(states, store, fix=True))
    assert {name: status(run, store) for name, run in runs.items()} == {
        "CRASHED": "FAILED",
        "CANCELLED": "KILLED",
        "RUNNING": "RUNNING",
        "SCHEDULED": "RUNNING",
    }
    assert not findings[unknown].mendable and status(unknown, store) == "RUNNING"


def test_a_hook_that_comes_late_leaves_what_the_next_attempt_works_on(
    store: Settings, opened: Callable[..., str]
) -> None:
    lost, retried = (opened(prefect__flow_run_id="flow") for _ in range(2))
    dead(store, lost)
    with another(HOLDER, store, retried):
        tracking.end_runs_of("flow", "KILLED", store)
        assert (status(lost, store), status(retried, store)) == ("KILLED", "RUNNING")


def test_a_nested_run_is_as_alive_as_its_parent(store: Settings, opened: Callable[..., str]) -> None:
    lost, alive = opened(), opened()
    below = {run: opened(mlflow__parentRunId=run) for run in (lost, alive)}
    dead(store, lost)
    with another(HOLDER, store, alive):
        assert set(by_subject(reconcile_runs(flow_states(), store, fix=True))) == {lost, below[lost]}
        assert status(below[alive], store) == "RUNNING"


# --- the disk


def test_leftovers_go_and_what_is_in_use_stays(home: Settings) -> None:
    folders = {name: home.training(name) / ".saving" for name in ("dead", "alive")}
    for folder in folders.values():
        (folder / "checkpoint-2").mkdir(parents=True)
        folder.with_name(".lock").touch()
    old, new = home.root / "adapters" / ".new-old", home.root / "adapters" / ".new-new"
    for draft in (old, new):
        draft.mkdir(parents=True)
    draft = home.root / "reports" / ".page.html.new"
    draft.parent.mkdir()
    draft.touch()
    for path in (old, draft):
        os.utime(path, (time.time() - OLD_S - 9,) * 2)
    gone = {"training/dead/.saving", "adapters/.new-old", "reports/.page.html.new"}
    with ExitStack() as stack:
        lock = stack.enter_context((home.training("alive") / ".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert {finding.subject for finding in reconcile_leftovers(home, fix=False)} == gone
        assert all((home.root / name).exists() for name in gone)
        assert all(finding.mended for finding in reconcile_leftovers(home, fix=True))
    assert not any((home.root / name).exists() for name in gone)
    assert folders["alive"].is_dir() and new.is_dir()


def test_one_that_can_t_be_mended_does_not_keep_the_others_from_it() -> None:
    findings = [Finding(kind="leftover", subject=name, reason="left", remedy="remove it") for name in "abc"]

    def remedy(finding: Finding) -> None:
        if finding.subject == "b":
            raise OSError("read-only")

    done = Report(findings=tuple(mend(findings, remedy, fix=True)))
    rows: list[Any] = [(row["state"], row["remedy"]) for row in done.rows]
    assert rows == [("fixed", "remove it"), ("found", "failed: read-only"), ("fixed", "remove it")]
