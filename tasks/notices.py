"""Events about promotions and refusals: what notices, and automations of your own, are triggered by."""

from prefect.events import emit_event

from medgrpo.promotion import Proposal
from medgrpo.types import Outcome

PROMOTED = "medgrpo.promoted"
REFUSED = "medgrpo.refused"
WAITING = "medgrpo.waits-for-approval"
EVENTS: dict[str, str] = {"promoted": PROMOTED, "refused": REFUSED, "waits for approval": WAITING}
"""Outcome → event. What is champion already is no news."""


def tell(proposal: Proposal, outcome: Outcome, who: str) -> None:
    """Emit the event of an outcome; the payload is what a notice shows.

    Args:
        who: whoever moved or refused, as the log of moves names them.
    """
    if outcome not in EVENTS:
        return
    version, decision = proposal.version, proposal.decision
    emit_event(
        EVENTS[outcome],
        resource={
            "prefect.resource.id": f"medgrpo.model.{version.name}",
            "prefect.resource.name": version.name,
        },
        payload={
            "version": version.version,
            "compared_with": proposal.compared_with,
            "run": version.run_id,
            "who": who,
            "reasons": [f"{'holds' if one.holds else 'BROKEN'}: {one.reason}" for one in decision.verdicts],
        },
    )
