"""The log of moves: who made which version the champion, when, from what, and why. Entries are added, never changed.

An entry is a version of a registered model of its own, `NAME history`: the one thing that MLflow hands out one by one,
also to two writers at once, is a version's number. So nothing is lost, entries have an order, and each names the digest
of the one that its writer had read last. Of two entries that follow the same one the first counts; the other is kept,
and moves nothing.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from medgrpo import registry
from medgrpo.fingerprint import digest
from medgrpo.settings import Settings
from medgrpo.tracking import connect
from medgrpo.types import Frozen, ModelVersionRef

Kind = Literal["promote", "rollback", "restore", "refuse", "done"]
MOVES: tuple[Kind, ...] = ("promote", "rollback", "restore")
TAG = "medgrpo.entry"
"""Tag of an entry's version that holds it as JSON."""
ABOUT = "Who moved the champion, when and why: `medgrpo history` reads it. Never change or delete a version of this."


class Mover(Frozen):
    """Who asks for a move."""

    who: str = Field(min_length=1)
    """A user of a machine, or a flow run of Prefect."""
    reason: str = ""
    """What a person said about it."""
    approved: bool = False
    """Whether a person has approved it."""


class Entry(Frozen):
    """One thing that was done about a version. `done` says that the move before it was carried out."""

    kind: Kind
    version: int
    """What it is about."""
    before: registry.Aliases
    after: registry.Aliases
    """Where the aliases point once it is done."""
    who: str
    when: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    decision: str = ""
    """Digest of the gate's decision that it rests on; empty: none."""
    reason: str = ""
    follows: str = ""
    """Digest of the entry before it; empty for the first one."""


class Logged(Frozen):
    """An entry with its place in the log."""

    number: int
    entry: Entry
    counts: bool
    """Whether it follows the one before it; else another writer was first, and it moves nothing."""


class Log(Frozen):
    """All entries about one registered model, in order."""

    entries: tuple[Logged, ...] = ()
    faults: tuple[str, ...] = ()
    """What shows that somebody changed the log; empty: the chain is whole. The newest entry has no witness yet."""

    @property
    def valid(self) -> tuple[Entry, ...]:
        """The entries that count."""
        return tuple(logged.entry for logged in self.entries if logged.counts)

    @property
    def head(self) -> str:
        """Digest of the newest entry that counts."""
        return digest(self.valid[-1]) if self.valid else ""

    @property
    def last_move(self) -> Entry | None:
        """The newest entry that moves an alias."""
        return next((entry for entry in reversed(self.valid) if entry.kind in MOVES), None)

    @property
    def unfinished(self) -> Entry | None:
        """A move that was begun, and not said to be done."""
        newest = next((entry for entry in reversed(self.valid) if entry.kind != "refuse"), None)
        return newest if newest is not None and newest.kind in MOVES else None


def history_name(name: str) -> str:
    """Name of the registered model whose versions are the log of another one."""
    return f"{name} history"


def logged_names(settings: Settings) -> list[str]:
    """Names of all registered models that have a log."""
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = connect(settings).search_registered_models(page_token=token)
        found, token = [*found, *page], page.token or ""
    return [model.name.removesuffix(" history") for model in found if model.name.endswith(" history")]


def read_log(name: str, settings: Settings) -> Log:
    """Read the log of a registered model, and check its chain."""
    client = connect(settings)
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(f"name = '{history_name(name)}'", page_token=token)
        found, token = [*found, *page], page.token or ""
    return _chain({int(version.version): version.tags.get(TAG, "") for version in found})


def append(entry: Entry, about: ModelVersionRef, log: Log, settings: Settings) -> Entry | None:
    """Add an entry after all that was read; as it stands in the log, or None where somebody else's came first.

    Args:
        about: the version that the entry is about.
        log: what was read before the entry was made.
    """
    client = connect(settings)
    name = history_name(about.name)
    registry.ensure_model(client, name, ABOUT)
    entry = entry.model_copy(update={"follows": log.head})
    made = client.create_model_version(
        name,
        source=f"runs:/{about.run_id}/{registry.decision_file(about.version)}",
        run_id=about.run_id,
        tags={TAG: entry.model_dump_json()},
        description=describe(entry),
    )
    added = (logged for logged in read_log(about.name, settings).entries if logged.number == int(made.version))
    return next((logged.entry for logged in added if logged.counts), None)


def describe(entry: Entry) -> str:
    """An entry in one line."""
    told = {
        "promote": f"promote version {entry.version}",
        "rollback": f"roll back to {shown(entry.after.champion)}",
        "restore": f"restore {shown(entry.after.champion)}",
        "refuse": f"refuse version {entry.version}",
        "done": "done",
    }[entry.kind]
    moved = f": champion {shown(entry.before.champion)} → {shown(entry.after.champion)}"
    told += moved if entry.kind in MOVES else ""
    told += f", decision {entry.decision[:8]}" if entry.decision else ""
    when = f"{entry.when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{when}  {entry.who}: {told}" + (f" ({entry.reason})" if entry.reason else "")


def describe_log(log: Log, aliases: registry.Aliases) -> str:
    """The whole log as text, and whether it can be trusted.

    Args:
        aliases: where they point now.
    """
    lines = [
        f"{logged.number:4}  {describe(logged.entry)}" + ("" if logged.counts else "  [came second: nothing was moved]")
        for logged in log.entries
    ]
    lines.append(f"champion: {shown(aliases.champion)}; previous: {shown(aliases.previous)}")
    if log.unfinished:
        lines.append("the last move was cut off, or is being made: the next `medgrpo promote` finishes it")
    elif aliases != (log.last_move.after if log.last_move else registry.Aliases()):
        lines.append("an alias was moved outside medgrpo: the last move in the log left it elsewhere")
    lines += [f"BROKEN: {fault}" for fault in log.faults]
    lines.append(f"the chain is {'broken' if log.faults else 'whole'}: {len(log.entries)} entries")
    return "\n".join(lines)


def shown(version: int | None) -> str:
    """A version as people say it; where there is none the base model is served."""
    return "the base model" if version is None else f"version {version}"


def _chain(texts: dict[int, str]) -> Log:
    """Entries by number, each checked against the one before it."""
    entries: list[Logged] = []
    faults = [f"entry {number} is missing" for number in range(1, max(texts, default=0)) if number not in texts]
    head, earlier = "", set[str]()
    for number in sorted(texts):
        try:
            entry = Entry.model_validate_json(texts[number])
        except ValueError:
            faults.append(f"entry {number} can't be read: it was changed")
            continue
        late = entry.follows in earlier
        if not late and entry.follows != head:
            faults.append(f"entry {number} doesn't follow the one before it: one of the two was changed")
        entries.append(Logged(number=number, entry=entry, counts=not late))
        if not late:
            earlier.add(head)
            head = digest(entry)
    return Log(entries=tuple(entries), faults=tuple(faults))
