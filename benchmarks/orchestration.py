"""What Prefect adds to the stages' own time: a whole run and a fully cached one, on a running server.

    python benchmarks/orchestration.py [--config configs/smoke.toml]

Both flow runs are done in this process, in a home folder that is gone afterwards. A stage's own time is the duration of
its task run; orchestration is what the flow run takes beyond their sum. The server's start and the imports, which a
worker's process or `medgrpo run` pays before the flow begins, are printed apart. Run nothing else beside it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgrpo.config_file import read_config
from medgrpo.settings import Settings

LIMIT_S = 10.0
"""Most seconds that orchestration may add to a run."""
CACHED_LIMIT_S = 15.0
"""Longest a fully cached run may take, in seconds."""


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something takes."""
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:7.1f} s  {what}", flush=True)


def newest_run() -> tuple[Any, list[Any]]:
    """The newest flow run and its task runs, once the server has all of them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # task runs reach the server as events, some after the flow run has ended
            tasks = client.read_task_runs(flow_run_filter=wanted, limit=200)
            if any(task.name.startswith("close-run") for task in tasks) and all(task.end_time for task in tasks):
                break
            time.sleep(0.2)
    return run, tasks


def show(title: str) -> tuple[float, float]:
    """Print a flow run's stages; seconds of the flow run, and of that outside its stages."""
    run, tasks = newest_run()
    total = (run.end_time - run.start_time).total_seconds()
    print(f"\n{title}")
    own = 0.0
    for task in sorted(tasks, key=lambda task: task.end_time):
        seconds = (task.end_time - task.start_time).total_seconds() if task.start_time else 0.0
        own += seconds
        print(f"{seconds:7.2f} s  {task.name.rsplit('-', 1)[0]:18} {task.state_name}")
    print(f"{own:7.2f} s  all stages\n{total:7.2f} s  flow run\n{total - own:7.2f} s  orchestration")
    return total, total - own


def main() -> None:
    """Run twice, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/smoke.toml"))
    config = read_config(parser.parse_args().config)
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDGRPO_HOME"] = home
        from flows.local import connect

        with timed("start of a Prefect server"):
            connect(Settings())
        with timed("imports"):
            from flows.pipeline import pipeline
        with timed("whole run, as the caller sees it"):
            pipeline(config)
        _, added = show("whole run")
        with timed("cached run, as the caller sees it"):
            pipeline(config)
        cached, added_again = show("cached run")
    print(f"\norchestration {added:.1f} s and {added_again:.1f} s (at most {LIMIT_S:g})")
    print(f"cached run {cached:.1f} s (at most {CACHED_LIMIT_S:g})")
    if max(added, added_again) > LIMIT_S or cached > CACHED_LIMIT_S:
        raise SystemExit("over the limit")


if __name__ == "__main__":
    main()
