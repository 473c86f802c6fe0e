"""The served stage over real HTTP: a tiny random policy with a random adapter, a real server, real child processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import uvicorn

from medgrpo.answer import render_question
from medgrpo.base_models import TinyBase, resolve
from medgrpo.config import Config, Demonstration, EvaluationConfig, PolicyConfig, PromptConfig
from medgrpo.errors import ServeError, UserError
from medgrpo.policy import Policy, attach, load_base
from medgrpo.serve.app import MAX_BODY, build_app
from medgrpo.serve.engine import Completion, Engine, Served
from medgrpo.serve.process import API_KEY, ask, check_host, run, serving
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Example

LONGEST = 24
QUESTION = "A patient has a fever of 39.4 C. What now?"
USER = [{"role": "user", "content": QUESTION}]
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
    system_prompt=CONFIG.prompt.system,
    demonstrations=CONFIG.prompt.shown,
    base="tiny",
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseRef:
    return resolve(TinyBase(lessons=0), Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def policy(base: BaseRef, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The tiny base with an adapter that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    settings = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(load_base(base.folder).model, settings).save_pretrained(str(folder))
    return attach(load_base(base.folder), folder)


@pytest.fixture(scope="session")
def engine(policy: Policy) -> Engine:
    return Engine(policy, SERVED)


@contextmanager
def http(engine: Engine, api_key: str = "") -> Iterator[httpx.Client]:
    """A client of a real server in a thread."""
    config = uvicorn.Config(build_app(engine, LONGEST, api_key), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[httpx.Client]:
    with http(engine) as client:
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


def test_the_adapter_answers_not_the_base(client: httpx.Client, base: BaseRef) -> None:
    alone = Engine(load_base(base.folder), SERVED)
    said = alone.complete(SERVED.chat(USER), LONGEST, 0, 1, None, ())
    assert text(post(client)) != said.text


def test_version_is_named_in_body_and_header(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json={"messages": USER})
    body = response.json()
    assert response.headers["x-medgrpo-version"] == body["model"] == body["medgrpo"]["version"] == "medgrpo-tiny/3"
    assert (body["medgrpo"]["run_id"], body["medgrpo"]["dataset_digest"]) == ("run-1", "digest-1")
    assert body["object"] == "chat.completion" and body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


class Saying(Engine):
    """An engine that says a fixed text, and keeps the chat that it was given."""

    def __init__(self, policy: Policy, said: str) -> None:
        super().__init__(policy, SERVED)
        self.said = said
        self.chat: list[dict[str, str]] = []

    def complete(self, chat: list[dict[str, str]], *args: Any, **kwargs: Any) -> Completion:
        self.chat = chat
        return Completion(self.said, 1, 1, "stop")


def test_the_answer_is_parsed(policy: Policy) -> None:
    with http(Saying(policy, "<reasoning>so it is</reasoning>\n<answer>B</answer>")) as client:
        got = post(client)["medgrpo"]
        assert (got["reasoning"], got["answer"], got["strict"]) == ("so it is", "B", True)
        assert ask(str(client.base_url), QUESTION).answer == "B"
    with http(Saying(policy, "B")) as client:
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


def test_developer_turns_and_text_parts_are_understood(policy: Policy) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    with http(engine := Saying(policy, "x")) as client:
        post(client, messages=[{"role": "developer", "content": "D"}, {"role": "user", "content": parts}])
    assert engine.chat == [{"role": "system", "content": "D"}, {"role": "user", "content": "one two"}]


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


def test_an_end_token_ends(policy: Policy) -> None:
    engine = Engine(policy, SERVED)
    first = engine._generate(policy.prompt_tokens(USER), 1, {"do_sample": False}, None, ())[0]
    config, before = policy.model.generation_config, policy.model.generation_config.eos_token_id
    config.eos_token_id = [before, first]
    try:
        assert engine.complete(USER, 8, 0, 1, None, ()).finish_reason == "stop"
        assert engine.complete(USER, 8, 0, 1, None, ()).completion_tokens == 1
    finally:
        config.eos_token_id = before


@pytest.mark.parametrize("model", ["medgrpo-tiny/3", "medgrpo-tiny", None])
def test_model_names_that_are_served(client: httpx.Client, model: str | None) -> None:
    assert post(client, model=model, max_tokens=1)["model"] == "medgrpo-tiny/3"


def test_nulls_and_unknown_keys_do_not_matter(client: httpx.Client) -> None:
    nulls: dict[str, Any] = dict.fromkeys(["temperature", "top_p", "seed", "stop", "stream", "n", "max_tokens"])
    assert text(post(client, **nulls, user="u1", metadata={"a": 1})) == text(post(client))


def test_models_and_health(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["medgrpo-tiny/3"]
    assert client.get("/health").json() == {"status": "ok", "version": "medgrpo-tiny/3", "base": "tiny"}


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
    "unknown model": ({"model": SECRET}, 404, "model", "not served"),
    "stream": ({"stream": True}, 400, "stream", "not supported"),
    "two completions": ({"n": 2}, 400, "n", "one completion"),
    "too many tokens": ({"max_tokens": LONGEST + 1}, 400, "max_tokens", f"at most {LONGEST} tokens"),
    "no tokens": ({"max_completion_tokens": 0}, 400, "max_completion_tokens", "greater than"),
    "prompt too long": ({"messages": [{"role": "user", "content": SECRET * 500}]}, 400, "messages", "1024"),
}


def assert_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert SECRET not in response.text and "ebulon" not in response.text
    return error


@pytest.mark.parametrize("case", WRONG)
def test_errors_have_openai_shape_and_never_echo(client: httpx.Client, case: str) -> None:
    request, status, param, words = WRONG[case]
    body = json.dumps({"messages": USER, "user": SECRET, **request})
    headers = {"content-type": "application/json"}
    error = assert_error(client.post("/v1/chat/completions", content=body, headers=headers), status)
    assert words in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize("body", ["", f'{{"messages": {SECRET}', f'"{SECRET}"', f'["{SECRET}"]', "[" * 50_000, "\xff"])
def test_bodies_that_are_no_object(client: httpx.Client, body: str) -> None:
    headers = {"content-type": "application/json"}
    assert_error(client.post("/v1/chat/completions", content=body.encode("latin-1"), headers=headers), 400)


def test_the_edge_of_the_context(engine: Engine) -> None:
    room = engine.context_tokens - len(engine.policy.prompt_tokens(USER))
    with pytest.raises(UserError, match="context"):
        engine.complete(USER, room + 1, 0, 1, None, ())
    chats = ([{"role": "user", "content": "a b " * count}] for count in range(10, 2000, 10))
    long = next(chat for chat in chats if len(engine.policy.prompt_tokens(chat)) > engine.context_tokens - 100)
    room = engine.context_tokens - len(engine.policy.prompt_tokens(long))
    assert 0 < room < 100
    assert engine.complete(long, room, 0, 1, None, ()).completion_tokens <= room


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


def test_a_failure_is_a_500_and_the_server_lives(policy: Policy) -> None:
    class Failing(Engine):
        def complete(self, *args: Any, **kwargs: Any) -> Completion:
            raise ValueError("weights on fire")

    with http(Failing(policy, SERVED)) as client:
        response = client.post("/v1/chat/completions", json={"messages": USER})
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        assert "fire" not in response.text
        assert client.get("/health").status_code == 200


def test_key(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with http(engine, api_key="k-1") as client:
        for headers in ({}, {"authorization": "Bearer k-2"}, {"authorization": "Basic k-1"}, {"authorization": "k-1"}):
            assert assert_error(client.get("/v1/models", headers=headers), 401)["code"] == "invalid_api_key"
        refused = client.post("/v1/chat/completions", json={"messages": USER})
        assert assert_error(refused, 401) and refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers={"authorization": "bearer k-1"}).status_code == 200
        assert client.get("/health").status_code == 200
        url = str(client.base_url)
        with pytest.raises(ServeError, match="401"):
            ask(url, QUESTION)
        monkeypatch.setenv(API_KEY, "k-1")
        assert ask(url, QUESTION).version == "medgrpo-tiny/3"


def test_health_answers_while_generating(policy: Policy) -> None:
    begun, go_on = Event(), Event()

    class Slow(Engine):
        def complete(self, *args: Any, **kwargs: Any) -> Completion:
            begun.set()
            assert go_on.wait(30)
            return super().complete(*args, **kwargs)

    with http(Slow(policy, SERVED)) as client, ThreadPoolExecutor() as pool:
        answers = [pool.submit(post, client, max_tokens=3) for _ in range(45)]
        try:
            assert begun.wait(30)
            assert client.get("/health", timeout=5).json()["status"] == "ok"
            assert not any(answer.done() for answer in answers)
        finally:
            go_on.set()
        assert len({text(answer.result()) for answer in answers}) == 1


def test_prompts_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    post(client, messages=[{"role": "user", "content": SECRET}])
    assert "tokens" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "example.org"])
def test_other_hosts_need_a_key(host: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, " ")
    with pytest.raises(UserError, match=API_KEY):
        run(engine, host, 0)
    monkeypatch.setenv(API_KEY, "k-1")
    check_host(host)


def test_loopback_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY, raising=False)
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        check_host(host)


def test_a_port_in_use_is_named(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port} .*in use.*--port"):
            run(engine, "127.0.0.1", port)


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


CHILD = textwrap.dedent("""
    import sys
    from medgrpo.policy import load_base
    from medgrpo.serve.engine import Engine, Served
    from medgrpo.serve.process import run
    served = Served("medgrpo-tiny/3", "run-1", "digest-1", "", (), "tiny")
    print("not the ready line", flush=True)
    run(Engine(load_base(sys.argv[1]), served), "127.0.0.1", 0, 300)
""")


@pytest.fixture
def child_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.delenv(API_KEY, raising=False)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


@pytest.mark.usefixtures("child_env")
def test_a_served_child_answers_drains_and_ends(base: BaseRef) -> None:
    with ThreadPoolExecutor() as pool:
        with serving([sys.executable, "-c", CHILD, base.folder], timeout_s=120) as url:
            version = httpx.get(f"{url}/health", trust_env=False).json()["version"]
            assert ask(url, QUESTION).version == version == "medgrpo-tiny/3"
            long = {"messages": USER, "max_tokens": 300}
            asked = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=long, timeout=60, trust_env=False)
            time.sleep(0.3)
            assert not asked.done(), "it must still be generating when SIGTERM comes"
        assert asked.result().status_code == 200, "a request in progress is finished before the end"
        with pytest.raises(ServeError):
            ask(url, QUESTION)


READY = "print('serving v/1 at http://127.0.0.1:9', flush=True)"


@pytest.mark.usefixtures("child_env")
def test_the_whole_group_ends_even_when_it_ignores_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgrpo.serve.process.GRACE_S", 0.3)
    pids = tmp_path / "pids"
    script = textwrap.dedent(f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork()
        if child:
            open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child}}")
            {READY}
        time.sleep(300)
    """)
    with pytest.raises(KeyError), serving([sys.executable, "-c", script], timeout_s=30) as url:
        assert url == "http://127.0.0.1:9"
        leader, follower = map(int, pids.read_text().split())
        assert is_alive(leader) and is_alive(follower)
        raise KeyError
    assert not Path(f"/proc/{leader}").exists()
    wait_until_gone(follower)


DEATHS = {
    "exit code": ("import sys; print('no champion', file=sys.stderr); sys.exit(3)", "exit code 3.*\n  no champion"),
    "signal": ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    "output closed": ("import os, time; os.close(1); time.sleep(300)", "closed its output"),
    "too late": (
        "import os, time; os.write(2, b'busy'); time.sleep(300)",
        "after 2 s.*\n  busy",
    ),
}


@pytest.mark.parametrize("case", DEATHS)
def test_a_child_that_does_not_get_ready_is_told_of(case: str) -> None:
    script, message = DEATHS[case]
    timeout_s = 2.0 if case == "too late" else 60.0
    with pytest.raises(ServeError, match=message), serving([sys.executable, "-c", script], timeout_s=timeout_s):
        pytest.fail("it was never ready")


def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(ServeError, match="can't start /no/such"), serving(["/no/such"], timeout_s=5):
        pass


def test_child_sees_env_on_top_of_ours() -> None:
    script = f"import os; assert os.environ['EXTRA'] == '1' and os.environ['PATH']; {READY}; input()"
    with serving([sys.executable, "-c", script], {"EXTRA": "1"}, timeout_s=30) as url:
        assert url.endswith(":9")


@pytest.mark.usefixtures("child_env")
def test_a_child_ends_when_its_parent_is_killed(base: BaseRef) -> None:
    parent_script = textwrap.dedent(f"""
        import sys, time
        from medgrpo.serve.process import serving
        with serving([sys.executable, "-c", {CHILD!r}, sys.argv[1]], timeout_s=120) as url:
            print(url, flush=True)
            time.sleep(300)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", parent_script, base.folder], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        os.kill(parent.pid, signal.SIGKILL)
    assert len(children) == 1
    wait_until_gone(int(children[0]))


def test_the_client_imports_no_torch() -> None:
    script = "import sys, medgrpo.serve.process; assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])
