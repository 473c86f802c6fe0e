"""The log of moves: a chain in real MLflow, in which nothing gets lost and nothing can be changed unnoticed."""

from datetime import UTC, datetime

import pytest

from medgrpo import registry
from medgrpo.fingerprint import digest
from medgrpo.promotion.audit_log import TAG, Entry, Log, append, describe_log, history_name, read_log
from medgrpo.registry import Aliases
from medgrpo.settings import Settings
from medgrpo.tracking import connect
from medgrpo.types import ModelVersionRef

WHEN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def entry(kind: str = "promote", version: int = 1, before: int | None = None, after: int | None = 1) -> Entry:
    aliases = {"before": Aliases(champion=before), "after": Aliases(champion=after)}
    return Entry.model_validate({"kind": kind, "version": version, "who": "ann@host", "when": WHEN, **aliases})


@pytest.fixture
def about(request: pytest.FixtureRequest, settings: Settings) -> ModelVersionRef:
    """A version of a model of the test's own."""
    name = f"log-{digest(request.node.name)[:8]}"
    return ModelVersionRef(name=name, version=1, run_id="0" * 32, adapter_digest="a")


def add(about: ModelVersionRef, settings: Settings, *entries: Entry) -> Log:
    for each in entries:
        assert append(each, about, read_log(about.name, settings), settings) is not None
    return read_log(about.name, settings)


def test_an_empty_log_is_whole(about: ModelVersionRef, settings: Settings) -> None:
    log = read_log(about.name, settings)
    assert (log.entries, log.faults, log.head, log.last_move, log.unfinished) == ((), (), "", None, None)
    assert describe_log(log, Aliases()).endswith("the chain is whole: 0 entries")


def test_entries_are_read_as_they_were_written_and_chained(about: ModelVersionRef, settings: Settings) -> None:
    written = [entry(), entry("done"), entry("refuse", 2, 1, 1)]
    log = add(about, settings, *written)
    assert [logged.number for logged in log.entries] == [1, 2, 3]
    assert [each.model_copy(update={"follows": ""}) for each in log.valid] == written
    assert [each.follows for each in log.valid] == ["", digest(log.valid[0]), digest(log.valid[1])]
    assert log.faults == ()


@pytest.mark.parametrize(
    ("kinds", "unfinished", "last"),
    [
        (["promote"], "promote", "promote"),
        (["promote", "done"], None, "promote"),
        (["promote", "refuse"], "promote", "promote"),
        (["promote", "done", "refuse"], None, "promote"),
        (["promote", "restore"], "restore", "restore"),
        (["promote", "restore", "done", "rollback"], "rollback", "rollback"),
        (["refuse"], None, None),
    ],
)
def test_a_move_is_unfinished_until_something_says_done(
    about: ModelVersionRef, settings: Settings, kinds: list[str], unfinished: str | None, last: str | None
) -> None:
    log = add(about, settings, *(entry(kind) for kind in kinds))
    assert (log.unfinished and log.unfinished.kind, log.last_move and log.last_move.kind) == (unfinished, last)


def test_of_two_that_follow_the_same_entry_the_first_counts_and_both_are_kept(
    about: ModelVersionRef, settings: Settings
) -> None:
    seen = add(about, settings, entry(), entry("done"))
    first = append(entry("promote", 2, 1, 2), about, seen, settings)
    second = append(entry("promote", 3, 1, 3), about, seen, settings)
    assert first is not None
    assert first.version == 2
    assert second is None
    log = add(about, settings, entry("done", 2))
    assert [(logged.entry.version, logged.counts) for logged in log.entries] == [
        (1, True),
        (1, True),
        (2, True),
        (3, False),
        (2, True),
    ]
    assert log.faults == ()
    assert log.last_move == first
    assert "promote version 3: champion version 1 → version 3  [came second: nothing was moved]" in describe_log(
        log, Aliases()
    )


def test_two_that_are_both_first(about: ModelVersionRef, settings: Settings) -> None:
    assert append(entry(), about, Log(), settings) is not None
    assert append(entry(version=2), about, Log(), settings) is None
    log = read_log(about.name, settings)
    assert [logged.counts for logged in log.entries] == [True, False]
    assert log.faults == ()


def _three(about: ModelVersionRef, settings: Settings) -> None:
    add(about, settings, entry(), entry("done"), entry("rollback", 1, 2, 1))


def test_a_changed_entry_breaks_the_chain(about: ModelVersionRef, settings: Settings) -> None:
    _three(about, settings)
    client, name = connect(settings), history_name(about.name)
    text = client.get_model_version(name, "1").tags[TAG]
    client.set_model_version_tag(name, "1", TAG, text.replace("ann@host", "bob@host"))
    faults = read_log(about.name, settings).faults
    assert len(faults) == 1
    assert "entry 2 doesn't follow the one before it" in faults[0]


def test_a_removed_entry_is_missed(about: ModelVersionRef, settings: Settings) -> None:
    _three(about, settings)
    connect(settings).delete_model_version(history_name(about.name), "2")
    faults = read_log(about.name, settings).faults
    assert "entry 2 is missing" in faults
    assert "BROKEN: entry 2 is missing" in describe_log(read_log(about.name, settings), Aliases())


def test_an_unreadable_entry_is_named(about: ModelVersionRef, settings: Settings) -> None:
    _three(about, settings)
    connect(settings).set_model_version_tag(history_name(about.name), "3", TAG, "{}")
    assert read_log(about.name, settings).faults == ("entry 3 can't be read: it was changed",)


def test_the_history_reads_as_sentences(about: ModelVersionRef, settings: Settings) -> None:
    moved = entry().model_copy(update={"decision": "d" * 32, "reason": "better"})
    log = add(about, settings, moved)
    told = describe_log(log, Aliases())
    assert (
        "1  2026-03-01 12:00:00 UTC  ann@host: promote version 1: champion the base model → version 1, decision dddddddd (better)"
        in told
    )
    assert "the last move was cut off" in told
    assert told.endswith("the chain is whole: 1 entries")
    done = add(about, settings, entry("done"))
    assert "moved outside medgrpo" not in describe_log(done, Aliases(champion=1))
    assert "moved outside medgrpo" in describe_log(done, Aliases(champion=2))


def test_the_log_says_what_it_is_in_mlflow(about: ModelVersionRef, settings: Settings) -> None:
    _three(about, settings)
    client = connect(settings)
    assert "medgrpo history" in client.get_registered_model(history_name(about.name)).description
    version = client.get_model_version(history_name(about.name), "3")
    assert "roll back to version 1" in version.description
    assert version.source == f"runs:/{about.run_id}/{registry.decision_file(1)}"
