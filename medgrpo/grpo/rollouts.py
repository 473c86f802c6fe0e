"""The completions of a training, from TRL's per-step files to one table."""

from pathlib import Path
from typing import TYPE_CHECKING

from medgrpo.settings import Settings
from medgrpo.tracking import log_files, log_rows

if TYPE_CHECKING:
    import pandas as pd

PAGE_ROWS = 100
"""Rows of the page that MLflow shows; the Parquet file has all of them."""


def collect(output: Path) -> "pd.DataFrame":
    """All completions of a training: step, prompt, completion, one column per reward, advantage."""
    import pandas as pd

    files = sorted((output / "completions").glob("completions_*.parquet"))
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    # The dataset's example column, which TRL keeps for the rewards, repeats the prompt.
    table = table.drop(columns=["example"], errors="ignore")
    table["prompt"] = [chat[-1]["content"] for chat in table["prompt"]]
    table["completion"] = [chat[-1]["content"] for chat in table["completion"]]
    return table


def publish(output: Path, run_id: str, settings: Settings) -> None:
    """Store all completions as Parquet in the run, and a page of them, spread over the steps, as a table; once."""
    path = output / "rollouts.parquet"
    if path.is_file():
        return
    table = collect(output)
    draft = output / ".new" / path.name
    draft.parent.mkdir(exist_ok=True)
    table.to_parquet(draft)
    log_files(run_id, [draft], "rollouts", settings)
    log_rows(run_id, "rollouts", table.iloc[:: max(1, len(table) // PAGE_ROWS)], settings)
    draft.rename(path)  # last: where it is, MLflow has it
