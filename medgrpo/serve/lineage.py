"""Where a served version comes from, as the registry tells it: run, data, base, adapter, the gate's decision."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any

from medgrpo import example, registry
from medgrpo.errors import MedgrpoError, NotFoundError
from medgrpo.serve.engine import Served
from medgrpo.settings import Settings
from medgrpo.types import ModelVersionRef

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""How long a client waits for the registry, in seconds."""
FRESH_S = 30.0
"""How long what the registry said is taken to be true, in seconds."""
DISCLAIMER = (
    "Not medical advice. These answers come from a small language model that is often wrong. Never decide anything "
    "about a person's health by them; ask a doctor."
)


class Lineage:
    """Asks the registry about versions, in threads of its own: it may be slow, or down for minutes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: dict[str, tuple[float, asyncio.Future[dict[str, Any]]]] = {}

    async def of(self, role: str, served: Served) -> dict[str, Any]:
        """All that is known about a version. Where the registry doesn't answer, `problem` says so."""
        known = {
            "role": role,
            "version": served.version,
            "base": {"name": served.base},
            "run": {"run_id": served.run_id},
            "dataset": {"digest": served.dataset_digest},
            "adapter_digest": served.adapter_digest,
            "disclaimer": DISCLAIMER,
            "problem": "",
        }
        try:
            return known | await asyncio.wait_for(asyncio.shield(self._ask(served.version)), PATIENCE_S)
        except TimeoutError:
            return known | {"problem": "the registry doesn't answer"}
        except Exception as error:
            log.warning("the registry tells nothing about %s: %s", served.version, type(error).__name__)
            problem = str(error) if isinstance(error, MedgrpoError) else "the registry can't be read"
            return known | {"problem": self._settings.without_secrets(problem)}

    def _ask(self, version: str) -> "asyncio.Future[dict[str, Any]]":
        """One question at a time per version, also while the registry is slow: threads don't pile up."""
        now = time.monotonic()
        self._asked = {name: entry for name, entry in self._asked.items() if _holds(*entry, now)}
        if version not in self._asked:
            self._asked[version] = (now, self._start(version))
        return self._asked[version][1]

    def _start(self, version: str) -> "asyncio.Future[dict[str, Any]]":
        """Ask in a daemon thread: one of an executor would be waited for when the server ends, for minutes."""
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[dict[str, Any]] = loop.create_future()
        # Of a failure that nobody waits for any more, asyncio would complain.
        asked.add_done_callback(_failed)

        def read() -> None:
            try:
                done = partial(asked.set_result, read_lineage(version, self._settings))
            except Exception as error:
                done = partial(asked.set_exception, error)
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(done)

        Thread(target=read, name=f"lineage of {version}", daemon=True).start()
        return asked


def _holds(begun: float, asked: "asyncio.Future[dict[str, Any]]", now: float) -> bool:
    return not asked.done() or (now - begun < FRESH_S and not _failed(asked))


def _failed(asked: "asyncio.Future[dict[str, Any]]") -> bool:
    return asked.cancelled() or asked.exception() is not None


def read_lineage(version: str, settings: Settings) -> dict[str, Any]:
    """What the registry holds about a version; empty for one that isn't in it, as the base model.

    Raises:
        NotFoundError: its files are not in MLflow.
    """
    if version == example.VERSION:
        return example.lineage()
    name, _, number = version.rpartition("/")
    if not name or not number.isdecimal():
        return {}
    found = registry.get(name, int(number), settings)
    card = registry.read_card(found, settings)
    decision = _decision(found, settings)
    compared = registry.read_compared(found, settings)
    return {
        "name": name,
        "number": found.version,
        "adapter_digest": found.adapter_digest,
        "base": {"name": card.base.name, "digest": card.base.digest, "revision": card.base.revision},
        "run": {"run_id": found.run_id, "tracking_uri": settings.without_secrets(settings.mlflow_uri)},
        "dataset": {
            "key": card.dataset.key,
            "name": card.dataset.name,
            "digest": card.dataset.digests["train"],
            "digests": card.dataset.digests,
            "rows": card.dataset.rows,
        },
        "checkpoint": card.checkpoint.model_dump(mode="json"),
        "config": card.config.model_dump(mode="json"),
        "decision": decision,
        "compared_with": decision and ("base" if compared is None else f"{name}/{compared}"),
    }


def _decision(version: ModelVersionRef, settings: Settings) -> dict[str, Any] | None:
    """The gate's stored decision with its reasons; None: there is none, or it was changed."""
    try:
        decision = registry.read_decision(version, settings)
    except NotFoundError as error:
        log.info("%s", error)
        return None
    return decision.model_dump(mode="json") | {"reasons": list(decision.reasons)}
