"""The approval in Prefect: a real server, a form that it validates, and a flow that moves what the form says."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import promotion_driver as driver
import pytest
from prefect_server import newest_flow_run

from medgrpo import registry, tracking
from medgrpo.config import Config
from medgrpo.fingerprint import digest
from medgrpo.promotion.audit_log import read_log
from medgrpo.registry import Aliases, read_aliases
from medgrpo.settings import Settings
from medgrpo.types import DatasetRef, Decision, ModelVersionRef, Verdict

FORM = {"approve": True, "who": "Dr Ann Lee", "reason": "read the report"}
PATIENCE_S = 240


@pytest.fixture(scope="module", autouse=True)
def prefect_server(settings: Settings) -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDGRPO_HOME", str(settings.root))
        with prefect_test_harness(server_startup_timeout=240):
            yield


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Config:
    return Config.model_validate({"name": f"form-{digest(request.node.name)[:8]}", "registry": {"approval": True}})


@pytest.fixture
def path(own: Config, tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(f'name = "{own.name}"\nregistry.approval = true\n', encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The served stage itself is tested elsewhere."""
    monkeypatch.setattr("medgrpo.promotion.proposal.check_champion", lambda *_: None)


def propose(own: Config, dataset: DatasetRef, settings: Settings, promote: bool = True) -> ModelVersionRef:
    """A challenger with a stored decision."""
    run = tracking.open_run(own, dataset, f"key-{own.name}", settings, {})
    client = tracking.connect(settings)
    registry.ensure_model(client, own.model_name)
    tags = {"medgrpo.adapter_digest": "a"}
    client.create_model_version(own.model_name, source=f"runs:/{run.run_id}/a", run_id=run.run_id, tags=tags)
    client.set_registered_model_alias(own.model_name, "challenger", "1")
    version = registry.get(own.model_name, 1, settings)
    verdict = Verdict(rule="better", holds=promote, reason="70 rows won, 3 lost", figures={"won": 70})
    decision: Decision = driver.DECISION.model_copy(update={"promote": promote, "verdicts": (verdict,)})
    registry.record(version, decision, None, settings)
    return version


@pytest.fixture
def flow() -> Iterator[Any]:
    """Starts the flow in a thread."""
    from flows.promotion import promotion as flow

    with ThreadPoolExecutor(1) as threads:
        yield lambda path: threads.submit(flow, path, poll_s=1)


def paused(running: "Future[str]") -> Any:
    """The flow run once it waits for the form."""
    for _ in range(PATIENCE_S * 2):
        newest = newest_flow_run("medgrpo-promotion")
        if newest and newest.state.is_paused():
            return newest
        if running.done():
            raise AssertionError(f"it ended without asking: {running.result()}")
        wait([running], timeout=0.5)
    raise AssertionError("it didn't ask")


def fill_in(run: Any, form: dict[str, Any]) -> None:
    from prefect.flow_runs import resume_flow_run

    resume_flow_run(run.id, run_input=form)


def test_a_form_that_is_filled_in_moves_the_champion(
    own: Config, dataset: DatasetRef, path: str, flow: Any, settings: Settings
) -> None:
    version = propose(own, dataset, settings)
    running = flow(path)
    run = paused(running)
    for wrong in ({**FORM, "who": ""}, {**FORM, "reason": "  "}, {**FORM, "approve": "perhaps"}, {"approve": True}):
        with pytest.raises(RuntimeError, match="Cannot resume"):
            fill_in(run, wrong)
    assert read_aliases(own.model_name, settings) == Aliases(), "nothing moves before somebody approves"
    fill_in(run, FORM)
    assert running.result(PATIENCE_S) == "promoted"
    assert read_aliases(own.model_name, settings) == Aliases(champion=version.version)
    move = read_log(own.model_name, settings).last_move
    assert move is not None
    assert move.who == f"Dr Ann Lee, flow run {run.name} ({run.id})"
    assert move.reason == "read the report"


def test_a_person_may_turn_it_down(own: Config, dataset: DatasetRef, path: str, flow: Any, settings: Settings) -> None:
    propose(own, dataset, settings)
    running = flow(path)
    run = paused(running)
    fill_in(run, {**FORM, "approve": False, "reason": "doses are odd"})
    assert running.result(PATIENCE_S) == "refused"
    assert read_aliases(own.model_name, settings) == Aliases()
    (entry,) = read_log(own.model_name, settings).valid
    assert (entry.kind, entry.reason) == ("refuse", "doses are odd")
    assert entry.who.startswith("Dr Ann Lee")


def test_nobody_is_asked_about_what_the_gate_refuses(
    own: Config, dataset: DatasetRef, path: str, flow: Any, settings: Settings
) -> None:
    propose(own, dataset, settings, promote=False)
    assert flow(path).result(PATIENCE_S) == "refused"
    assert read_aliases(own.model_name, settings) == Aliases()
    (entry,) = read_log(own.model_name, settings).valid
    assert entry.reason == "the gate says no: better"
    assert entry.who.startswith("flow run ")
