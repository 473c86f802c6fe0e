"""Swaps under load, over real HTTP with a real registry: no request fails, and each answer is wholly of one version."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import follow_driver as driver
import httpx
import promotion_driver
import pytest
from serve_driver import listening

from medgrpo import registry
from medgrpo.config import Config
from medgrpo.promotion import moves
from medgrpo.serve.engines import starting
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

pytestmark = pytest.mark.slow

CLIENTS, REQUESTS, TOKENS, TIMEOUT_S = 8, 1000, 12, 30
QUESTIONS = [f"Potassium is {value / 10} mmol/L. Low, normal or high?" for value in range(30, 38)]
MOVES: Sequence[int | None] = (2, 3, None, 4, 1, 2, 3, None, 4, 3, 1, 2)
"""The versions that are promoted in turn; None: a rollback."""

Answer = tuple[str, str, str, float]
"""Question, the version that it names, text, seconds."""


def ask(client: httpx.Client, question: str, stream: bool) -> Answer:
    begun = time.monotonic()
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "stream": stream}
    if not stream:
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        told = response.json()
        return question, told["model"], told["choices"][0]["message"]["content"], time.monotonic() - begun
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    (version,) = {chunk["model"] for chunk in chunks}
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return question, version, text, time.monotonic() - begun


def test_a_thousand_requests_and_twelve_moves(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    own = driver.named(config, "swap")
    versions = [driver.register(own, base, dataset, seed, settings) for seed in (11, 12, 13, 14)]
    registry.set_aliases(own.model_name, registry.Aliases(champion=1), settings)
    numbers, done, answers, over = count(), count(), list[Answer](), Event()

    def client_of(url: str) -> None:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            while (number := next(numbers)) < REQUESTS or not over.is_set():
                answers.append(ask(client, QUESTIONS[number % len(QUESTIONS)], number % 2 == 0))
                next(done)

    def move(url: str) -> None:
        for place, version in enumerate(MOVES):
            champion = registry.read_aliases(own.model_name, settings).champion
            if version is None:
                moved = moves.rollback(own.model_name, promotion_driver.MOVER, settings)
            else:
                moved = versions[version - 1]
                assert promotion_driver.promote(moved, champion, settings, promotion_driver.answers)
            deadline = time.monotonic() + TIMEOUT_S
            while (health := httpx.get(f"{url}/health", trust_env=False).json())["version"] != _name(moved):
                assert time.monotonic() < deadline, health
                time.sleep(0.05)
            while len(answers) < (place + 1) * REQUESTS // (len(MOVES) + 1):
                time.sleep(0.01)

    with listening(starting(own, settings, "embedded", poll_s=0.1)) as (url, _), ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client_of, url) for _ in range(CLIENTS)]
        try:
            move(url)
        finally:
            over.set()
        for client in clients:
            client.result()

    chats = [driver_chat(own, question) for question in QUESTIONS]
    expected = {
        _name(version): dict(
            zip(QUESTIONS, driver.greedy(base, settings.adapter(version.adapter_digest), chats, TOKENS), strict=True)
        )
        for version in versions
    }
    assert len({tuple(said.values()) for said in expected.values()}) == len(versions), (
        "they must differ to be told apart"
    )
    assert len(answers) >= REQUESTS
    assert [answer for answer in answers if expected[answer[1]][answer[0]] != answer[2]] == []
    assert {answer[1] for answer in answers} == set(expected)
    assert max(answer[3] for answer in answers) < TIMEOUT_S


def _name(version: object) -> str:
    return f"{version.name}/{version.version}"  # type: ignore[attr-defined]


def driver_chat(config: Config, question: str) -> list[dict[str, str]]:
    from medgrpo.answer import messages

    return messages(config.prompt.system, config.prompt.shown, question)
