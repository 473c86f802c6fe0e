"""What all stages have in common as Prefect tasks: content keys, JSON results, quiet failures."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.states import State
from prefect.tasks import Task

from medgrpo.errors import TrainingRefused, UserError

R = TypeVar("R")
log = logging.getLogger("medgrpo.tasks")

Key = Callable[[TaskRunContext, Mapping[str, Any]], str | None]
"""From a task run's parameters to its content key; None where the outputs aren't there and the task must run."""


def stage(
    name: str, *, key: Key | None = None, retries: int = 1, timeout_s: float = 3600
) -> Callable[[Callable[..., R]], Task[..., R]]:
    """Make a function a stage.

    Args:
        name: as the CLI and the Prefect UI show it.
        key: the content key under which a finished result is found again; none: the stage always runs.
        retries: how often a failure that a retry can mend is retried.
        timeout_s: longest time of one attempt, in seconds.
    """
    policy = CacheKeyFnPolicy(cache_key_fn=key) if key else NO_CACHE
    made: Callable[[Callable[..., R]], Task[..., R]] = task(
        name=name,
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        retries=retries,
        retry_delay_seconds=1,
        retry_condition_fn=may_retry,
        timeout_seconds=timeout_s,
        on_completion=[_announce],
    )
    return made


def may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can help: not after the user's own mistake, nor after a refused training."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | TrainingRefused)


def _announce(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Tell a person which stage is done, and whether it was found again."""
    log.info("%s: %s", task_run.name.rsplit("-", 1)[0], "reused" if state.name == "Cached" else "done")
