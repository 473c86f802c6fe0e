"""What all stages have in common as Prefect tasks: content keys, JSON results, quiet failures."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun
from prefect.states import State
from prefect.tasks import Task

from medgrpo.errors import RewardError, TrainingRefused, UserError

R = TypeVar("R")
P = ParamSpec("P")
log = logging.getLogger("medgrpo.tasks")

DELAYS_S = (1, 10, 60)
"""Seconds before each retry: together longer than a restart of MLflow takes. The last one counts for all after it."""

Parameters = Mapping[str, Any]


def stage(
    name: str,
    *,
    key: Callable[[Parameters], str] | None = None,
    there: Callable[[Parameters], bool] | None = None,
    retries: int = 1,
    timeout_s: float = 3600,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a stage.

    Args:
        name: as the CLI and the Prefect UI show it.
        key: the content key under which a finished result is found again; none: the stage always runs.
        there: whether what the result points to is still on this disk; where it isn't, the stage runs again.
        retries: how often a failure that a retry can mend is retried.
        timeout_s: longest time of one attempt, in seconds.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        made = task(
            function,
            name=name,
            cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda _, parameters: key(parameters)) if key else NO_CACHE,
            persist_result=True,
            result_serializer="json",
            retries=retries,
            retry_delay_seconds=list(DELAYS_S[:retries]),
            retry_condition_fn=may_retry,
            timeout_seconds=timeout_s,
            on_completion=[_announce],
        )
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            parameters = signature.bind(*args, **kwargs).arguments
            chosen = made if there is None or there(parameters) else made.with_options(refresh_cache=True)
            result: R = chosen(*args, **kwargs)
            return result

        return run

    return decorate


def may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can help: not after the user's own mistake, nor where it would end the same way."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | TrainingRefused | RewardError)


def _announce(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Tell a person which stage is done, and whether it was found again."""
    log.info("%s: %s", task_run.name.rsplit("-", 1)[0], "reused" if state.name == "Cached" else "done")
