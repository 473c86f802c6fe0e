"""The HTTP interface over a tiny random policy with a random adapter, in the embedded engine behind a real server."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from serve_driver import LONGEST, STRICT, USER, Fixed, Saying, asking, stage, wait_until

from medgrpo.answer import render_question
from medgrpo.base_models import TinyBase, resolve
from medgrpo.config import Config, Demonstration, EvaluationConfig, PolicyConfig, PromptConfig
from medgrpo.errors import ServeError
from medgrpo.policy import Policy, attach, load_base
from medgrpo.serve.client import ask
from medgrpo.serve.embedded import EmbeddedEngine
from medgrpo.serve.engine import Served, Source
from medgrpo.serve.guard import MAX_BODY
from medgrpo.serve.server import listen
from medgrpo.serve.stage import Stage
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example

QUESTION = USER[0]["content"]
SECRET = "Zebulon-Q-Testperson"
CONFIG = Config(
    name="tiny",
    policy=PolicyConfig(base=TinyBase(lessons=0)),
    prompt=PromptConfig(demonstrations=(Demonstration(question="1 + 1?", completion="2"),)),
    evaluation=EvaluationConfig(max_completion_tokens=LONGEST, batch_size=1),
)
SERVED = Served(
    version="medgrpo-tiny/3",
    run_id="run-1",
    dataset_digest="digest-1",
    adapter_digest="adapter-1",
    system_prompt=CONFIG.prompt.system,
    demonstrations=CONFIG.prompt.shown,
    base="tiny",
)
BASE = Served("base", "", "", "", CONFIG.prompt.system, CONFIG.prompt.shown, "tiny")
CONTEXT = 1024


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseRef:
    return resolve(TinyBase(lessons=0), Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def adapter(base: BaseRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the tiny base says."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    settings = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(load_base(base.folder).model, settings).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def policy(base: BaseRef, adapter: Path) -> Policy:
    return attach(load_base(base.folder), adapter)


@pytest.fixture(scope="module")
def client(base: BaseRef, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("served")

    async def start() -> Stage:
        engine = EmbeddedEngine()
        champion = await engine.load(Source(SERVED, base, adapter, CONFIG.policy))
        alone = await engine.load(Source(BASE, base, None, CONFIG.policy))
        return stage(home, Fixed(champion=champion, base=alone), engine, close=engine.close)

    with asking(start) as client:
        yield client


def post(client: httpx.Client, **request: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json={"messages": USER, **request})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def text(body: dict[str, Any]) -> str:
    content: str = body["choices"][0]["message"]["content"]
    return content


def test_greedy_is_what_evaluation_generates(client: httpx.Client, policy: Policy) -> None:
    from medgrpo.evaluation import generate

    asked = [
        Example(id="1", kind="text", question=QUESTION, gold="x"),
        Example(id="2", kind="choice", question="Pick.", gold="A", options={"A": "warm", "B": "cold"}),
    ]
    expected = generate(policy, CONFIG, asked, "test")
    got = [text(post(client, messages=[{"role": "user", "content": render_question(e)}])) for e in asked]
    assert got == expected and all(expected) and len(set(expected)) == 2


def test_the_adapter_answers_not_the_base(client: httpx.Client) -> None:
    assert text(post(client)) != text(post(client, model="base"))


def test_a_stream_says_the_same(client: httpx.Client) -> None:
    said = ""
    with client.stream("POST", "/v1/chat/completions", json={"messages": USER, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    assert said == text(post(client))


def test_version_is_named_in_body_and_header(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json={"messages": USER})
    body = response.json()
    assert response.headers["x-medgrpo-version"] == body["model"] == body["medgrpo"]["version"] == "medgrpo-tiny/3"
    assert (body["medgrpo"]["run_id"], body["medgrpo"]["dataset_digest"]) == ("run-1", "digest-1")
    assert (response.headers["x-medgrpo-run"], response.headers["x-medgrpo-dataset"]) == ("run-1", "digest-1")
    assert body["object"] == "chat.completion" and body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_the_answer_is_parsed(tmp_path: Path) -> None:
    with asking(stage(tmp_path, Fixed(champion=Saying()))) as client:
        got = post(client)["medgrpo"]
        assert (got["reasoning"], got["answer"], got["strict"]) == ("it is so indeed", "B", True)
        assert ask(str(client.base_url), QUESTION).answer == "B"
    with asking(stage(tmp_path, Fixed(champion=Saying(said="B")))) as client:
        got = post(client)["medgrpo"]
        assert (got["reasoning"], got["answer"], got["strict"]) == (None, None, False)


def test_own_prompt_goes_before_a_request_without_a_system_message(client: httpx.Client, policy: Policy) -> None:
    own = [{"role": "system", "content": "Be brief."}, *USER]
    whole = [
        {"role": "system", "content": SERVED.system_prompt},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        *USER,
    ]
    assert post(client)["usage"]["prompt_tokens"] == len(policy.prompt_tokens(whole))
    assert post(client, messages=own)["usage"]["prompt_tokens"] == len(policy.prompt_tokens(own))
    assert text(post(client, messages=whole)) == text(post(client))


def test_developer_turns_and_text_parts_are_understood(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    with asking(stage(tmp_path, Fixed(champion=(saying := Saying())))) as client:
        post(client, messages=[{"role": "developer", "content": "D"}, {"role": "user", "content": parts}])
    assert saying.chats == [[{"role": "system", "content": "D"}, {"role": "user", "content": "one two"}]]


def test_seeds_decide_and_do_not_leak(client: httpx.Client) -> None:
    import torch

    before = torch.random.get_rng_state()
    hot = {"temperature": 1.0}
    first, again, other = (text(post(client, seed=seed, **hot)) for seed in (1, 1, 2))
    assert first == again != other
    assert text(post(client, **hot)) != text(post(client, **hot)), "without a seed each one is drawn anew"
    assert torch.equal(before, torch.random.get_rng_state())


def test_top_p_zero_and_tiny_temperatures_are_greedy(client: httpx.Client) -> None:
    greedy = text(post(client))
    assert text(post(client, temperature=1.0, top_p=0, seed=5)) == greedy
    assert text(post(client, temperature=1e-300, seed=5)) == greedy


def test_length_and_stop(client: httpx.Client) -> None:
    body = post(client, max_tokens=5)
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (5, "length")
    assert post(client, max_tokens=9, max_completion_tokens=4)["usage"]["completion_tokens"] == 4
    hot = {"temperature": 1.0, "seed": 1}
    whole = text(post(client, **hot))
    word = next(letter for letter in whole if letter.isascii() and whole.index(letter) > 5)
    stopped = post(client, **hot, stop=[word, "never said"])
    assert text(stopped) == whole[: whole.index(word)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] < LONGEST


@pytest.mark.parametrize("model", ["medgrpo-tiny/3", "medgrpo-tiny", "champion", None])
def test_model_names_that_are_served(client: httpx.Client, model: str | None) -> None:
    assert post(client, model=model, max_tokens=1)["model"] == "medgrpo-tiny/3"


def test_nulls_and_unknown_keys_do_not_matter(client: httpx.Client) -> None:
    nulls: dict[str, Any] = dict.fromkeys(["temperature", "top_p", "seed", "stop", "stream", "n", "max_tokens"])
    nulls["stream_options"] = None
    assert text(post(client, **nulls, user="u1", metadata={"a": 1})) == text(post(client))


def test_models_and_health(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["medgrpo-tiny/3", "base"]
    assert client.get("/health").json() == {"status": "ok", "version": "medgrpo-tiny/3", "base": "tiny", "problem": ""}
    assert client.get("/ready").status_code == 200


WRONG: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "no messages": ({"messages": None}, 400, "messages", "required"),
    "empty messages": ({"messages": []}, 400, "messages", "at least 1"),
    "unknown role": ({"messages": [{"role": SECRET, "content": SECRET}]}, 400, "messages.0.role", "should be"),
    "no content": ({"messages": [{"role": "user", "text": SECRET}]}, 400, "messages.0.content", "required"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None, "only text"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800" + SECRET}]}, 400, None, "Unicode"),
    "number as text": ({"temperature": SECRET}, 400, "temperature", "number"),
    "too hot": ({"temperature": 3}, 400, "temperature", "less than"),
    "not finite": ({"top_p": float("nan")}, 400, "top_p", "finite"),
    "seed too large": ({"seed": 2**70}, 400, "seed", ""),
    "empty stop": ({"stop": ""}, 400, "stop.0", "at least 1"),
    "half a stop": ({"stop": "\ud800"}, 400, "stop.0", "Unicode"),
    "unknown model": ({"model": SECRET}, 404, "model", "not served"),
    "two completions": ({"n": 2}, 400, "n", "one completion"),
    "too many tokens": ({"max_tokens": LONGEST + 1}, 400, "max_tokens", f"at most {LONGEST} tokens"),
    "no tokens": ({"max_completion_tokens": 0}, 400, "max_completion_tokens", "greater than"),
    "prompt too long": ({"messages": [{"role": "user", "content": SECRET * 500}]}, 400, "messages", str(CONTEXT)),
    "too many messages": ({"messages": [{"role": "user", "content": SECRET}] * 65}, 400, "messages", "at most 64"),
}


def assert_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert SECRET not in response.text and "ebulon" not in response.text
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_errors_have_openai_shape_and_never_echo(client: httpx.Client, case: str, stream: bool) -> None:
    request, status, param, words = WRONG[case]
    body = json.dumps({"messages": USER, "user": SECRET, "stream": stream, **request})
    headers = {"content-type": "application/json"}
    error = assert_error(client.post("/v1/chat/completions", content=body, headers=headers), status)
    assert words in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize("body", ["", f'{{"messages": {SECRET}', f'"{SECRET}"', f'["{SECRET}"]', "[" * 50_000, "\xff"])
def test_bodies_that_are_no_object(client: httpx.Client, body: str) -> None:
    headers = {"content-type": "application/json"}
    assert_error(client.post("/v1/chat/completions", content=body.encode("latin-1"), headers=headers), 400)


def test_the_edge_of_the_context(client: httpx.Client, policy: Policy) -> None:
    chats = ([{"role": "system", "content": "a b " * count}, *USER] for count in range(10, 2000))
    long = next(chat for chat in chats if len(policy.prompt_tokens(chat)) > CONTEXT - LONGEST)
    room = CONTEXT - len(policy.prompt_tokens(long))
    assert 0 < room < LONGEST
    refused = client.post("/v1/chat/completions", json={"messages": long, "max_tokens": room + 1})
    assert assert_error(refused, 400)["code"] == "context_length_exceeded"
    assert post(client, messages=long, max_tokens=room)["usage"]["completion_tokens"] <= room


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(client: httpx.Client, chunked: bool) -> None:
    body = b'{"messages": [], "user": "' + b"x" * (2 * MAX_BODY) + b'"}'
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
    content: Any = pieces if chunked else body
    headers = {"content-type": "application/json"}
    assert_error(client.post("/v1/chat/completions", content=content, headers=headers), 413)
    fits = b'{"messages": [], "user": "' + b"x" * (MAX_BODY - 28) + b'"}'
    assert len(fits) == MAX_BODY
    assert_error(client.post("/v1/chat/completions", content=fits, headers=headers), 400)


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    assert_error(client.get(f"/v1/{SECRET}"), 404)
    assert_error(client.get("/v1/chat/completions"), 405)


def test_a_failure_is_a_500_and_the_server_lives(tmp_path: Path) -> None:
    failing = Saying(hold=0, failure=ValueError("weights on fire"))
    failing.go_on.set()
    with asking(stage(tmp_path, Fixed(champion=failing))) as client:
        response = client.post("/v1/chat/completions", json={"messages": USER})
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        assert "fire" not in response.text
        assert client.get("/health").status_code == 200


def test_health_answers_while_many_wait(tmp_path: Path) -> None:
    saying = Saying(hold=1)
    with asking(stage(tmp_path, Fixed(champion=saying))) as client, ThreadPoolExecutor(45) as pool:
        answers = [pool.submit(post, client) for _ in range(45)]
        try:
            wait_until(lambda: len(saying.chats) == 16)
            assert client.get("/health", timeout=5).json()["status"] == "ok"
            assert not any(answer.done() for answer in answers)
        finally:
            saying.go_on.set()
        assert {text(answer.result()) for answer in answers} == {STRICT}


def test_requests_at_once_say_what_they_say_alone(client: httpx.Client) -> None:
    chats = [[{"role": "user", "content": f"{QUESTION} {number}"}] for number in range(8)]
    alone = [text(post(client, messages=chat)) for chat in chats]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda chat: text(post(client, messages=chat)), chats)) == alone


def test_prompts_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    post(client, messages=[{"role": "user", "content": SECRET}])
    wait_until(lambda: "tokens" in caplog.text)
    assert SECRET not in caplog.text


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port} .*in use.*--port"):
            listen("127.0.0.1", port)


def test_short_answers_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ask_says_what_is_wrong(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServeError, match="ConnectError"):
        ask(f"http://127.0.0.1:{port}", QUESTION)
    with pytest.raises(ServeError, match=r"refused \(400\).*context"):
        ask(str(client.base_url), "long " * 3000)


def test_ask_knows_a_stranger() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as stranger:
        Thread(target=stranger.handle_request).start()
        with pytest.raises(ServeError, match="no medgrpo server: status 501"):
            ask(f"http://127.0.0.1:{stranger.server_port}", QUESTION)
