"""What reruns of one config leave behind: MLflow's rows and files, versions, the home folder's size.

    python benchmarks/reruns.py --reruns 50

Runs the stages on the tiny policy in a new home folder, then again and again in this process, and counts. Ends with
code 1 when anything but nothing was added.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.promotion import carry_out
from medgrpo.promotion.audit_log import Mover
from medgrpo.settings import Settings
from medgrpo.stages import Stages
from medgrpo.tracking import connect

ROOT = Path(__file__).parent.parent
SMALL = (
    *("grpo.steps=4", "grpo.checkpoints=2", "grpo.num_generations=4", "grpo.prompts_per_step=2"),
    *("data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"),
)
"""The smoke config, cut down to some seconds."""


def small_config() -> Config:
    """What is run."""
    return read_config(ROOT / "configs" / "smoke.toml", list(SMALL))


def run_once(config: Config, settings: Settings) -> None:
    """The whole pipeline without Prefect, the gate's word and what follows from it included."""
    stages = Stages(config, settings)
    carry_out(config, stages.proposal, Mover(who="benchmark", reason="rerun"), settings)


def table_rows(settings: Settings) -> dict[str, int]:
    """Rows of every table of MLflow's database."""
    with closing(sqlite3.connect(settings.root / "mlflow.db")) as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        return {name: database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}  # noqa: S608


def files(settings: Settings) -> dict[str, int]:
    """Files of the home folder, MLflow's artifacts among them, by the folder on top: how many there are."""
    found: dict[str, int] = {}
    for path in settings.root.rglob("*"):
        if path.is_file() and not path.name.startswith("mlflow.db"):
            top = path.relative_to(settings.root).parts[0]
            found[top] = found.get(top, 0) + 1
    return found


def database_bytes(settings: Settings) -> int:
    """Size of MLflow's database."""
    return (settings.root / "mlflow.db").stat().st_size


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What has more than before, and how much."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, rerun, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reruns", type=int, default=50)
    wanted = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config, settings = small_config(), Settings(home=Path(folder))
        started = time.perf_counter()
        run_once(config, settings)
        print(f"first run: {time.perf_counter() - started:.1f} s, database {database_bytes(settings) / 2**20:.2f} MiB")
        rows, stored, size = table_rows(settings), files(settings), database_bytes(settings)
        started = time.perf_counter()
        for _ in range(wanted.reruns):
            run_once(config, settings)
        seconds = (time.perf_counter() - started) / wanted.reruns
        client = connect(settings)
        experiment = client.get_experiment_by_name(config.model_name).experiment_id
        runs = client.search_runs([experiment], "tags.`medgrpo.key` != ''")
        versions = client.search_model_versions(f"name = '{config.model_name}'")
        more = grown(rows, table_rows(settings)) | grown(stored, files(settings))
        print(f"{wanted.reruns} reruns, {seconds:.2f} s each: {len(runs)} run, {len(versions)} version")
        print(f"database {database_bytes(settings) - size:+d} bytes; rows and files added: {more or 'none'}")
    return int(bool(more) or len(runs) != 1 or len(versions) != 1)


if __name__ == "__main__":
    sys.exit(main())
