"""What all stages have in common as Prefect tasks: content keys, JSON results, quiet failures, being forced."""

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import State
from prefect.tasks import Task

from medgrpo.errors import RewardError, TrainingRefused, UserError
from medgrpo.fingerprint import digest
from medgrpo.settings import Settings
from medgrpo.upkeep.redo import Redo, StageName, is_from

R = TypeVar("R")
P = ParamSpec("P")
log = logging.getLogger("medgrpo.tasks")

DELAYS_S = (1, 10, 60)
"""Seconds before each retry: together longer than a restart of MLflow takes. The last one counts for all after it."""

Parameters = Mapping[str, Any]
GPU = "gpu"
"""Tag of stages that hold a policy in memory: `medgrpo deploy` limits how many of them run at once."""

_start: ContextVar[StageName | None] = ContextVar("start", default=None)


@contextmanager
def starting_from(start: StageName | None) -> Iterator[None]:
    """Inside, this stage and those after it are done again although they are finished; None: nothing is forced."""
    token = _start.set(start)
    try:
        yield
    finally:
        _start.reset(token)


def this_run() -> str:
    """Id of the flow run that we are in: the same for every attempt at it."""
    return str(flow_run.id or "")


def stage(
    name: str,
    *,
    of: StageName,
    key: Callable[[Parameters], str] | None = None,
    there: Callable[[Parameters], bool] | None = None,
    forget: Callable[[Parameters], None] | None = None,
    tags: Collection[str] = (),
    retries: int = 1,
    timeout_s: float = 3600,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a stage.

    Args:
        name: as the CLI and the Prefect UI show it.
        of: the stage of `--from` that this belongs to.
        key: the content key under which a finished result is found again; none: found again by a retry of the same
            flow run alone.
        there: whether what the result points to is still on this disk; where it isn't, the stage runs again.
        forget: removes what the library has stored of this work, so that a forced stage really does it again.
        tags: tags of the task.
        retries: how often a failure that a retry can mend is retried.
        timeout_s: longest time of one attempt, in seconds.
    """
    settings = _Stage(name, of, key, there, forget)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        made = task(
            _noting(function, settings),
            name=name,
            tags=list(tags),
            cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda _, parameters: settings.find_key(parameters)),
            persist_result=True,
            result_serializer="json",
            retries=retries,
            retry_delay_seconds=list(DELAYS_S[:retries]),
            retry_condition_fn=may_retry,
            timeout_seconds=timeout_s,
            on_completion=[_announce],
        )

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            is_stale = settings.is_stale(_bind(function, *args, **kwargs))
            result: R = (made.with_options(refresh_cache=True) if is_stale else made)(*args, **kwargs)
            return result

        return run

    return decorate


@dataclass(frozen=True)
class _Stage:
    """How a stage's results are found, and forgotten; the fields are described at `stage`."""

    name: str
    of: StageName
    key: Callable[[Parameters], str] | None
    there: Callable[[Parameters], bool] | None
    forget: Callable[[Parameters], None] | None

    def find_key(self, parameters: Parameters) -> str:
        """The key of a result; without a content key that of this flow run."""
        return self.key(parameters) if self.key else digest([self.name, this_run(), dict(parameters)])

    def find_redo(self, parameters: Parameters) -> Redo | None:
        """The notes of this work where it is forced."""
        if not is_from(_start.get(), self.of):
            return None
        return Redo(this_run(), [self.name, dict(parameters)], Settings())

    def is_stale(self, parameters: Parameters) -> bool:
        """Whether a stored result may not be used: it is forced, or what it points to is gone."""
        redo = self.find_redo(parameters)
        is_forced = redo is not None and not redo.is_finished
        return is_forced or (self.there is not None and not self.there(parameters))


def _noting(function: Callable[P, R], settings: _Stage) -> Callable[P, R]:
    """The function, with notes about its work where that is forced."""

    @functools.wraps(function)
    def work(*args: P.args, **kwargs: P.kwargs) -> R:
        parameters = _bind(function, *args, **kwargs)
        redo = settings.find_redo(parameters)
        if redo and redo.begin() and settings.forget:
            settings.forget(parameters)
        result = function(*args, **kwargs)
        if redo:
            redo.finish()
        return result

    return work


def _bind(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Parameters:
    """All parameters by name, defaults too: Prefect calls with all of them, and notes must have one name."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can help: not after the user's own mistake, nor where it would end the same way."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | TrainingRefused | RewardError)


def _announce(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Tell a person which stage is done, and whether it was found again."""
    log.info("%s: %s", task_run.name.rsplit("-", 1)[0], "reused" if state.name == "Cached" else "done")
