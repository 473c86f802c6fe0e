"""The promotion flow: a person approves a challenger in a form of Prefect's UI; only then it is moved."""

from pathlib import Path

from prefect import flow
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import ConfigDict, Field

from flows.parameters import ConfigFile, Override
from medgrpo.config_file import read_config
from medgrpo.promotion import Proposal, describe
from medgrpo.types import Outcome
from tasks.promote import promote, read_proposal, turn_down

APPROVAL_TIMEOUT_S = 7 * 24 * 3600
"""How long a person has to answer, in seconds. Then the flow run fails, and nothing is moved."""


class Approval(RunInput):
    """What the form asks for. Prefect's server refuses one that isn't filled in."""

    model_config = ConfigDict(extra="forbid")

    approve: bool = Field(description="Make the challenger the champion?")
    who: str = Field(min_length=2, max_length=100, pattern=r"\S", description="Your name, for the log of moves.")
    reason: str = Field(min_length=3, max_length=500, pattern=r"\S", description="Why, for the log of moves.")


@flow(name="medgrpo-promotion")
def promotion(config_path: ConfigFile, poll_s: int = 10, overrides: list[Override] | None = None) -> Outcome:
    """Ask a person about the challenger of a config, and do what they say, as far as the gate allows it.

    Args:
        config_path: a file on the worker's machine.
        poll_s: seconds between two looks at whether the form is filled in.
        overrides: keys of the config with other values.
    """
    config = read_config(Path(config_path), overrides or ())
    proposal: Proposal = read_proposal(config)
    if not proposal.decision.promote:
        return promote(config, proposal)
    form = Approval.with_initial_data(description=f"```\n{describe(proposal)}\n```")
    answer = pause_flow_run(wait_for_input=form, timeout=APPROVAL_TIMEOUT_S, poll_interval=poll_s)
    if answer.approve:
        return promote(config, proposal, answer.who, answer.reason)
    return turn_down(proposal, answer.who, answer.reason)
