"""Trying a crashed flow run again by itself, and giving up in time."""

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run
from prefect.states import Failed

MAX_RETRIES = 3
"""How often a crashed flow run is tried again by itself."""
RETRY_MESSAGE = f"crashed: tried again by itself, at most {MAX_RETRIES} times"
"""Message of the state that the automation of `medgrpo deploy` gives to a crashed run."""
ENDED = {StateType.FAILED, StateType.COMPLETED, StateType.CANCELLED}
"""States after which somebody else than the automation tried again: the count starts anew."""


def give_up() -> State[Any] | None:
    """The state that ends this flow run where it has crashed too often; None: go on.

    An automation can't count. So it always tries again, and the run itself ends as failed, which nothing tries again.
    """
    if not flow_run.id or flow_run.run_count <= MAX_RETRIES:
        return None
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(flow_run.id)
    crashes = count_retries(states)
    if crashes <= MAX_RETRIES:
        return None
    return Failed(message=f"crashed {crashes} times in a row: not tried again. Mend it, then `medgrpo rerun`")


def count_retries(states: list[State[Any]]) -> int:
    """How often the automation has tried a flow run again since it last ended otherwise."""
    count = 0
    for state in sorted(states, key=lambda state: state.timestamp, reverse=True):
        if state.type in ENDED:
            break
        count += state.message == RETRY_MESSAGE
    return count
