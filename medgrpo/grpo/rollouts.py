"""The completions of a training: recorded as they are sampled, a Parquet file per step."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.judge import is_correct
from medgrpo.rewards.trl import read_rollout

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "completions"


def read_scored(trainer: Any, inputs: list[dict[str, Any]], batch: dict[str, Any]) -> "pd.DataFrame":
    """The completions that the trainer has just scored, of all processes, as rows.

    Args:
        trainer: TRL's, which keeps the newest completions, their rewards and advantages for its log.
        inputs: the dataset's row of each completion of this process.
        batch: what the trainer made of them.

    Returns:
        One row per completion, groups together: group (0, 1, …), example (its id), prompt (the last message),
        completion, tokens, correct (what the judge says of it, in the strict grammar), a column per reward, total (the
        weighted sum) and advantage.
    """
    import pandas as pd
    from accelerate.utils import gather_object

    examples = gather_object([row["example"] for row in inputs])
    tokens = gather_object(_lengths(batch))
    newest = {name: list(trainer._logs[name])[-len(examples) :] for name in ("prompt", "completion", "advantages")}
    rewards = {name: list(trainer._logs["rewards"][name])[-len(examples) :] for name in trainer.reward_func_names}
    texts = [chat[-1]["content"] for chat in newest["completion"]]
    rollouts = [read_rollout(*row) for row in zip(examples, texts, tokens, strict=True)]
    weights = trainer.reward_weights.tolist()
    totals = [sum(w * r for w, r in zip(weights, row, strict=True)) for row in zip(*rewards.values(), strict=True)]
    return pd.DataFrame(
        {
            "group": [place // trainer.num_generations for place in range(len(examples))],
            "example": [rollout.example.id for rollout in rollouts],
            "prompt": [chat[-1]["content"] for chat in newest["prompt"]],
            "completion": texts,
            "tokens": tokens,
            "correct": [is_correct(rollout.answer, rollout.example) for rollout in rollouts],
            **rewards,
            "total": totals,
            "advantage": newest["advantages"],
        }
    )


def _lengths(batch: dict[str, Any]) -> list[int]:
    """Tokens of each completion. One that was cut off may be masked as a whole: then it is as long as can be."""
    longest = batch["completion_ids"].size(1)
    return [int(length) or longest for length in batch["completion_mask"].sum(dim=1).tolist()]


def write_step(output: Path, step: int, rows: "pd.DataFrame") -> None:
    """Keep the completions that were sampled for a step; of a step that is made again, the newest."""
    path = output / FOLDER / f"completions_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = rows.copy()
    rows.insert(0, "step", step)
    draft = path.with_name(f".{path.name}.new")
    rows.to_parquet(draft, index=False)
    draft.replace(path)


def step_files(output: Path, after: int = 0, last: int | None = None) -> list[Path]:
    """The files of the steps that sampled completions, in order.

    Args:
        after: only later steps.
        last: no later step; None: all.
    """
    files = sorted((output / FOLDER).glob("completions_*.parquet"), key=_step)
    return [path for path in files if after < _step(path) and (last is None or _step(path) <= last)]


def collect(output: Path, last_step: int | None = None) -> "pd.DataFrame":
    """All completions of a training, in the order of steps; see `read_scored` for the columns.

    Args:
        last_step: leave later steps out; None: all.
    """
    import pandas as pd

    tables = [pd.read_parquet(path) for path in step_files(output, last=last_step)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["step", "example", "correct"])


def _step(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
