"""What dead processes have left behind: found, and mended. What a living process works on is never touched.

Alive is who holds a lock (`processes.hold`, the training's `.lock`): the kernel lets go of it however a process dies.
So no lock is ever stale, only its file stays. Where this home has no such file, another machine worked: then Prefect's
state or its heartbeats decide, or nobody does, and it is only reported.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil

from medgrpo.processes import STARTED_BY, held_file, is_held
from medgrpo.promotion.audit_log import describe, logged_names, read_log
from medgrpo.registry import lock_file
from medgrpo.settings import Settings
from medgrpo.tracking import OpenRun, end_run, open_runs
from medgrpo.types import Frozen

JUST_S = 60.0
"""Whoever changed so recently may not have said yet that it is alive, in seconds."""
SILENT_S = 600.0
"""A flow run of another machine whose heartbeats ended so long ago is dead, in seconds."""
OLD_S = 24 * 3600.0
"""Drafts that nothing was written to for so long are left over, in seconds."""
FORGOTTEN_S = 30 * OLD_S
"""Files of locks that nobody holds stay for so long, in seconds: flow runs may still ask for them."""
GRACE_S = 20
"""How long an orphan may take to end after SIGTERM, in seconds."""
TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Kind = Literal["process", "flow run", "MLflow run", "leftover", "move"]


class Finding(Frozen):
    """Something that a dead process left."""

    kind: Kind
    subject: str
    """What: a number, an id, a path below the home folder."""
    reason: str
    """How that shows."""
    remedy: str
    """What is done about it, or what a person can do."""
    mendable: bool = True
    """Whether that is done here; else it is only reported."""
    mended: bool = False


class Report(Frozen):
    """All that was found."""

    findings: tuple[Finding, ...] = ()

    @property
    def rows(self) -> list[dict[str, str]]:
        """As a table."""
        return [
            {"what": f.kind, "which": f.subject, "found": f.reason, "remedy": f.remedy, "state": _state(f)}
            for f in self.findings
        ]


class FlowRunFacts(Frozen):
    """What Prefect says about a flow run."""

    id: str
    name: str
    state: str
    """Type of its state, as RUNNING."""
    since_s: float
    """Seconds since it came into that state."""
    silent_s: float | None = None
    """Seconds since its last heartbeat; None: it sent none."""


def _state(finding: Finding) -> str:
    if finding.mended:
        return "fixed"
    return "found" if finding.mendable else "reported"


def mend(findings: Sequence[Finding], remedy: Callable[[Finding], None], fix: bool) -> list[Finding]:
    """Apply a remedy to each that has one, if asked to; what fails is told, and the others go on."""
    return [_mend(finding, remedy) if fix and finding.mendable else finding for finding in findings]


def _mend(finding: Finding, remedy: Callable[[Finding], None]) -> Finding:
    try:
        remedy(finding)
    except Exception as error:  # one that can't be mended must not keep the others from it
        return finding.model_copy(update={"remedy": f"failed: {error}"})
    return finding.model_copy(update={"mended": True})


def reconcile_processes(settings: Settings, fix: bool) -> list[Finding]:
    """End the processes that medgrpo has started for this home, and whose starter is gone."""
    found = {str(process.pid): process for process in orphans(settings)}
    findings = [
        Finding(
            kind="process",
            subject=number,
            reason=f"its starter is gone: {' '.join(process.cmdline())[:120]}",
            remedy="end it",
        )
        for number, process in found.items()
    ]
    return mend(findings, lambda finding: _end(found[finding.subject]), fix)


def orphans(settings: Settings) -> list[psutil.Process]:
    """Living processes that name a starter of this home who isn't there any more."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            starter = Path(process.environ().get(STARTED_BY, "/"))
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and starter.parent == settings.root / "alive" and is_held(starter) is False:
                found.append(process)
    return found


def _end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(GRACE_S)
        except psutil.TimeoutExpired:
            process.kill()


def judge_flow_run(run: FlowRunFacts, settings: Settings, just_s: float = JUST_S) -> Finding | None:
    """Whether a flow run that looks busy is dead; None: it may be alive.

    Args:
        just_s: how long it must have been in its state: it says that it is alive just after that began.
    """
    if run.state not in ("RUNNING", "CANCELLING") or run.since_s < just_s:
        return None
    held = is_held(held_file(run.id, settings))
    if held is False:
        reason = f"{run.name} is {run.state}, and its process is gone"
    elif held is None and run.silent_s is not None and run.silent_s > SILENT_S:
        reason = f"{run.name} is {run.state}, and its last heartbeat was {run.silent_s:.0f} s ago"
    else:
        return None
    remedy = "set it Cancelled" if run.state == "CANCELLING" else "set it Crashed; rerun it"
    return Finding(kind="flow run", subject=run.id, reason=reason, remedy=remedy)


def reconcile_runs(flow_states: Callable[[str], FlowRunFacts | None], settings: Settings, fix: bool) -> list[Finding]:
    """Close the MLflow runs that look busy, and that nobody works on.

    Args:
        flow_states: what Prefect says about a flow run by its id; None: it doesn't know it.
    """
    found = open_runs(settings)
    by_id = {run.run_id: run for run in found}
    judged = [_judge_run(run, by_id, flow_states, settings) for run in found]
    statuses = {finding.subject: finding.remedy.removeprefix("set it ") for finding in judged if finding}

    def close(finding: Finding) -> None:
        end_run(finding.subject, "KILLED" if statuses[finding.subject] == "KILLED" else "FAILED", settings)

    return mend([finding for finding in judged if finding], close, fix)


def _judge_run(
    run: OpenRun,
    by_id: Mapping[str, OpenRun],
    flow_states: Callable[[str], FlowRunFacts | None],
    settings: Settings,
) -> Finding | None:
    owner = by_id.get(run.parent, run)  # a stage's run is worked on by whoever has its parent's
    flow_run = flow_states(owner.flow_run) if owner.flow_run else None
    ended = flow_run is not None and flow_run.state in TERMINAL and flow_run.since_s >= JUST_S
    if _is_worked_on(run.parent or run.run_id, owner.key, settings):
        return None
    status = "KILLED" if flow_run is not None and flow_run.state == "CANCELLED" else "FAILED"
    if is_held(held_file(run.parent or run.run_id, settings)) is False:
        reason = f"{run.name} is RUNNING, and its process is gone"
    elif ended and flow_run is not None:
        reason = f"{run.name} is RUNNING, and its flow run {flow_run.name} is {flow_run.state}"
    elif flow_run is None:
        told = f"{run.name} is RUNNING, and neither this home folder nor Prefect knows who works on it"
        remedy = "look on the machine that opened it"
        return Finding(kind="MLflow run", subject=run.run_id, reason=told, remedy=remedy, mendable=False)
    else:
        return None
    return Finding(kind="MLflow run", subject=run.run_id, reason=reason, remedy=f"set it {status}")


def _is_worked_on(run_id: str, key: str, settings: Settings) -> bool:
    trains = bool(key) and is_held(settings.training(key) / ".lock") is True
    return trains or is_held(held_file(run_id, settings)) is True


def reconcile_leftovers(settings: Settings, fix: bool) -> list[Finding]:
    """Remove unfinished saves, drafts, and the files of locks that nobody holds."""
    findings = [
        Finding(kind="leftover", subject=str(path.relative_to(settings.root)), reason=reason, remedy="remove it")
        for path, reason in _leftovers(settings)
    ]
    return mend(findings, lambda finding: _remove(settings.root / finding.subject), fix)


def _leftovers(settings: Settings) -> Iterator[tuple[Path, str]]:
    root = settings.root
    for path in sorted(root.glob("training/*/.saving")):
        if is_held(path.with_name(".lock")) is False:
            yield path, "an unfinished save, and nobody trains there"
    drafts = [*root.glob(".measure-*"), *root.glob("*/.new-*"), *root.glob("training/*/.send-*")]
    for path in sorted({*drafts, *root.glob("*/.*.new"), *root.glob("*/*/.*.new")}):
        if (age := _age_s(path)) > OLD_S:
            yield path, f"a draft that nobody wrote to for {age / 3600:.0f} hours"
    for path in sorted(root.glob("alive/*")):
        if _age_s(path) > FORGOTTEN_S and is_held(path) is False:
            yield path, "the file of a lock that nobody holds"


def _age_s(path: Path) -> float:
    """Seconds since anything in a folder, or a file, was written to."""
    newest = 0.0
    for found in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            newest = max(newest, found.stat().st_mtime)
    return time.time() - newest


def _remove(path: Path) -> None:
    if path.name == ".saving":
        with _alone(path.with_name(".lock")):  # a training that starts meanwhile waits
            shutil.rmtree(path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a training's lock, or fail where somebody has it."""
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def find_moves(settings: Settings) -> list[Finding]:
    """Moves of a champion that were cut off. They are finished with the served stage's test, so not here."""
    unfinished = {name: read_log(name, settings).unfinished for name in logged_names(settings)}
    return [
        Finding(
            kind="move",
            subject=name,
            reason=f"cut off: {describe(claim)}",
            remedy="the next `medgrpo promote` or `medgrpo run` finishes it, `medgrpo rollback` takes it back",
            mendable=False,
        )
        for name, claim in unfinished.items()
        if claim and is_held(lock_file(name, settings)) is not True
    ]
