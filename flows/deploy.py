"""Deployments on a Prefect server: work pool, flows with their schedules and forms, the GPU's limit, automations."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import anyio
import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from pydantic import ValidationError

from flows.automations import (
    HEARTBEAT_S,
    RETRIED_TAG,
    TAG,
    find_block,
    notices,
    nudge,
    put,
    put_block,
    put_serve_block,
    recovery,
)
from flows.pipeline import train_from_file
from flows.promotion import promotion
from flows.reconcile import reconcile
from medgrpo.errors import UserError
from tasks.stage import GPU

PULL = "prefect.deployments.steps.set_working_directory"
ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S), "PREFECT_LOGGING_EXTRA_LOGGERS": "medgrpo"}
"""What a flow run's process gets: signs of life, and medgrpo's log lines in Prefect's UI."""
SLUG = "medgrpo"
"""Name of the schedule that `medgrpo deploy` writes; others are left alone."""

Schedule: TypeAlias = CronSchedule | IntervalSchedule


@dataclass(frozen=True)
class Target:
    """One config to deploy."""

    name: str
    """The config's name: deployments are called after it."""
    path: str
    """Its file, as the worker sees it."""
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where and when deployments run, and who is told."""

    pool: str = "medgrpo"
    pool_type: Literal["process", "docker", "kubernetes"] = "process"
    directory: str = ""
    """Folder of the worker's machine in which flows run; empty: where its image or process starts."""
    image: str = ""
    """Container image, for docker and kubernetes."""
    gpus: int = 1
    """How many stages that hold a policy may run at once, over all flow runs."""
    schedule: Schedule | None = None
    """When trainings start by themselves; None: schedules stay as they are."""
    notify_url: str = ""
    notify_block: str = ""
    serve_url: str = ""
    """A served stage that is to look at the registry as soon as a version is promoted; empty: it polls."""
    serve_key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Deployed:
    """A flow as it is deployed."""

    flow: Flow[Any, Any]
    entrypoint: str
    """Module and function: the installed package is enough, wherever the flow runs."""
    name: str
    description: str
    tags: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)
    concurrency_limit: int | None = None
    schedule: Schedule | None = None


def parse_schedule(cron: str, interval: str, timezone: str) -> Schedule | None:
    """A schedule as a person writes it.

    Args:
        interval: a number with s, m, h or d, as in 6h.

    Raises:
        UserError: it can't be read, or there are two.
    """
    if cron and interval:
        raise UserError("--cron and --interval are two schedules: choose one")
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if cron:
            return CronSchedule(cron=cron, timezone=timezone)
        if interval:
            length = timedelta(**{units[interval[-1]]: float(interval[:-1])})
            return IntervalSchedule(interval=length, timezone=timezone)
    except (ValidationError, ValueError, KeyError) as error:
        told = f"--cron '{cron}'" if cron else f"--interval '{interval}'"
        raise UserError(f"{told} can't be read: write --cron '0 2 * * 0', or --interval 6h (s, m, h or d)") from error
    return None


def flows_of(target: Target, schedule: Schedule | None) -> Iterator[Deployed]:
    """The flows that a config is deployed as. prefect.yaml says the same for `prefect deploy`."""
    parameters = {"config_path": target.path, "overrides": target.overrides}
    yield Deployed(
        flow=train_from_file,
        entrypoint="flows.pipeline.train_from_file",
        name=target.name,
        description="From a config file to an evaluated, registered adapter; promoted when it is better.",
        tags=[TAG, RETRIED_TAG],
        parameters=parameters,
        concurrency_limit=1,  # one run of a config at a time
        schedule=schedule,
    )
    yield Deployed(
        flow=promotion,
        entrypoint="flows.promotion.promotion",
        name=target.name,
        description="A person approves the challenger in a form, or doesn't: for registry.approval = true.",
        tags=[TAG],
        parameters=parameters,
    )


RECONCILE = Deployed(
    flow=reconcile,
    entrypoint="flows.reconcile.reconcile",
    name="medgrpo",
    description="Finds and mends what dead processes left on the worker's machine and in MLflow.",
    tags=[TAG],
    concurrency_limit=1,
    schedule=IntervalSchedule(interval=timedelta(minutes=30), timezone="UTC"),
)
"""One for a pool, not for a config. It looks twice an hour."""


def deploy(targets: list[Target], place: Place) -> Iterator[tuple[str, str]]:
    """Bring a Prefect server to what is wanted; yields what, and whether it was created, updated or unchanged.

    Raises:
        UserError: no server answers where Prefect's settings say, or it refuses.
    """
    url = get_current_settings().api.url
    if not url:
        raise UserError("deployments need a Prefect server: start one, and set PREFECT_API_URL (http://HOST:4200/api)")
    try:
        with get_client(sync_client=True) as client:
            client.hello()
            yield f"work pool {place.pool}", _put_pool(client, place)
            yield f"limit of the tag {GPU}: {place.gpus} at once", _put_limit(client, place.gpus)
            flows = [RECONCILE, *(flow for target in targets for flow in flows_of(target, place.schedule))]
            for wanted in flows:
                yield f"deployment {wanted.flow.name}/{wanted.name}", _put_deployment(client, wanted, place)
            for automation in recovery():
                yield f"automation '{automation.name}'", put(client, automation)
            yield from _put_notices(client, place)
    except httpx.HTTPStatusError as error:
        raise UserError(_explain(url, error)) from error
    except httpx.HTTPError as error:
        told = f"no Prefect server answers at {url} ({type(error).__name__})"
        raise UserError(f"{told}: start it, or mend PREFECT_API_URL") from error


def _explain(url: str, error: httpx.HTTPStatusError) -> str:
    if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"the Prefect server at {url} asks for a password: set PREFECT_API_AUTH_STRING (user:password)"
    told = error.response.text if isinstance(error, PrefectHTTPStatusError) else str(error)
    return f"the Prefect server at {url} refuses: {error.response.status_code} {told[:500]}"


def _put_pool(client: SyncPrefectClient, place: Place) -> str:
    try:
        found = client.read_work_pool(place.pool)
    except ObjectNotFound:
        template = anyio.run(get_default_base_job_template_for_infrastructure_type, place.pool_type)
        if template is None:
            told = f"Prefect has no template for work pools of type {place.pool_type} here"
            raise UserError(f"{told}: pip install prefect-{place.pool_type}, and try again") from None
        client.create_work_pool(WorkPoolCreate(name=place.pool, type=place.pool_type, base_job_template=template))
        return "created"
    if found.type != place.pool_type:
        raise UserError(
            f"work pool {place.pool} is of type {found.type}, not {place.pool_type}: choose another --pool, or "
            f"`prefect work-pool delete {place.pool}` first"
        )
    return "unchanged"


def _put_limit(client: SyncPrefectClient, gpus: int) -> str:
    name = f"tag:{GPU}"
    try:
        found = client.read_global_concurrency_limit_by_name(name).limit
    except ObjectNotFound:
        found = None
    if found == gpus:
        return "unchanged"
    client.create_concurrency_limit(tag=GPU, concurrency_limit=gpus)
    return "updated" if found else "created"


def _put_deployment(client: SyncPrefectClient, wanted: Deployed, place: Place) -> str:
    try:
        found = client.read_deployment_by_name(f"{wanted.flow.name}/{wanted.name}")
    except ObjectNotFound:
        found = None
    asked = _request(wanted, place, found)
    if found and _said(found) == {name: asked[name] for name in _said(found)}:
        return "unchanged"
    flow_id = client.create_flow(wanted.flow)
    client.create_deployment(flow_id=flow_id, **asked)
    return "updated" if found else "created"


def _request(wanted: Deployed, place: Place, found: DeploymentResponse | None) -> dict[str, Any]:
    """What the server is asked for. Schedules that somebody else made are kept, ours too where none is asked for."""
    kept = [one for one in _schedules(found) if wanted.schedule is None or one.slug != SLUG]
    ours: list[Any] = [DeploymentScheduleCreate(schedule=wanted.schedule, slug=SLUG)] if wanted.schedule else []
    return {
        "name": wanted.name,
        "description": wanted.description,
        "tags": wanted.tags,
        "entrypoint": wanted.entrypoint,
        "parameters": wanted.parameters,
        "parameter_openapi_schema": parameter_schema(wanted.flow).model_dump_for_openapi()
        | {"additionalProperties": False},
        "enforce_parameter_schema": True,
        "concurrency_limit": wanted.concurrency_limit,
        "work_pool_name": place.pool,
        # Empty, not None: that would keep the folder of an earlier deployment.
        "pull_steps": [{PULL: {"directory": place.directory}}] if place.directory else [],
        "job_variables": {"env": ENVIRONMENT} | ({"image": place.image} if place.image else {}),
        "schedules": [*kept, *ours],
    }


def _schedules(found: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """A deployment's schedules, as one asks for them."""
    return [
        DeploymentScheduleCreate(
            schedule=one.schedule,
            active=one.active,
            max_scheduled_runs=one.max_scheduled_runs,
            parameters=one.parameters,
            slug=one.slug,
        )
        for one in (found.schedules if found else [])
    ]


def _said(found: DeploymentResponse) -> dict[str, Any]:
    """What a deployment on the server says, in the words of `_request`."""
    names = ["name", "description", "tags", "entrypoint", "parameters", "parameter_openapi_schema"]
    names += ["enforce_parameter_schema", "work_pool_name", "pull_steps", "job_variables"]
    limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    return {name: getattr(found, name) for name in names} | {"schedules": _schedules(found), "concurrency_limit": limit}


def _put_notices(client: SyncPrefectClient, place: Place) -> Iterator[tuple[str, str]]:
    block: UUID | None = None
    if place.notify_url:
        block, done = put_block(place.notify_url)
        yield "notification block custom-webhook/medgrpo-notices", done
    elif place.notify_block:
        block = find_block(client, place.notify_block)
    if block is not None:
        for automation in notices(block):
            yield f"automation '{automation.name}'", put(client, automation)
    if place.serve_url:
        block, done = put_serve_block(place.serve_url, place.serve_key)
        yield "notification block custom-webhook/medgrpo-serve", done
        automation = nudge(block)
        yield f"automation '{automation.name}'", put(client, automation)
