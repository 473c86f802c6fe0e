"""Promotions in processes of their own, for test_promotion.py: they end themselves by SIGKILL, or meet another one."""

import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

from medgrpo.errors import PromotionStopped, ServeError
from medgrpo.promotion import moves
from medgrpo.promotion.audit_log import Mover
from medgrpo.settings import Settings
from medgrpo.types import Decision, Interval, ModelVersionRef

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)
DECISION = Decision(
    promote=True, verdicts=(), challenger="new", incumbent="old", difference=Interval(mean=0.3, low=0.1, high=0.5)
)
MOVER = Mover(who="tester", approved=True)


def answers(_: ModelVersionRef) -> None:
    """A served stage that answers."""


def fails(version: ModelVersionRef) -> None:
    raise ServeError(f"version {version.version} is silent\nwith a second line")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def promote(version: ModelVersionRef, compared_with: int | None, settings: Settings, check: moves.Check) -> bool:
    return moves.promote(version, compared_with, DECISION, MOVER, check, settings)


def die_before_write(number: int) -> None:
    """End this process before its nth write to the registry."""
    from mlflow import MlflowClient

    left = [number]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                die()
            return original(*args, **kwargs)

        return write

    for name in WRITES:
        setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))


def promote_and_die(
    number: int, version: ModelVersionRef, compared_with: int | None, settings: Settings, passes: bool
) -> None:
    die_before_write(number)
    try:
        promote(version, compared_with, settings, answers if passes else fails)
    except PromotionStopped:
        os._exit(3)
    os._exit(0)


def roll_back_and_die(number: int, name: str, settings: Settings) -> None:
    die_before_write(number)
    moves.rollback(name, MOVER, settings)
    os._exit(0)


def promote_together(
    start: Barrier, results: Any, version: ModelVersionRef, compared_with: int | None, settings: Settings
) -> None:
    from medgrpo.tracking import connect

    connect(settings)
    start.wait(60)
    try:
        promote(version, compared_with, settings, answers)
        results.put((version.version, "moved"))
    except PromotionStopped as error:
        results.put((version.version, str(error)))
    except BaseException as error:
        results.put((version.version, f"BUG {error!r}"))
