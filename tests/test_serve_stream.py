"""Streams, the official client, and what becomes of requests that fail midway, take too long, or lose their client."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_driver import STRICT, USER, Fixed, Saying, Speaking, asking, listening, served, stage, wait_until

from medgrpo.errors import ServeError
from medgrpo.serve.client import stream as ask_streamed
from medgrpo.serve.engine import Decoding

WAIT_S = 20


@pytest.fixture
def saying() -> Saying:
    return Saying()


@pytest.fixture
def client(saying: Saying, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(stage(tmp_path, Fixed(champion=saying))) as client:
        yield client


def events(client: httpx.Client, **request: Any) -> list[Any]:
    """The events of a stream: chunks, and at its end perhaps the word that ends it."""
    got = []
    with client.stream("POST", "/v1/chat/completions", json={"messages": USER, "stream": True, **request}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-medgrpo-version"] == "medgrpo-tiny/3"
        for line in response.iter_lines():
            if line:
                assert line.startswith("data: ")
                got.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
    return got


def test_a_stream_has_openais_shape(client: httpx.Client) -> None:
    *chunks, done = events(client)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    parts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(parts) == STRICT and len(list(filter(None, parts))) > 2
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [*[None] * (len(chunks) - 1), "stop"]
    assert (chunks[-1]["medgrpo"]["answer"], chunks[-1]["medgrpo"]["strict"]) == ("B", True)
    assert "usage" not in chunks[-1]


def test_usage_comes_last_when_asked_for(client: httpx.Client) -> None:
    *chunks, last, done = events(client, stream_options={"include_usage": True})
    assert done == "[DONE]" and last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    assert all(chunk["usage"] is None for chunk in chunks)


def test_the_official_client_works_unchanged(client: httpx.Client) -> None:
    with openai.OpenAI(
        base_url=f"{client.base_url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)
    ) as it:
        whole = it.chat.completions.create(model="medgrpo-tiny", messages=USER, max_tokens=9, stop=["\n\n"])  # type: ignore[call-overload]
        assert whole.choices[0].message.content == STRICT and whole.usage.total_tokens == 11
        assert whole.medgrpo["answer"] == "B"
        parts, usage = [], None
        for chunk in it.chat.completions.create(  # type: ignore[call-overload]
            model="champion", messages=USER, stream=True, stream_options={"include_usage": True}
        ):
            parts += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
        assert "".join(parts) == STRICT and usage is not None and usage.completion_tokens == 4
        assert [model.id for model in it.models.list()] == ["medgrpo-tiny/3"]
        with pytest.raises(openai.NotFoundError) as missing:
            it.chat.completions.create(model="gpt-0", messages=USER)  # type: ignore[call-overload]
        assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.BadRequestError):
            it.chat.completions.create(model="champion", messages=USER, temperature=9)  # type: ignore[call-overload]


def test_ask_shows_the_completion_while_it_comes(saying: Saying, tmp_path: Path) -> None:
    saying.hold = 2
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if "is" in text.split():
            assert saying.holding.wait(WAIT_S), "it was shown before the rest was said"
            saying.go_on.set()

    with asking(stage(tmp_path, Fixed(champion=saying, challenger=Saying(served("medgrpo-tiny/4"), "no")))) as client:
        told = ask_streamed(str(client.base_url), "?", show=show)
        assert "".join(shown) == told["completion"] == STRICT
        assert told["medgrpo"]["version"] == "medgrpo-tiny/3" and told["usage"]["completion_tokens"] == 4
        assert ask_streamed(str(client.base_url), "?", "challenger")["medgrpo"]["version"] == "medgrpo-tiny/4"


def test_decoding_is_handed_on(client: httpx.Client, saying: Saying) -> None:
    asked = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.25, "seed": 9, "stop": ["x", "y"]}
    events(client, **asked)
    client.post("/v1/chat/completions", json={"messages": USER})
    assert saying.decodings == [Decoding(5, 0.5, 0.25, 9, ("x", "y")), Decoding(24)]
    assert [turn["content"] for turn in saying.chats[0]] == ["Be exact.", "1 + 1?", "2", USER[0]["content"]]


@pytest.mark.parametrize("failure", [ServeError("weights on fire"), ValueError("weights on fire")])
def test_a_failure_midway_is_an_event(tmp_path: Path, failure: Exception) -> None:
    saying = Saying(hold=1, failure=failure)
    saying.go_on.set()
    versions = Fixed(champion=saying)
    with asking(stage(tmp_path, versions)) as client:
        *_, error = events(client)
        assert set(error) == {"error"} and error["error"]["type"] == "server_error"
        assert "fire" not in error["error"]["message"]
        with pytest.raises(ServeError, match="failed midway"):
            ask_streamed(str(client.base_url), "?")
        it = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", http_client=httpx.Client(trust_env=False))
        with it, pytest.raises(openai.APIError):
            list(it.chat.completions.create(model="champion", messages=USER, stream=True))  # type: ignore[call-overload]
        wait_until(lambda: versions.held == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_piece_is_a_status(tmp_path: Path, stream: bool) -> None:
    saying = Saying(hold=0, failure=ServeError("weights on fire"))
    saying.go_on.set()
    engine = Speaking()
    with asking(stage(tmp_path, Fixed(champion=saying), engine)) as client:
        for fault, status in (("", 500), ("its worker died", 503)):
            engine.broken = fault
            got = client.post("/v1/chat/completions", json={"messages": USER, "stream": stream})
            assert got.status_code == status and got.json()["error"]["type"] == "server_error"
            assert ("retry-after" in got.headers) == (status == 503)
            assert "fire" not in got.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends(tmp_path: Path, stream: bool) -> None:
    saying = Saying(hold=0)
    versions = Fixed(champion=saying)
    with asking(stage(tmp_path, versions, request_timeout_s=0.2)) as client:
        got = client.post("/v1/chat/completions", json={"messages": USER, "stream": stream})
        assert got.status_code == 504 and got.json()["error"]["code"] == "timeout"
        assert saying.cancelled.wait(WAIT_S)
        wait_until(lambda: versions.held == 0)
        saying.hold = 1
        if stream:
            *_, error = events(client)
            assert error["error"]["code"] == "timeout"


@pytest.mark.parametrize(("stream", "hold"), [(False, 0), (False, 2), (True, 0), (True, 2)])
def test_a_client_that_leaves_cancels(tmp_path: Path, stream: bool, hold: int) -> None:
    saying = Saying(hold=hold)
    versions = Fixed(champion=saying)
    with asking(stage(tmp_path, versions, max_running=1)) as client:
        with httpx.Client(base_url=client.base_url, timeout=httpx.Timeout(10, read=0.3), trust_env=False) as hasty:
            with pytest.raises(httpx.ReadTimeout):
                hasty.post("/v1/chat/completions", json={"messages": USER, "stream": stream})
            assert saying.holding.is_set()
        assert saying.cancelled.wait(WAIT_S)
        saying.go_on.set()
        # The one place in the queue is free again, and so is the version.
        assert client.post("/v1/chat/completions", json={"messages": USER}).status_code == 200
        wait_until(lambda: versions.held == 0)
        assert 'medgrpo_unfinished_completions_total{cause="client left"' in client.get("/metrics").text


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    saying = Saying(hold=0)
    with (
        asking(stage(tmp_path, Fixed(champion=saying), max_running=1, max_waiting=2)) as client,
        ThreadPoolExecutor() as pool,
    ):
        body = {"messages": USER}
        asked = [pool.submit(client.post, "/v1/chat/completions", json=body) for _ in range(3)]
        try:
            wait_until(lambda: "medgrpo_requests_waiting 2.0" in client.get("/metrics").text)
            refused = client.post("/v1/chat/completions", json=body)
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "queue_full"
            unknown = client.post("/v1/chat/completions", json={**body, "model": "gpt-0"})
            assert unknown.status_code == 404, "a mistake is told at once"
        finally:
            saying.go_on.set()
        assert [answer.result().status_code for answer in asked] == [200, 200, 200]
        assert len(saying.chats) == 3


def test_what_is_in_progress_is_finished_at_the_end(tmp_path: Path) -> None:
    saying = Saying(hold=2)
    with listening(stage(tmp_path, Fixed(champion=saying))) as (url, server), ThreadPoolExecutor() as pool:
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            asked = pool.submit(httpx.post, f"{url}/v1/chat/completions", json={"messages": USER}, trust_env=False)
            try:
                assert saying.holding.wait(WAIT_S)
                assert client.get("/ready").status_code == 200
                server.should_exit = True
                wait_until(lambda: client.get("/ready").status_code == 503)
                refused = client.post("/v1/chat/completions", json={"messages": USER})
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
                assert int(refused.headers["retry-after"]) >= 1
                assert client.get("/health").status_code == 200
                assert not asked.done()
            finally:
                saying.go_on.set()
        assert asked.result().status_code == 200
