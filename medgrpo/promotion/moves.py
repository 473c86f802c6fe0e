"""Moving the champion: claim the move in the log, move the aliases, look whether the served stage answers, say done.

Whatever dies in between leaves the old or the new champion, and a claim without a `done` in the log: the next promotion
finishes it first. Of two that claim at once the log counts one; the other stops, and nothing of it has happened.
"""

import logging
from collections.abc import Callable

from medgrpo.errors import NotFoundError, PromotionStopped, ServeError
from medgrpo.fingerprint import digest
from medgrpo.promotion.audit_log import Entry, Kind, Log, Mover, append, describe, read_log, shown
from medgrpo.registry import Aliases, alone, get, read_aliases, set_aliases
from medgrpo.settings import Settings
from medgrpo.types import Decision, ModelVersionRef

log = logging.getLogger(__name__)

Check = Callable[[ModelVersionRef], None]
"""Serves the champion, which should be this version, and asks it a question; raises ServeError if that fails."""
ATTEMPTS = 20
"""How often an entry is made again because another writer's came first."""


def promote(
    version: ModelVersionRef,
    compared_with: int | None,
    decision: Decision,
    mover: Mover,
    check: Check,
    settings: Settings,
) -> bool:
    """Make a version the champion, and the one before it `previous`; whether it moved: it may be champion already.

    Args:
        compared_with: the champion that the decision is about; None: there was none.

    Raises:
        PromotionStopped: the champion isn't what was compared any more; or the served stage didn't answer with the new
            one, and the old one is champion again.
    """

    def claim(found: Log) -> Entry:
        # Read after the log: a claim that comes in between makes this one come second.
        before = read_aliases(version.name, settings)
        if found.unfinished or before.champion != compared_with:
            champion = found.unfinished.after.champion if found.unfinished else before.champion
            raise PromotionStopped(_overtaken(version, compared_with, champion, found))
        after = Aliases(champion=version.version, previous=before.champion or before.previous)
        return _entry("promote", version, before, after, mover, digest(decision))

    with alone(version.name, settings):
        _finish_open(version.name, check, settings)
        if read_aliases(version.name, settings).champion == version.version:
            return False
        _finish(_add(version, claim, settings), check, settings)
    log.info("%s version %d is the champion now", version.name, version.version)
    return True


def rollback(name: str, mover: Mover, settings: Settings) -> ModelVersionRef:
    """Make the previous champion the champion again; the two swap places. A rollback that was cut off is only finished.

    Raises:
        NotFoundError: there is no previous champion.
        PromotionStopped: somebody else moved the champion at the same time.
    """
    with alone(name, settings):
        found = read_log(name, settings)
        if (cut_off := found.unfinished) and cut_off.kind != "promote":
            _finish_open(name, _no_check, settings)
            if cut_off.after.champion is not None:
                return get(name, cut_off.after.champion, settings)
        now = _current(name, read_log(name, settings), settings)
        if now.previous is None:
            raise NotFoundError(f"'{name}' has no previous champion to go back to")
        version = get(name, now.previous, settings)

        def claim(found: Log) -> Entry:
            if _current(name, found, settings) != now:
                raise PromotionStopped(f"{name} isn't rolled back: {_last_move(found)} came first")
            after = Aliases(champion=now.previous, previous=now.champion)
            return _entry("rollback", version, now, after, mover)

        _finish(_add(version, claim, settings), _no_check, settings)
    return version


def refuse(version: ModelVersionRef, decision: Decision, mover: Mover, settings: Settings) -> None:
    """Note that a version isn't promoted, once for one decision and reason."""
    aliases = read_aliases(version.name, settings)
    entry = _entry("refuse", version, aliases, aliases, mover, digest(decision))
    about = [old for old in read_log(version.name, settings).valid if old.version == entry.version]
    newest = next((old for old in reversed(about) if old.kind != "done"), None)
    if newest is None or _said(newest) != _said(entry):
        _add(version, lambda _: entry, settings)


def position(name: str, settings: Settings) -> list[str | int | None]:
    """Who is champion and what the log says last: the same as long as nobody moves anything."""
    aliases = read_aliases(name, settings)
    return [aliases.champion, aliases.previous, read_log(name, settings).head]


def settle(name: str, check: Check, settings: Settings) -> None:
    """Finish a move that was cut off.

    Raises:
        PromotionStopped: the version that was being promoted doesn't answer; the one before it is champion again.
    """
    with alone(name, settings):
        _finish_open(name, check, settings)


def _finish_open(name: str, check: Check, settings: Settings) -> None:
    if claim := read_log(name, settings).unfinished:
        log.warning("%s: a move was cut off and is finished now: %s", name, describe(claim))
        _finish((claim, get(name, claim.version, settings)), check, settings)


def _finish(claimed: tuple[Entry, ModelVersionRef], check: Check, settings: Settings) -> None:
    """Do what the log says that somebody began. Doing it twice changes nothing."""
    claim, version = claimed
    _point(claim, version.name, settings)
    if claim.kind == "promote":
        try:
            check(version)
        except ServeError as error:
            _undo(claim, version, str(error), settings)
            raise PromotionStopped(
                f"{version.name} version {version.version} failed when it was served, so "
                f"{shown(claim.before.champion)} is the one to serve again: {error}"
            ) from error
    done = Mover(who=claim.who)
    _add(version, _after(claim, _entry("done", version, claim.before, claim.after, done)), settings)


def _undo(claim: Entry, version: ModelVersionRef, reason: str, settings: Settings) -> None:
    mover = Mover(who=claim.who, reason=reason.splitlines()[0])
    restore = _entry("restore", version, claim.after, claim.before, mover, claim.decision)
    _finish(_add(version, _after(claim, restore), settings), _no_check, settings)


def _no_check(_: ModelVersionRef) -> None:
    """For moves to what has been served before."""


def _point(claim: Entry, name: str, settings: Settings) -> None:
    """Move the aliases, unless another move has come since: MLflow can't compare and set, so look before and after."""
    _stop_if_overtaken(claim, name, read_log(name, settings))
    set_aliases(name, claim.after, settings)
    found = read_log(name, settings)
    if found.last_move and found.last_move != claim:
        set_aliases(name, found.last_move.after, settings)
    _stop_if_overtaken(claim, name, found)


def _after(claim: Entry, entry: Entry) -> Callable[[Log], Entry]:
    """An entry about a move, which is to be made only while no other move has come since."""

    def make(found: Log) -> Entry:
        _stop_if_overtaken(claim, "the move", found)
        return entry

    return make


def _stop_if_overtaken(claim: Entry, name: str, found: Log) -> None:
    if found.last_move != claim:
        raise PromotionStopped(f"{name} was overtaken ({describe(claim)}): {_last_move(found)} came after it")


def _add(version: ModelVersionRef, make: Callable[[Log], Entry], settings: Settings) -> tuple[Entry, ModelVersionRef]:
    """Make an entry from the log as it is and add it; again from the newer log where another writer came first."""
    for _ in range(ATTEMPTS):
        found = read_log(version.name, settings)
        if added := append(make(found), version, found, settings):
            return added, version
    raise PromotionStopped(f"the log of {version.name} is written by others without a pause: try again")


def _entry(
    kind: Kind, version: ModelVersionRef, before: Aliases, after: Aliases, mover: Mover, decision: str = ""
) -> Entry:
    return Entry(
        kind=kind,
        version=version.version,
        before=before,
        after=after,
        who=mover.who,
        decision=decision,
        reason=mover.reason,
    )


def _current(name: str, found: Log, settings: Settings) -> Aliases:
    """Where the aliases belong: a promotion that was cut off may have moved one of two, and the log knows the other."""
    return found.unfinished.after if found.unfinished else read_aliases(name, settings)


def _said(entry: Entry) -> tuple[str, str, str]:
    return entry.kind, entry.decision, entry.reason


def _last_move(found: Log) -> str:
    return describe(found.last_move) if found.last_move else "a move outside medgrpo"


def _overtaken(version: ModelVersionRef, compared_with: int | None, champion: int | None, found: Log) -> str:
    return (
        f"{version.name} version {version.version} was compared with {shown(compared_with)}, but {shown(champion)} is "
        f"the champion now (last move: {_last_move(found)}). Nothing was moved. Run `medgrpo promote` again to compare "
        "with that"
    )
