"""What a training leaves in its MLflow run: all completions, a page of them, sampled groups as traces, the ledger.

Names of patients and the like are masked on the way: the question set may hold some where that is only a warning.
"""

import logging
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medgrpo.data.patient_data import mask
from medgrpo.errors import TrackingError
from medgrpo.fingerprint import digest, write_whole
from medgrpo.grpo.ledger import Ledger, draw_shares
from medgrpo.grpo.metrics import MetricWriter
from medgrpo.grpo.rollback import RECORD, read_rollbacks
from medgrpo.grpo.rollouts import collect, step_files
from medgrpo.settings import Settings
from medgrpo.traces import GroupTrace, log_traces
from medgrpo.tracking import log_files, log_rows, tag_run

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

PAGE_ROWS = 100
"""Rows of the page that MLflow shows; the Parquet file has all of them."""
TRACED_STEPS = 5
TRACED_GROUPS = 8
"""Groups per step that become traces, at most."""
SENT = "sent.txt"
"""File in the training's folder with the digest of the completions that MLflow has."""
TEXTS = ("prompt", "completion")
FIXED = ("step", "group", "example", *TEXTS, "tokens", "correct", "total", "advantage", "redraw", "used")
"""Columns of the completions that are no reward."""


def publish(output: Path, run_id: str, settings: Settings) -> bool:
    """Send what the training recorded; once, and again only if it recorded more since. Twice makes nothing twice.

    Nothing here ends a training that went well: what can't be sent now is sent by the next run.

    Returns:
        Whether MLflow has everything.
    """
    if is_published(output):
        return True
    rows = collect(output)
    rows.to_parquet(output / "rollouts.parquet", index=False)
    ledger = Ledger.of(rows)
    ledger.table().to_parquet(output / "ledger.parquet", index=False)
    try:
        _send(output, rows, ledger, run_id, settings)
    except Exception as error:  # MLflow raises requests', SQLAlchemy's and its own types here
        told = settings.without_secrets(str(error))
        log.warning("MLflow did not take the rollouts, the next run sends them from %s: %s", output, told)
        return False
    write_whole(output / SENT, _state(output))
    return True


def is_published(output: Path) -> bool:
    """Whether MLflow has all that was recorded so far."""
    path = output / SENT
    if not step_files(output):
        return True
    return path.is_file() and path.read_text(encoding="utf-8") == _state(output)


def _state(output: Path) -> str:
    return digest([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in step_files(output)])


def _send(output: Path, rows: "pd.DataFrame", ledger: Ledger, run_id: str, settings: Settings) -> None:
    if not MetricWriter(settings, run_id, output).flush():
        raise TrackingError("nor the metrics of some steps")
    masked = _masked(rows)
    with TemporaryDirectory(dir=output, prefix=".send-") as name:
        folder = Path(name)
        masked.to_parquet(folder / "rollouts.parquet", index=False)
        log_files(run_id, [folder / "rollouts.parquet"], "rollouts", settings)
        draw_shares(ledger, folder / "shares.png")
        log_files(run_id, [output / "ledger.parquet", folder / "shares.png"], "ledger", settings)
    log_rows(run_id, "rollouts", masked.iloc[:: max(1, len(masked) // PAGE_ROWS)], settings)
    if rollbacks := read_rollbacks(output):
        log_files(run_id, [output / RECORD], "", settings)
        tag_run(run_id, "medgrpo.rollbacks", str(len(rollbacks)), settings)
    log_traces(run_id, sampled_groups(masked), settings)


def _masked(rows: "pd.DataFrame") -> "pd.DataFrame":
    once = lru_cache(maxsize=None)(mask)  # a group shares its prompt, and a policy repeats itself
    return rows.assign(**{column: [once(text) for text in rows[column]] for column in TEXTS})


def sampled_groups(rows: "pd.DataFrame") -> list[GroupTrace]:
    """The groups that become traces: the first ones of a few steps, evenly spaced from the first to the last."""
    steps = sorted(rows["step"].unique())
    count = min(TRACED_STEPS, len(steps))
    chosen = [steps[place * (len(steps) - 1) // max(1, count - 1)] for place in range(count)]
    rewards = [column for column in rows.columns if column not in FIXED]
    groups = []
    for step in chosen:
        of_step = rows[(rows["step"] == step) & (rows["group"] < TRACED_GROUPS)]
        groups += [_trace(group, rewards) for _, group in of_step.groupby("group", sort=True)]
    return groups


def _trace(group: "pd.DataFrame", rewards: list[str]) -> GroupTrace:
    first = group.iloc[0]
    completions = [
        {
            "completion": row["completion"],
            "correct": bool(row["correct"]),
            **{f"reward.{name}": float(row[name]) for name in rewards},
            **{name: float(row[name]) for name in ("total", "advantage", "tokens")},
        }
        for _, row in group.iterrows()
    ]
    return GroupTrace(
        step=int(first["step"]),
        group=int(first["group"]),
        example=first["example"],
        prompt=first["prompt"],
        used=bool(first["used"]),
        completions=completions,
    )
