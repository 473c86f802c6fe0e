"""Notices: a failure, a refusal and a promotion reach a webhook, through a real Prefect server's automations."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import pytest
from prefect_server import until

from medgrpo.errors import NotFoundError
from medgrpo.promotion import Proposal
from medgrpo.types import Decision, Interval, ModelVersionRef, Verdict

pytestmark = pytest.mark.usefixtures("on_server")

SECRET, KEY = "hook-0f3a", "key-77"


class Receiver:
    """A local HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        received = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                key = self.headers.get("authorization")
                received.append({"path": self.path, "key": key, **json.loads(body)})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.host}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, *words: str) -> dict[str, Any]:
        """The message with all these words."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.messages if all(word in json.dumps(one) for word in words)), None)

        return until(found, f"no message with {words} among {self.messages}")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()


@pytest.fixture
def deployed(receiver: Receiver, on_server: str) -> dict[str, str]:
    """Automations that tell the receiver."""
    from flows.deploy import Place, deploy

    return dict(deploy([], Place(notify_url=receiver.url, serve_url=receiver.host, serve_key=KEY)))


def proposal(promote: bool) -> Proposal:
    verdict = Verdict(rule="better", holds=promote, reason="70 rows won, 3 lost", figures={"won": 70})
    difference = Interval(mean=0.1, low=0.05, high=0.15)
    decision = Decision(promote=promote, verdicts=(verdict,), challenger="a", incumbent="b", difference=difference)
    version = ModelVersionRef(name="ours", version=7, run_id=uuid4().hex, adapter_digest="a")
    return Proposal(version=version, compared_with=6, decision=decision)


@pytest.mark.parametrize(
    ("outcome", "told"), [("promoted", "is promoted"), ("refused", "is refused"), ("waits for approval", "waits for")]
)
def test_an_outcome_reaches_the_webhook(deployed: Any, receiver: Receiver, outcome: Any, told: str) -> None:
    from prefect.events.worker import EventsWorker

    from tasks.notices import tell

    tell(proposal(promote=outcome != "refused"), outcome, "Dr Ann Lee")
    EventsWorker.instance().wait_until_empty()
    message = receiver.wait_for(told)
    assert message["path"] == f"/{SECRET}"
    assert message["subject"].startswith("medgrpo: ours")
    for words in ("ours version 7", "Dr Ann Lee", "70 rows won, 3 lost"):
        assert words in message["body"]


def test_a_promotion_nudges_the_served_stage(deployed: Any, receiver: Receiver) -> None:
    from prefect.events.worker import EventsWorker

    from tasks.notices import tell

    tell(proposal(promote=True), "promoted", "Dr Ann Lee")
    EventsWorker.instance().wait_until_empty()
    nudge = receiver.wait_for("/v1/versions/refresh")
    assert (nudge["path"], nudge["key"]) == ("/v1/versions/refresh", f"Bearer {KEY}")


def test_what_is_champion_already_is_no_news(deployed: Any, receiver: Receiver) -> None:
    from prefect.events.worker import EventsWorker

    from tasks.notices import tell

    before = len(receiver.messages)
    tell(proposal(promote=True), "champion already", "nobody")
    tell(proposal(promote=True), "promoted", "somebody else")
    EventsWorker.instance().wait_until_empty()
    receiver.wait_for("somebody else")
    assert [one for one in receiver.messages[before:] if "nobody" in one["body"]] == []


def test_a_failed_flow_run_reaches_the_webhook(deployed: Any, receiver: Receiver) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    from flows.pipeline import pipeline

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(pipeline, parameters={}, tags=["medgrpo"])
        client.set_flow_run_state(run.id, Failed(message="AUROC of the reward is missing"), force=True)
    message = receiver.wait_for(run.name, "Failed")
    assert "AUROC of the reward is missing" in message["body"]
    assert str(run.id) in message["body"], "the message names the flow run"


def test_the_secret_part_of_a_url_and_the_key_are_hidden(deployed: Any, on_server: str) -> None:
    import httpx

    blocks = httpx.post(f"{on_server}/block_documents/filter", json={}, timeout=30).text
    assert "medgrpo-notices" in blocks
    for secret in (SECRET, KEY):
        assert secret not in blocks
        assert secret not in " ".join(deployed)


def test_an_unknown_block_is_one_message(on_server: str) -> None:
    from flows.deploy import Place, deploy

    with pytest.raises(NotFoundError, match="no block 'slack-webhook/nobody'"):
        list(deploy([], Place(notify_block="slack-webhook/nobody")))
