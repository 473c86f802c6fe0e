"""Prefect's finished flow runs, over its REST API: medgrpo itself knows nothing of Prefect."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx

from medgrpo.errors import MedgrpoError

URL, PASSWORD = "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"
"""Prefect's own variables: where its API is, and `user:password` where it asks for them."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
OURS = "medgrpo"
"""What the names of our flows have in common; a server may run other people's, too."""
PAGE = 200
"""Flow runs that Prefect's API gives at once."""


class FlowRun(NamedTuple):
    """A finished flow run."""

    run_id: str
    name: str
    ended: datetime


def ended_flow_runs(age: timedelta, url: str) -> list[FlowRun]:
    """Our flow runs that ended at least so long ago, whatever their end, oldest first.

    Raises:
        MedgrpoError: Prefect's server doesn't answer, or refuses.
    """
    before = datetime.now(UTC) - age
    chosen = {"end_time": {"before_": before.isoformat()}, "state": {"type": {"any_": list(ENDED)}}}
    found: list[FlowRun] = []
    with _client(url) as client:
        while True:
            asked = {"flows": {"name": {"like_": OURS}}, "flow_runs": chosen, "sort": "END_TIME_DESC"}
            page = _ask(client, "POST", "/flow_runs/filter", asked | {"limit": PAGE, "offset": len(found)}).json()
            found += [FlowRun(run["id"], run["name"], datetime.fromisoformat(run["end_time"])) for run in page]
            if len(page) < PAGE:
                return sorted(found, key=lambda run: run.ended)


def delete_flow_runs(run_ids: Iterable[str], url: str) -> None:
    """Delete flow runs with their task runs and logs; one that is gone already is no fault.

    Raises:
        MedgrpoError: Prefect's server doesn't answer, or refuses.
    """
    with _client(url) as client:
        for run_id in run_ids:
            _ask(client, "DELETE", f"/flow_runs/{run_id}", None)


def _client(url: str) -> httpx.Client:
    user, _, password = os.environ.get(PASSWORD, "").partition(":")
    return httpx.Client(base_url=url, auth=(user, password) if user else None, timeout=60)


def _ask(client: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    try:
        answer = client.request(method, path, json=body)
        if answer.status_code != httpx.codes.NOT_FOUND:
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        raise MedgrpoError(f"Prefect at {client.base_url} refused {path} ({code}): is {PASSWORD} right?") from error
    except httpx.HTTPError as error:
        told = type(error).__name__
        raise MedgrpoError(f"Prefect at {client.base_url} does not answer ({told}): is {URL} right?") from error
    return answer
