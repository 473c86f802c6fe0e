"""Automations on a Prefect server: bring back what crashed or fell silent, and tell people what happened."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.recovery import RETRY_MESSAGE
from medgrpo.errors import NotFoundError
from tasks.notices import PROMOTED, REFUSED, WAITING

HEARTBEAT_S = 30
"""Seconds between two signs of life of a flow run."""
SILENCE_S = 4 * HEARTBEAT_S
"""Seconds without a sign of life after which a flow run counts as crashed."""
TAG = "medgrpo"
"""Tag of all our deployments' flow runs."""
RETRIED_TAG = "gpu"
"""Tag of the flow runs that are tried again by themselves: trainings, which go on where they were."""
BLOCK = "medgrpo-notices"
"""Name of the block that `--notify-url` makes."""
SERVE_BLOCK = "medgrpo-serve"
"""Name of the block that `--serve-url` makes."""
END_STATES = ("Completed", "NothingNew", "Failed", "TimedOut", "Cancelled", "Crashed")
ENDS = {f"prefect.flow-run.{name}" for name in END_STATES}
BEAT = "prefect.flow-run.heartbeat"
STARTS = {f"prefect.flow-run.{name}" for name in ("Running", "Retrying", "Rerunning")}
"""A flow run's first attempt, one after AwaitingRetry, and one after `prefect flow-run retry`."""
LONGEST = timedelta(days=30)
"""A flow run that has been running for longer is not tried again by itself."""
RUN_TEXT = """{{ flow.name }}: flow run {{ flow_run.name }} is {{ flow_run.state.name }}
{{ flow_run.state.message }}
flow run {{ flow_run.id }}, at {{ flow_run|ui_url }}"""
MODEL_TEXT = """{{ event.resource.name }} version {{ event.payload.version }} {{ what }}, by {{ event.payload.who }}
{% for reason in event.payload.reasons %}- {{ reason }}
{% endfor %}"""


def recovery(silence_s: float = SILENCE_S) -> list[AutomationCore]:
    """What brings a flow run back.

    Args:
        silence_s: seconds without a sign of life after which a flow run counts as crashed; at least 10.
    """
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    each = {"prefect.resource.id"}
    silent = EventTrigger(
        match=runs,
        match_related=_tagged(TAG),
        for_each=each,
        after={BEAT},
        expect={BEAT, *ENDS},
        posture=Posture.Proactive,
        within=timedelta(seconds=silence_s),
    )
    # Only one that had started: what can't start, as without its folder, would crash again at once, and nobody counts.
    crashed = EventTrigger(
        match=runs,
        match_related=_tagged(RETRIED_TAG),
        for_each=each,
        after=STARTS,
        expect={"prefect.flow-run.Crashed"},
        within=LONGEST,
    )
    told = f"no sign of life for {silence_s:g} s"
    return [
        AutomationCore(
            name="medgrpo: silent run is crashed",
            description="The machine or the network of a flow run has gone: nobody else would end it.",
            trigger=silent,
            actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=told)],
        ),
        AutomationCore(
            name="medgrpo: crashed run is tried again",
            description="Training goes on from its newest checkpoint. A run that has crashed too often ends as Failed.",
            trigger=crashed,
            actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message=RETRY_MESSAGE)],
        ),
    ]


def notices(block: UUID) -> list[AutomationCore]:
    """What tells people: a run that failed or crashed, a promotion, a refusal, one that waits for approval.

    Args:
        block: the notification block that carries the message.
    """
    broken = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=_tagged(TAG),
        for_each={"prefect.resource.id"},
        expect={f"prefect.flow-run.{name}" for name in ("Failed", "TimedOut", "Crashed")},
    )
    subject = "medgrpo: {{ flow_run.name }} {{ flow_run.state.name }}"
    send = SendNotification(block_document_id=block, subject=subject, body=RUN_TEXT)
    found = [AutomationCore(name="medgrpo: notice of a failure", trigger=broken, actions=[send])]
    for event, what in ((PROMOTED, "is promoted"), (REFUSED, "is refused"), (WAITING, "waits for approval")):
        trigger = _about_model(event)
        subject = f"medgrpo: {{{{ event.resource.name }}}} {what}"
        send = SendNotification(block_document_id=block, subject=subject, body=MODEL_TEXT.replace("{{ what }}", what))
        found.append(AutomationCore(name=f"medgrpo: notice that a version {what}", trigger=trigger, actions=[send]))
    return found


def nudge(block: UUID) -> AutomationCore:
    """What has a served stage look at the registry as soon as a version is promoted.

    Args:
        block: the webhook of the served stage.
    """
    return AutomationCore(
        name="medgrpo: served stage follows a promotion",
        description="It polls, too: this only saves it some seconds.",
        trigger=_about_model(PROMOTED),
        actions=[SendNotification(block_document_id=block, subject=PROMOTED, body="{{ event.resource.name }}")],
    )


def put(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Create an automation or bring it up to date; what was done."""
    found: list[Automation] = [one for one in client.read_automations() if one.name == wanted.name]
    if not found:
        client.create_automation(wanted)
        return "created"
    if _said(found[0]) == _said(wanted):
        return "unchanged"
    client.update_automation(found[0].id, AutomationCore.model_validate(wanted.model_dump()))
    return "updated"


def put_block(url: str) -> tuple[UUID, str]:
    """Store a webhook as a notification block; its id, and what was done. The URL may hold a secret: it isn't shown."""
    return _put_webhook(
        CustomWebhookNotificationBlock(
            name=BLOCK,
            url="{{ url }}",
            method="POST",
            json_data={"subject": "{{subject}}", "body": "{{body}}", "text": "{{subject}}\n{{body}}"},
            secrets={"url": url},
        )
    )


def put_serve_block(url: str, key: str) -> tuple[UUID, str]:
    """Store a served stage as a notification block; its id, and what was done.

    Args:
        url: of the stage, http://HOST:PORT.
        key: one of its API keys, which the block keeps as a secret; empty: it needs none.
    """
    return _put_webhook(
        CustomWebhookNotificationBlock(
            name=SERVE_BLOCK,
            url=f"{url.rstrip('/')}/v1/versions/refresh",
            method="POST",
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
            headers={"Authorization": "Bearer {{ key }}"} if key else {},
            secrets={"key": key} if key else {},
        )
    )


def _put_webhook(block: CustomWebhookNotificationBlock) -> tuple[UUID, str]:
    try:
        stored = CustomWebhookNotificationBlock.load(block.name)
    except ValueError:
        return block.save(block.name), "created"
    if _shown(stored) == _shown(block):
        return stored._block_document_id, "unchanged"
    return block.save(block.name, overwrite=True), "updated"


def find_block(client: SyncPrefectClient, slug: str) -> UUID:
    """Id of a notification block that somebody made.

    Args:
        slug: TYPE/NAME, as `prefect block ls` shows it.

    Raises:
        NotFoundError: there is none.
    """
    kind, _, name = slug.partition("/")
    try:
        found: UUID = client.read_block_document_by_name(name, kind, include_secrets=False).id
    except ObjectNotFound as error:
        raise NotFoundError(f"there is no block '{slug}': see `prefect block ls`, and write TYPE/NAME") from error
    return found


def _about_model(event: str) -> EventTrigger:
    return EventTrigger(match={"prefect.resource.id": "medgrpo.model.*"}, expect={event})


def _tagged(tag: str) -> dict[str, str | list[str]]:
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}


def _said(automation: AutomationCore) -> Any:
    """What an automation says, without what the server adds."""
    core = AutomationCore.model_validate(automation.model_dump())
    return core.model_dump(include={"name", "description", "enabled", "trigger", "actions"})


def _shown(block: CustomWebhookNotificationBlock) -> list[object]:
    return [block.url, block.method, block.json_data, block.headers, block.secrets.get_secret_value()]
