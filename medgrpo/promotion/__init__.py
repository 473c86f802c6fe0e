"""Who is champion: what the gate is shown, what follows from its word (proposal.py), how the champion is moved whatever
dies meanwhile (moves.py), and the log of all moves (audit_log.py).
"""

from medgrpo.promotion.proposal import (
    Incumbent,
    Proposal,
    carry_out,
    describe,
    describe_figures,
    find_incumbent,
    find_version,
    gather_evidence,
    read_proposal,
    ready,
    terminal_user,
    turn_down,
    weigh,
)

__all__ = [
    "Incumbent",
    "Proposal",
    "carry_out",
    "describe",
    "describe_figures",
    "find_incumbent",
    "find_version",
    "gather_evidence",
    "read_proposal",
    "ready",
    "terminal_user",
    "turn_down",
    "weigh",
]
