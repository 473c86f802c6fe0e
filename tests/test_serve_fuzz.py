"""Nothing that is sent to a served stage makes it fail, hang or grow: Schemathesis over its schema, mutated bodies."""

import gc
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from serve_driver import Fixed, Saying, asking, stage

MOST_GROWTH = 64 * 2**20
"""Bytes by which the process may grow over 10,000 bodies: caches that fill, not a leak of each request."""
PATIENCE_S = 20
EXAMPLES = 15
"""Requests that Schemathesis makes for each operation."""
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
VALID: dict[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What now? 39.4 °C"}],
    "model": "champion",
    "max_tokens": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 3,
    "stop": ["</answer>"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "n": 1,
}
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        0.5,
        -0.0,
        1e-300,
        1e308,
        2**63,
        2**64,
        -(2**63),
        10**400,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "\x00", "\ud800", "𝕏" * 50, "<answer>", "a" * 3000, "user", "system", "tool", "base", "medgrpo-tiny/3"),
    *([], {}, [[]], [{}], [None], ["x"] * 9, {"a": {"b": [1]}}, [{"type": "text", "text": "x"}], [{"type": "text"}]),
)


def mutated(draw: random.Random) -> bytes:
    """A body near a valid one, or far from it."""
    body = json.loads(json.dumps(VALID))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        _change(body, draw)
    raw = json.dumps(body).encode()
    return _damaged(raw, draw) if draw.random() < 0.2 else raw


def _change(body: dict[str, Any], draw: random.Random) -> None:
    inside = draw.choice((body, body, draw.choice(body["messages"]) if _has_messages(body) else body))
    key = draw.choice([*inside, "unknown"])
    changes: tuple[Callable[[], Any], ...] = (
        lambda: inside.pop(key, None),
        lambda: inside.__setitem__(key, draw.choice(ODD)),
        lambda: inside.__setitem__(key, [inside.get(key)] * draw.choice((1, 2, 70))),
    )
    draw.choice(changes)()


def _has_messages(body: dict[str, Any]) -> bool:
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(turn, dict) for turn in messages)


def _damaged(raw: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(raw))
    kinds = (
        raw[:start],
        raw[:start] + bytes(draw.randrange(256) for _ in range(4)) + raw[start + 4 :],
        raw[start:] + raw,
        b"[" * draw.choice((1, 900, 100_000)),
        b"",
    )
    return draw.choice(kinds)


def send(client: httpx.Client, bodies: int, seed: int) -> dict[int, int]:
    """Send mutated bodies; how often each status came. A hang is a timeout, which fails."""
    draw = random.Random(seed)
    counts: dict[int, int] = {}
    for _ in range(bodies):
        path = draw.choice(("/v1/chat/completions",) * 9 + ("/v1/feedback",))
        kind = draw.choice(("application/json",) * 9 + ("text/plain", "", "application/x-www-form-urlencoded"))
        got = client.post(path, content=mutated(draw), headers={"content-type": kind})
        counts[got.status_code] = counts.get(got.status_code, 0) + 1
        if got.is_error:
            assert set(got.json()["error"]) == {"message", "type", "param", "code"}
    return counts


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    saying = Saying()
    with asking(stage(tmp_path_factory.mktemp("home"), Fixed(champion=saying))) as client:
        yield client


def check_bodies(client: httpx.Client, bodies: int, seed: int) -> None:
    counts = send(client, bodies, seed)
    assert max(counts) < 500, counts
    assert counts[200] > bodies / 20 and counts[400] > bodies / 5, "it must be near enough to get through"
    assert client.get("/ready").status_code == 200
    running = [line for line in client.get("/metrics").text.splitlines() if line.startswith("medgrpo_requests_running")]
    assert running == ["medgrpo_requests_running 0.0"]


def test_mutated_bodies_do_no_harm(client: httpx.Client) -> None:
    check_bodies(client, 300, seed=1)


@pytest.mark.slow
def test_ten_thousand_mutated_bodies_do_no_harm(client: httpx.Client) -> None:
    check_bodies(client, 1000, seed=2)  # caches fill
    gc.collect()
    before = psutil.Process().memory_info().rss
    check_bodies(client, 10_000, seed=3)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert grown < MOST_GROWTH, f"grew by {grown / 2**20:.0f} MiB"


def test_the_schema_holds(client: httpx.Client) -> None:
    """Each operation, with requests made from the schema: no 5xx, and what is answered is what the schema says."""
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 8
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def holds(case: schemathesis.Case) -> None:
            got = case.call(timeout=PATIENCE_S)
            case.validate_response(got, checks=CHECKS)

        holds()
