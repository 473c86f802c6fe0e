"""Keys: hashed, several, added and taken away while the server runs; and what is refused without them."""

import base64
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from serve_driver import USER, Fixed, Saying, asking, listening, stage

from medgrpo.errors import ServeError, UserError
from medgrpo.serve.api_keys import API_KEY, ApiKeys, add, hash_of, names, revoke
from medgrpo.serve.client import ask
from medgrpo.serve.server import check_host
from medgrpo.settings import Settings

NEED_A_KEY = ("/v1/models", "/v1/versions", "/v1/versions/current", "/metrics", "/openapi.json", "/", "/nothing")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv(API_KEY, raising=False)
    return Settings(home=tmp_path)


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with asking(stage(settings.home, Fixed(champion=Saying()))) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def status(client: httpx.Client, key: str = "") -> int:
    return client.get("/v1/models", headers=bearer(key) if key else {}).status_code


def test_without_a_wrong_or_a_revoked_key_all_is_refused(client: httpx.Client, settings: Settings) -> None:
    assert status(client) == 200, "no key is set: loopback alone protects it"
    first, second = add("first", settings), add("second", settings)
    asked = {"messages": USER}
    for headers in ({}, bearer("wrong"), bearer(hash_of(first.encode())), bearer(first[:-1]), {"authorization": first}):
        for path in NEED_A_KEY:
            got = client.get(path, headers=headers)
            assert got.status_code == 401 and got.json()["error"]["code"] == "invalid_api_key", path
        refused = client.post("/v1/chat/completions", json=asked, headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/feedback", json={"id": "x", "thumb": "up"}, headers=headers).status_code == 401
        assert [client.get(path, headers=headers).status_code for path in ("/health", "/ready")] == [200, 200]
    assert client.post("/v1/chat/completions", json=asked, headers=bearer(first)).status_code == 200
    assert (status(client, first), status(client, second)) == (200, 200)
    revoke("first", settings)
    assert (status(client, first), status(client, second)) == (401, 200)
    third = add("third", settings)
    assert (status(client, third), names(settings)) == (200, ["second", "third"])


def test_a_file_that_vanishes_or_empties_opens_nothing(client: httpx.Client, settings: Settings) -> None:
    key = add("only", settings)
    assert (status(client), status(client, key)) == (401, 200)
    settings.key_file.unlink()
    assert (status(client), status(client, key)) == (401, 401)
    settings.key_file.write_text("")
    assert (status(client), status(client, key)) == (401, 401)


def test_a_browser_may_give_the_key_as_a_password(client: httpx.Client, settings: Settings) -> None:
    key = add("browser", settings)
    asked = client.get("/v1/models", headers={"accept": "text/html,*/*"})
    assert asked.status_code == 401 and asked.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/v1/models", auth=("anybody", key)).status_code == 200
    for wrong in ("Basic", "Basic !!!", f"Basic {key}", f"Basic {base64.b64encode(b'x:no').decode()}"):
        assert client.get("/v1/models", headers={"authorization": wrong}).status_code == 401


def test_the_file_holds_hashes_for_its_owner_alone(settings: Settings) -> None:
    key = add("clinic", settings)
    text = settings.key_file.read_text()
    assert key not in text and hash_of(key.encode()) in text
    assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600
    assert len({add(f"k{number}", settings) for number in range(5)}) == 5
    for name in ("clinic", "two words", "", "# no", "(MEDGRPO_API_KEY)"):
        with pytest.raises(UserError):
            add(name, settings)
    with pytest.raises(UserError, match=r"nobody.*keys list"):
        revoke("nobody", settings)
    assert ApiKeys.of(settings).name_of(key.encode()) == "clinic"


def test_a_damaged_line_is_named_and_the_others_count(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    key = add("good", settings)
    with settings.key_file.open("a") as file:
        file.write(f"plain {key}\nshort sha256:abc\n")
    keys = ApiKeys.of(settings)
    assert keys.names == ["good"] and keys.name_of(key.encode()) == "good"
    assert "line 3" in caplog.text and "line 4" in caplog.text and key not in caplog.text


def test_the_key_of_the_environment_works_beside_the_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with asking(stage(settings.home, Fixed(champion=Saying()), key="k-1")) as client:
        assert (status(client), status(client, "k-1"), status(client, "k-2")) == (401, 200, 401)
        key = add("more", settings)
        assert (status(client, "k-1"), status(client, key)) == (200, 200)
        with pytest.raises(ServeError, match="401"):
            ask(str(client.base_url), "?")
        monkeypatch.setenv(API_KEY, "k-1")
        assert ask(str(client.base_url), "?").version == "medgrpo-tiny/3"


def test_without_keys_only_local_names_are_answered(client: httpx.Client, settings: Settings) -> None:
    for host, expected in {"localhost:80": 200, "127.0.0.1": 200, "[::1]:8000": 200, "evil.example": 403}.items():
        assert client.get("/v1/models", headers={"host": host}).status_code == expected, host
    key = add("proxy", settings)
    assert client.get("/v1/models", headers={"host": "med.example", **bearer(key)}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "example.org"])
def test_other_hosts_need_a_key(host: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, " ")
    with pytest.raises(UserError, match=r"keys add.*MEDGRPO_API_KEY"):
        check_host(host, settings)
    monkeypatch.setenv(API_KEY, "k-1")
    check_host(host, settings)
    monkeypatch.delenv(API_KEY)
    add("other", settings)
    check_host(host, settings)
    revoke("other", settings)
    with pytest.raises(UserError, match="holds no key"):
        check_host(host, settings)


def test_loopback_needs_no_key(settings: Settings) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        check_host(host, settings)


def test_a_key_file_that_is_named_and_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such holds no key.*keys add"):
        check_host("127.0.0.1", Settings(home=tmp_path, api_keys=str(tmp_path / "no-such")))


def test_commands_make_list_and_revoke_keys(tmp_path: Path) -> None:
    environment = os.environ | {"MEDGRPO_API_KEYS": str(tmp_path / "sub" / "keys"), "PYTHONPATH": str(ROOT)}

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medgrpo.cli", "keys", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    key = keys("add", "lab").stdout.strip()
    kept = ApiKeys(tmp_path / "sub" / "keys")
    assert kept.name_of(key.encode()) == "lab"
    assert keys("list").stdout == "lab\n"
    assert keys("revoke", "lab").returncode == 0
    assert kept.name_of(key.encode()) is None and kept.required
    twice = keys("revoke", "lab")
    assert twice.returncode == 2 and "there is no key 'lab'" in twice.stderr and "Traceback" not in twice.stderr


def test_a_body_that_never_ends_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgrpo.serve.guard.BODY_S", 0.2)
    with listening(stage(settings.home, Fixed(champion=Saying()))) as (url, _):
        port = httpx.URL(url).port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
