"""Promotions: claimed, killed between any two steps, overtaken, undone; and what the gate is told. Real MLflow on SQLite."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import promotion_driver as driver
import pytest
from conftest import ROOT

from medgrpo import promotion, registry, tracking
from medgrpo.answer import render_question
from medgrpo.config import Config
from medgrpo.data.clinical import generate
from medgrpo.data.store import read_split
from medgrpo.errors import NotFoundError, PromotionStopped, ServeError
from medgrpo.fingerprint import digest
from medgrpo.policy import adapter_digest, load_base
from medgrpo.promotion import (
    Proposal,
    carry_out,
    find_incumbent,
    gather_evidence,
    moves,
    read_proposal,
    turn_down,
    weigh,
)
from medgrpo.promotion.audit_log import Mover, append, describe_log, read_log
from medgrpo.registry import Aliases, read_aliases, set_aliases
from medgrpo.serve.check import check_champion
from medgrpo.settings import Settings
from medgrpo.statistics import wilson_interval
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Interval, ModelVersionRef, RunRef

Make = Callable[..., ModelVersionRef]


@pytest.fixture
def own(config: Config, request: pytest.FixtureRequest) -> Config:
    """The config under a name of the test's own, so that tests share no registered model."""
    return config.model_copy(update={"name": f"moves-{digest(request.node.name)[:8]}"})


@pytest.fixture
def versions(own: Config, settings: Settings) -> list[ModelVersionRef]:
    """Three versions without files: their aliases move like those of others."""
    client = tracking.connect(settings)
    client.create_registered_model(own.model_name)
    made = []
    for number in (1, 2, 3):
        run_id, adapter = f"{number:032}", f"adapter-{number}"
        tags = {"medgrpo.adapter_digest": adapter}
        client.create_model_version(own.model_name, source=f"runs:/{run_id}/a", run_id=run_id, tags=tags)
        made.append(ModelVersionRef(name=own.model_name, version=number, run_id=run_id, adapter_digest=adapter))
    return made


def promote(version: ModelVersionRef, compared_with: int | None, settings: Settings) -> bool:
    return driver.promote(version, compared_with, settings, driver.answers)


def kinds(name: str, settings: Settings) -> list[str]:
    log = read_log(name, settings)
    assert log.faults == ()
    return [entry.kind for entry in log.valid]


# --- one at a time


def test_a_promotion_moves_both_aliases_and_says_so(versions: list[ModelVersionRef], settings: Settings) -> None:
    first, second, third = versions
    assert promote(first, None, settings)
    assert read_aliases(first.name, settings) == Aliases(champion=1)
    assert promote(second, 1, settings)
    assert read_aliases(first.name, settings) == Aliases(champion=2, previous=1)
    assert not promote(second, 1, settings), "it is the champion already"
    assert promote(third, 2, settings)
    assert read_aliases(first.name, settings) == Aliases(champion=3, previous=2)
    entries = read_log(first.name, settings).valid
    assert [entry.kind for entry in entries] == ["promote", "done"] * 3
    assert entries[0].decision == digest(driver.DECISION)
    assert entries[0].who == "tester"


@pytest.mark.parametrize("compared_with", [None, 3])
def test_another_champion_than_was_compared_stops_it(
    versions: list[ModelVersionRef], settings: Settings, compared_with: int | None
) -> None:
    promote(versions[0], None, settings)
    with pytest.raises(PromotionStopped, match=r"but version 1 is the champion now .*Nothing was moved"):
        promote(versions[1], compared_with, settings)
    assert read_aliases(versions[0].name, settings) == Aliases(champion=1)
    assert kinds(versions[0].name, settings) == ["promote", "done"]


def test_an_alias_that_was_moved_by_hand_counts(versions: list[ModelVersionRef], settings: Settings) -> None:
    promote(versions[0], None, settings)
    set_aliases(versions[0].name, Aliases(champion=2), settings)
    with pytest.raises(PromotionStopped, match="compared with version 1, but version 2"):
        promote(versions[2], 1, settings)
    assert "moved outside medgrpo" in describe_log(read_log(versions[0].name, settings), Aliases(champion=2))
    assert promote(versions[2], 2, settings)


@pytest.mark.parametrize("served", [None, 1])
def test_a_version_that_does_not_answer_is_taken_back(
    versions: list[ModelVersionRef], settings: Settings, served: int | None
) -> None:
    name = versions[0].name
    if served:
        promote(versions[0], None, settings)
    before = read_aliases(name, settings)
    with pytest.raises(PromotionStopped, match="version 2 failed when it was served") as stopped:
        driver.promote(versions[1], served, settings, driver.fails)
    assert ("version 1" if served else "the base model") in str(stopped.value)
    assert read_aliases(name, settings) == before
    assert kinds(name, settings)[-3:] == ["promote", "restore", "done"]
    assert read_log(name, settings).valid[-2].reason == "version 2 is silent"
    assert promote(versions[2], served, settings), "what failed doesn't block what comes after"


def test_rollback_swaps_the_two(versions: list[ModelVersionRef], settings: Settings) -> None:
    name = versions[0].name
    promote(versions[0], None, settings)
    with pytest.raises(NotFoundError, match="no previous champion"):
        moves.rollback(name, driver.MOVER, settings)
    promote(versions[1], 1, settings)
    assert moves.rollback(name, Mover(who="bob", reason="invents doses"), settings) == versions[0]
    assert read_aliases(name, settings) == Aliases(champion=1, previous=2)
    entry = read_log(name, settings).last_move
    assert entry is not None
    assert (entry.kind, entry.who, entry.reason) == ("rollback", "bob", "invents doses")
    assert (entry.before, entry.after) == (Aliases(champion=2, previous=1), Aliases(champion=1, previous=2))
    assert moves.rollback(name, driver.MOVER, settings) == versions[1]


def test_a_refusal_is_noted_once(versions: list[ModelVersionRef], settings: Settings) -> None:
    for mover in (driver.MOVER, driver.MOVER, driver.MOVER.model_copy(update={"reason": "too long"})):
        moves.refuse(versions[0], driver.DECISION, mover, settings)
    assert kinds(versions[0].name, settings) == ["refuse", "refuse"]
    assert read_aliases(versions[0].name, settings) == Aliases()


# --- killed between any two steps


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have loaded MLflow, and share no connection with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow", "mlflow.store.tracking.sqlalchemy_store", "medgrpo.promotion.moves"])
    return context


def end(process: BaseProcess) -> int | None:
    process.start()
    process.join(300)
    return process.exitcode


WRITES = 4
"""Of a second promotion: claim, previous, champion, done."""


@pytest.mark.parametrize("number", range(1, WRITES + 2))
@pytest.mark.parametrize("then", ["the same again", "another one", "rollback", "silent"])
def test_a_killed_promotion_leaves_a_champion_and_is_finished(
    versions: list[ModelVersionRef], settings: Settings, processes: Any, number: int, then: str
) -> None:
    first, second, third = versions
    promote(first, None, settings)
    arguments = (number, second, 1, settings, True)
    code = end(processes.Process(target=driver.promote_and_die, args=arguments))
    assert code == (0 if number > WRITES else -signal.SIGKILL)
    champion = read_aliases(first.name, settings).champion
    assert champion == (1 if number <= 3 else 2)
    claimed, done = number > 1, number > WRITES
    if then == "the same again":
        assert promote(second, 1, settings) is not claimed
        assert read_aliases(first.name, settings) == Aliases(champion=2, previous=1)
        assert kinds(first.name, settings) == ["promote", "done"] * 2
    elif then == "another one":
        if claimed:
            with pytest.raises(PromotionStopped, match="version 2 is the champion now"):
                promote(third, 1, settings)
        assert promote(third, 2 if claimed else 1, settings)
        assert read_aliases(first.name, settings) == Aliases(champion=3, previous=2 if claimed else 1)
    elif then == "rollback" and claimed:
        assert moves.rollback(first.name, driver.MOVER, settings) == first
        assert read_aliases(first.name, settings) == Aliases(champion=1, previous=2)
        assert read_log(first.name, settings).unfinished is None
    elif then == "silent" and claimed and not done:
        with pytest.raises(PromotionStopped, match="version 2 failed"):
            moves.settle(first.name, driver.fails, settings)
        assert read_aliases(first.name, settings) == Aliases(champion=1)
    assert read_log(first.name, settings).unfinished is None


@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_a_killed_restoration_is_finished(
    versions: list[ModelVersionRef], settings: Settings, processes: Any, number: int
) -> None:
    """Writes: claim, previous, champion; then restore, previous, champion, done."""
    promote(versions[0], None, settings)
    promote(versions[1], 1, settings)
    arguments = (number, versions[2], 2, settings, False)
    assert end(processes.Process(target=driver.promote_and_die, args=arguments)) == -signal.SIGKILL
    assert read_aliases(versions[0].name, settings).champion in (2, 3)
    if number == 4:
        with pytest.raises(PromotionStopped):
            moves.settle(versions[0].name, driver.fails, settings)
    else:
        moves.settle(versions[0].name, driver.fails, settings)
    assert read_aliases(versions[0].name, settings) == Aliases(champion=2, previous=1)
    assert kinds(versions[0].name, settings)[-3:] == ["promote", "restore", "done"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_killed_rollback_is_finished_not_turned_round(
    versions: list[ModelVersionRef], settings: Settings, processes: Any, number: int
) -> None:
    promote(versions[0], None, settings)
    promote(versions[1], 1, settings)
    arguments = (number, versions[0].name, settings)
    assert end(processes.Process(target=driver.roll_back_and_die, args=arguments)) == -signal.SIGKILL
    assert read_aliases(versions[0].name, settings).champion in (1, 2)
    assert moves.rollback(versions[0].name, driver.MOVER, settings) == versions[0]
    assert read_aliases(versions[0].name, settings) == Aliases(champion=1, previous=2)


# --- two at once


@pytest.mark.parametrize("homes", ["one home", "two homes"])
def test_two_promotions_at_once_have_one_winner_and_a_loser_that_knows(
    versions: list[ModelVersionRef], settings: Settings, tmp_path: Path, processes: Any, homes: str
) -> None:
    """With one home folder a lock keeps them apart; on two machines, the log."""
    promote(versions[0], None, settings)
    places = [settings, settings]
    if homes == "two homes":
        places = [Settings(home=tmp_path / str(n), tracking_uri=settings.mlflow_uri) for n in (1, 2)]
    start, results = processes.Barrier(2), processes.Queue()
    started = [
        processes.Process(target=driver.promote_together, args=(start, results, version, 1, place))
        for version, place in zip(versions[1:], places, strict=True)
    ]
    for process in started:
        process.start()
    said = dict(results.get(timeout=300) for _ in started)
    for process in started:
        process.join(60)
    (winner,) = [version for version, outcome in said.items() if outcome == "moved"]
    (lost,) = [outcome for outcome in said.values() if outcome != "moved"]
    assert f"version {winner} is the champion now" in lost
    assert "Nothing was moved" in lost
    assert read_aliases(versions[0].name, settings) == Aliases(champion=winner, previous=1)
    log = read_log(versions[0].name, settings)
    assert (log.faults, log.unfinished) == ((), None)
    assert [entry.version for entry in log.valid if entry.kind == "promote"] == [1, winner]


def test_a_note_of_another_writer_does_not_stop_a_promotion(
    versions: list[ModelVersionRef], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's refusal comes between reading and claiming; the claim is made again behind it."""
    first, second, third = versions
    promote(first, None, settings)
    real, noted = append, []

    def interrupted(entry: Any, about: Any, log: Any, settings: Settings) -> Any:
        if entry.kind == "promote" and not noted:
            noted.append(True)
            moves.refuse(third, driver.DECISION, driver.MOVER, settings)
        return real(entry, about, log, settings)

    monkeypatch.setattr(moves, "append", interrupted)
    assert promote(second, 1, settings)
    assert kinds(first.name, settings) == ["promote", "done", "refuse", "promote", "done"]


@pytest.mark.parametrize("passes", [True, False])
def test_a_promotion_that_is_rolled_back_while_it_is_tested_stays_rolled_back(
    versions: list[ModelVersionRef], settings: Settings, tmp_path: Path, passes: bool
) -> None:
    """From another machine: the lock doesn't hold there, and whoever comes last must not move the aliases back."""
    promote(versions[0], None, settings)
    elsewhere = Settings(home=tmp_path, tracking_uri=settings.mlflow_uri)

    def check(version: ModelVersionRef) -> None:
        moves.rollback(version.name, driver.MOVER, elsewhere)
        if not passes:
            raise ServeError("silent")

    with pytest.raises(PromotionStopped, match="overtaken"):
        driver.promote(versions[1], 1, settings, check)
    assert read_aliases(versions[0].name, settings) == Aliases(champion=1, previous=2)
    assert kinds(versions[0].name, settings) == ["promote", "done", "promote", "rollback", "done"]


def test_a_late_write_over_another_move_is_put_right(
    versions: list[ModelVersionRef], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine rolls back between this one's last look at the log and its write."""
    promote(versions[0], None, settings)
    elsewhere = Settings(home=tmp_path, tracking_uri=settings.mlflow_uri)
    real, late = set_aliases, []

    def write(name: str, aliases: Aliases, place: Settings) -> None:
        if not late:
            late.append(name)
            moves.rollback(name, driver.MOVER, elsewhere)
        real(name, aliases, place)

    monkeypatch.setattr(moves, "set_aliases", write)
    with pytest.raises(PromotionStopped, match="overtaken"):
        promote(versions[1], 1, settings)
    assert read_aliases(versions[0].name, settings) == Aliases(champion=1, previous=2)


# --- with real files, a real gate and a real served stage


def report(right: int, checkpoint: CheckpointRef, rows: int = 60) -> EvalReport:
    """A report in which the first `right` rows are right, all in the strict grammar."""
    share, all_rows = wilson_interval(right, rows, 0.95), Interval(mean=1, low=1, high=1)
    return EvalReport(
        key=f"report-{right}-{checkpoint.label}",
        checkpoint=checkpoint,
        split="test",
        rows_digest="rows",
        rows=rows,
        accuracy=share,
        lenient_accuracy=share,
        format_rate=all_rows,
        refusal_rate=Interval(mean=0, low=0, high=0),
        completion_tokens=Interval(mean=20, low=20, high=20),
        topics={},
        slices={},
        correct=tuple(row < right for row in range(rows)),
    )


@pytest.fixture
def run(own: Config, dataset: DatasetRef, settings: Settings) -> RunRef:
    return tracking.open_run(own, dataset, f"key-{own.name}", settings, {})


@pytest.fixture
def make(own: Config, base: BaseRef, dataset: DatasetRef, run: RunRef, settings: Settings) -> Make:
    """Registers an adapter that really changes what the tiny policy says; or one that can't be loaded."""

    def made(seed: int, loads: bool = True, trained_on: DatasetRef = dataset) -> ModelVersionRef:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        lora = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
        folder = settings.root / "made" / f"{own.name}-{seed}"
        get_peft_model(load_base(base.folder).model, lora).save_pretrained(str(folder))
        if not loads:
            (folder / "adapter_model.safetensors").write_bytes(b"no weights")
        target = settings.adapter(adapter_digest(folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            folder.rename(target)
        checkpoint = CheckpointRef(train_key=run.key, step=seed, adapter_digest=target.name)
        return registry.register(own, base, trained_on, run, checkpoint, settings)

    return made


def propose(
    own: Config, dataset: DatasetRef, version: ModelVersionRef, right: tuple[int, int], settings: Settings
) -> Proposal:
    """Weigh a version that has `right[0]` rows right against an incumbent with `right[1]`."""
    incumbent = find_incumbent(own, settings)
    checkpoint = CheckpointRef(train_key="t", step=1, adapter_digest=version.adapter_digest)
    reports = report(right[0], checkpoint), report(right[1], incumbent.checkpoint)
    evidence = gather_evidence(own, dataset, version, *reports, (), settings)
    return weigh(own, version, incumbent.version.version if incumbent.version else None, evidence, settings)


def test_the_gate_is_told_what_is_stored(own: Config, dataset: DatasetRef, make: Make, settings: Settings) -> None:
    version = make(1)
    reports = report(50, CheckpointRef(step=1, adapter_digest="x")), report(10, CheckpointRef.base())
    evidence = gather_evidence(own, dataset, version, *reports, (), settings)
    golds = [row.gold for row in read_split(dataset, "test", settings)]
    assert evidence.majority_accuracy == max(golds.count(gold) for gold in golds) / len(golds)
    assert evidence.incumbent_is_base
    assert evidence.audit_passed
    assert evidence.contaminated_rows == 0
    assert evidence.train_digest == evidence.dataset_digest == dataset.digests["train"]
    assert promotion.describe(weigh(own, version, None, evidence, settings)).count("holds") >= 5


def test_test_rows_that_were_trained_on_are_counted(
    own: Config, base: BaseRef, dataset: DatasetRef, make: Make, settings: Settings
) -> None:
    from medgrpo.data.prepare import prepare

    other = own.model_copy(update={"data": own.data.model_copy(update={"test_rows": 6, "validation_rows": 3})})
    trained = prepare(other, base, settings)  # the same questions, split otherwise
    asked = {render_question(row) for row in read_split(trained, "train", settings)}
    leaked = sum(render_question(row) in asked for row in read_split(dataset, "test", settings))
    assert leaked > 0
    reports = report(50, CheckpointRef(step=1, adapter_digest="x")), report(10, CheckpointRef.base())
    evidence = gather_evidence(own, dataset, make(2, trained_on=trained), *reports, (), settings)
    assert evidence.contaminated_rows == leaked
    assert evidence.train_digest != evidence.dataset_digest


def test_gate_and_served_stage_decide_who_is_champion(
    own: Config, dataset: DatasetRef, make: Make, settings: Settings
) -> None:
    """A better, an equal and a broken challenger, each tested by a real `medgrpo serve`."""
    first = make(1)
    better = propose(own, dataset, first, (50, 10), settings)
    assert carry_out(own, better, driver.MOVER, settings) == "promoted"
    assert carry_out(own, better, driver.MOVER, settings) == "champion already"
    assert read_proposal(own, settings) == better
    assert propose(own, dataset, first, (50, 50), settings).decision == better.decision, "it isn't judged by itself"
    assert check_champion(own, first, settings).question == render_question(generate(1, seed=0)[0])

    second = make(2)
    with pytest.raises(ServeError, match=f"asked for {second.name}/2, {first.name}/1 answered"):
        check_champion(own, second, settings)
    equal = propose(own, dataset, second, (50, 50), settings)
    assert carry_out(own, equal, driver.MOVER, settings) == "refused"
    assert read_log(own.model_name, settings).valid[-1].reason.startswith("the gate says no: better")
    assert registry.read_decision(second, settings) == equal.decision, "a refusal is stored too"

    broken = make(3, loads=False)
    with pytest.raises(PromotionStopped, match="version 3 failed when it was served, so version 1"):
        carry_out(own, propose(own, dataset, broken, (59, 20), settings), driver.MOVER, settings)
    assert read_aliases(own.model_name, settings) == Aliases(champion=1)
    assert kinds(own.model_name, settings) == ["promote", "done", "refuse", "promote", "restore", "done"]


def test_where_approval_is_asked_for_a_run_moves_nothing(
    own: Config, dataset: DatasetRef, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = own.model_copy(update={"registry": own.registry.model_copy(update={"approval": True})})
    proposal = propose(asks, dataset, make(1), (50, 10), settings)
    assert carry_out(asks, proposal, Mover(who="flow run"), settings) == "waits for approval"
    assert read_log(own.model_name, settings).entries == ()
    assert turn_down(proposal, Mover(who="ann", reason="not yet"), settings) == "refused"
    assert read_aliases(own.model_name, settings) == Aliases()
    monkeypatch.setattr("medgrpo.promotion.proposal.check_champion", lambda *_: None)
    assert carry_out(asks, proposal, Mover(who="ann", approved=True), settings) == "promoted"


def test_an_interrupted_promotion_is_settled_before_the_next_comparison(
    own: Config, dataset: DatasetRef, make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(1)
    proposal = propose(own, dataset, first, (50, 10), settings)

    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medgrpo.promotion.proposal.check_champion", cut_off)
    with pytest.raises(KeyboardInterrupt):
        carry_out(own, proposal, driver.MOVER, settings)
    assert "was cut off" in describe_log(read_log(own.model_name, settings), Aliases(champion=1))
    monkeypatch.setattr("medgrpo.promotion.proposal.check_champion", lambda *_: None)
    assert find_incumbent(own, settings).version == first
    assert kinds(own.model_name, settings) == ["promote", "done"]


def test_a_decision_that_was_changed_is_not_acted_on(
    own: Config, dataset: DatasetRef, make: Make, settings: Settings
) -> None:
    version = make(1)
    with pytest.raises(NotFoundError, match="no decision is stored"):
        read_proposal(own, settings)
    proposal = propose(own, dataset, version, (10, 50), settings)
    assert not proposal.decision.promote
    forged = proposal.decision.model_copy(update={"promote": True})
    tracking.connect(settings).log_dict(version.run_id, forged.model_dump(mode="json"), "decisions/v1.json")
    with pytest.raises(NotFoundError, match="isn't the one that was stored"):
        read_proposal(own, settings)


# --- the command line


def medgrpo(*arguments: str, home: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"MEDGRPO_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "medgrpo.cli", *arguments]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture
def smoke(own: Config, tmp_path: Path) -> str:
    path = tmp_path / "smoke.toml"
    text = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('name = "smoke"', f'name = "{own.name}"'), encoding="utf-8")
    return str(path)


def test_without_a_terminal_promote_wants_a_yes_before_it_does_anything(smoke: str, tmp_path: Path) -> None:
    done = medgrpo("promote", smoke, home=tmp_path / "home")
    assert done.returncode == 2
    assert "here is no terminal: add --yes" in done.stderr
    assert not (tmp_path / "home").exists()


def test_rollback_and_history_from_the_command_line(
    versions: list[ModelVersionRef], settings: Settings, smoke: str
) -> None:
    promote(versions[0], None, settings)
    promote(versions[1], 1, settings)
    done = medgrpo("rollback", smoke, "--reason", "invents doses", home=settings.root)
    assert done.returncode == 0, done.stderr
    assert "version 1 is the champion again" in done.stdout
    told = medgrpo("history", smoke, home=settings.root)
    assert told.returncode == 0
    assert (
        f"{promotion.terminal_user()}: roll back to version 1: champion version 2 → version 1 (invents doses)"
        in told.stdout
    )
    assert "the chain is whole: 6 entries" in told.stdout
    name = f"{versions[0].name} history"
    tracking.connect(settings).delete_model_version(name, "2")
    changed = medgrpo("history", smoke, home=settings.root)
    assert changed.returncode == 1
    assert "BROKEN: entry 2 is missing" in changed.stdout
