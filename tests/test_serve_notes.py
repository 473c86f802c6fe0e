"""What can be seen of a served stage: metrics, health, lineage, feedback, and figures for comparing versions."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_driver import LONGEST, STRICT, USER, Fixed, Saying, Speaking, asking, served, stage, wait_until

from medgrpo.config import ServeConfig
from medgrpo.serve.feedback import REMEMBERED, Notes, compare, describe
from medgrpo.settings import Settings

SECRET = "Zebulon-Q-Testperson"


def post(client: httpx.Client, **request: Any) -> dict[str, Any]:
    got = client.post("/v1/chat/completions", json={"messages": USER, **request})
    assert got.status_code == 200, got.text
    body: dict[str, Any] = got.json()
    return body


def figure(client: httpx.Client, name: str) -> float:
    """The value of a line of the metrics, by its name and labels."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    versions = Fixed(champion=Saying())
    with asking(stage(tmp_path, versions)) as client:
        before = figure(client, "medgrpo_swaps_total")
        post(client)
        post(client, stream=False, max_tokens=5)
        client.post("/v1/chat/completions", json={"messages": USER, "model": SECRET})
        client.get(f"/v1/{SECRET}")
        label = 'version="medgrpo-tiny/3"'
        wait_until(lambda: figure(client, f"medgrpo_completion_tokens_total{{{label}}}") == 8)
        chat = 'route="/v1/chat/completions"'
        assert figure(client, f'medgrpo_requests_total{{{chat},status="200",{label}}}') == 2
        assert figure(client, f'medgrpo_requests_total{{{chat},status="404",version=""}}') == 1
        assert figure(client, 'medgrpo_requests_total{route="other",status="404",version=""}') == 1
        assert figure(client, f"medgrpo_prompt_tokens_total{{{label}}}") == 14
        assert figure(client, f"medgrpo_first_token_seconds_count{{{label}}}") == 2
        assert figure(client, f"medgrpo_completion_seconds_count{{{label}}}") == 2
        assert figure(client, "medgrpo_requests_running") == 0
        versions.swaps, versions.problem = 3, "the adapter is corrupt"
        assert (before, figure(client, "medgrpo_swaps_total")) == (0, 3)
        assert figure(client, "medgrpo_follow_problem") == 1
        text = client.get("/metrics").text
        assert 'medgrpo_version_info{base="tiny",dataset_digest="digest-1",role="champion",run_id="run-1"' in text
        assert SECRET not in text, "a client can't add labels"


def test_health_and_readiness(tmp_path: Path) -> None:
    engine, versions = Speaking(), Fixed(champion=Saying())
    with asking(stage(tmp_path, versions, engine)) as client:
        well = {"status": "ok", "version": "medgrpo-tiny/3", "base": "tiny", "problem": ""}
        assert client.get("/health").json() == well
        assert client.get("/ready").json() == {"status": "ready"}
        versions.problem = "version 4 is corrupt"
        assert client.get("/health").json()["problem"] == "version 4 is corrupt"
        assert client.get("/ready").status_code == 200, "the old version goes on"
        engine.broken = "its worker died"
        unready = client.get("/ready")
        assert (unready.status_code, unready.json()["reason"]) == (503, "its worker died")
        engine.broken = ""
        versions.roles.clear()
        assert client.get("/ready").status_code == 503
        assert client.get("/health").json()["version"] == ""


def test_a_disclaimer_is_told(tmp_path: Path) -> None:
    with asking(stage(tmp_path, Fixed(base=Saying(served("base"))))) as client:
        assert "Not medical advice" in client.get("/openapi.json").json()["info"]["description"]
        assert "Not medical advice" in client.get("/v1/versions/current").json()["disclaimer"]


def test_a_version_that_the_registry_does_not_know_is_told_of(tmp_path: Path) -> None:
    roles = {"champion": Saying(), "base": Saying(served("base"))}
    with asking(stage(tmp_path, Fixed(**roles))) as client:
        current = client.get("/v1/versions/current").json()
        assert (current["role"], current["version"]) == ("champion", "medgrpo-tiny/3")
        assert "no version 3" in current["problem"] and current["run"] == {"run_id": "run-1"}
        assert client.get("/v1/versions/base").json()["problem"] == ""
        missing = client.get("/v1/versions/previous")
        assert missing.status_code == 404 and set(missing.json()) == {"error"}
        assert client.get("/v1/versions").json()["loaded"] == {"champion": "medgrpo-tiny/3", "base": "base"}


def test_feedback_is_stored_with_its_version_and_masked(tmp_path: Path) -> None:
    with asking(stage(tmp_path, Fixed(champion=Saying(), challenger=Saying(served("medgrpo-tiny/4"))))) as client:
        first, second = post(client)["id"], post(client, model="challenger")["id"]
        comment = "wrong dose, ask Dr. John Smith, phone (555) 123-4567"
        for rated, thumb in ((first, "up"), (second, "up"), (first, "down")):
            got = client.post("/v1/feedback", json={"id": rated, "thumb": thumb, "comment": comment})
            assert got.status_code == 200, got.text
        assert got.json() == {"id": first, "version": "medgrpo-tiny/3", "thumb": "down"}
        for wrong, status in (({"id": "chatcmpl-0", "thumb": "up"}, 404), ({"id": first, "thumb": SECRET}, 400)):
            refused = client.post("/v1/feedback", json=wrong)
            assert refused.status_code == status and set(refused.json()) == {"error"} and SECRET not in refused.text
        figures = {entry["version"]: entry for entry in client.get("/v1/versions").json()["figures"]}
        assert (figures["medgrpo-tiny/3"]["up"], figures["medgrpo-tiny/3"]["down"]) == (0, 1)
        assert (figures["medgrpo-tiny/4"]["up"], figures["medgrpo-tiny/4"]["down"]) == (1, 0)
        assert figure(client, 'medgrpo_feedback_total{thumb="up",version="medgrpo-tiny/3"}') == 1
    stored = (tmp_path / "serving" / "feedback.jsonl").read_text()
    assert "wrong dose" in stored and "Smith" not in stored and "123-4567" not in stored


def test_only_the_newest_completions_are_remembered(tmp_path: Path) -> None:
    notes = Notes(Settings(home=tmp_path))
    for number in range(REMEMBERED + 1):
        notes.remember(str(number), "v")
    assert (notes.version_of("0"), notes.version_of("1"), notes.version_of(str(REMEMBERED))) == (None, "v", "v")


def test_the_challenger_answers_beside_the_champion_for_the_record(tmp_path: Path) -> None:
    champion, challenger = Saying(), Saying(served("medgrpo-tiny/4"), said="no idea")
    versions = Fixed(champion=champion, challenger=challenger)
    place = Settings(home=tmp_path)
    with asking(stage(tmp_path, versions, shadow=True)) as client:
        given = [post(client) for _ in range(2)]
        assert {body["model"] for body in given} == {"medgrpo-tiny/3"}
        wait_until(lambda: sum(entry.shadows for entry in compare(place)) == 2)
        assert challenger.decodings == champion.decodings
        post(client, model="challenger")
        wait_until(lambda: sum(entry.requests for entry in compare(place)) == 3)
    third, fourth = compare(place)
    assert (third.version, third.requests, third.shadows, third.strict_share) == ("medgrpo-tiny/3", 2, 0, 1.0)
    assert (fourth.version, fourth.requests, fourth.shadows, fourth.strict_share) == ("medgrpo-tiny/4", 1, 2, 0.0)
    assert (third.mean_completion_tokens, fourth.mean_completion_tokens) == (4, 2)
    stored = (tmp_path / "serving" / "requests.jsonl").read_text()
    assert "fever" not in stored and "idea" not in stored, "figures, no text"
    rows = describe(compare(place)).splitlines()
    assert rows[1].split()[:4] == ["medgrpo-tiny/3", "2", "0", "1.00"]
    assert versions.held == 0


def test_a_challenger_that_fails_disturbs_nobody(tmp_path: Path) -> None:
    challenger = Saying(served("medgrpo-tiny/4"), hold=1, failure=ValueError(SECRET))
    challenger.go_on.set()
    versions = Fixed(champion=Saying(), challenger=challenger)
    with asking(stage(tmp_path, versions, shadow=True)) as client:
        assert post(client)["model"] == "medgrpo-tiny/3"
        assert challenger.holding.wait(20)
        wait_until(lambda: versions.held == 0)
        assert post(client)["model"] == "medgrpo-tiny/3"


def test_nothing_is_recorded_unless_there_is_something_to_compare(tmp_path: Path) -> None:
    versions = Fixed(champion=Saying(), challenger=Saying(served("medgrpo-tiny/4")))
    with asking(stage(tmp_path, versions)) as client:
        post(client)
        wait_until(lambda: versions.held == 0)
    assert not (tmp_path / "serving").exists()
    assert "MEDGRPO_SHADOW" in describe(compare(Settings(home=tmp_path)))


@pytest.mark.parametrize("asked_for", [False, True])
def test_questions_are_logged_only_when_asked_for_and_masked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked_for: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    saying = Saying(said="Call Mr. Peter Jones at (555) 123-4567 about the rash")
    with asking(stage(tmp_path, Fixed(champion=saying), log_completions=asked_for)) as client:
        post(client, messages=[{"role": "user", "content": "Dr. John Smith sees a petechial rash"}])
        wait_until(lambda: "tokens" in caplog.text)
    assert ("petechial" in caplog.text) == asked_for
    assert all(secret not in caplog.text for secret in ("Smith", "Jones", "123-4567"))


def test_messages_are_counted(tmp_path: Path) -> None:
    limits = ServeConfig(max_completion_tokens=LONGEST, max_messages=3)
    with asking(stage(tmp_path, Fixed(champion=Saying()), limits=limits)) as client:
        turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
        assert post(client, messages=turns)["choices"][0]["message"]["content"] == STRICT
        refused = client.post("/v1/chat/completions", json={"messages": [*turns, *turns]})
        assert refused.status_code == 400 and "at most 3 messages" in refused.json()["error"]["message"]


def test_notes_that_were_cut_short_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    folder.mkdir()
    whole = {"id": "1", "version": "v", "thumb": "up", "comment": "", "at": ""}
    (folder / "feedback.jsonl").write_text(json.dumps(whole) + '\n{"id": "2", "ver')
    assert [(entry.version, entry.up) for entry in compare(Settings(home=tmp_path))] == [("v", 1)]
