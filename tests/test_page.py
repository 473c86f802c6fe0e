"""The page at `/` in headless Chromium, before a real server. As a script it writes the picture in the docs."""

import base64
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from serve_driver import STRICT, Fixed, Saying, listening, served, stage, wait_until

from medgrpo.serve.feedback import compare

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SCRIPT = "<reasoning>one <script>document.title = 'taken'</script> two</reasoning>\n<answer><b>C</b></answer>"

if not CHROMIUM and __name__ != "__main__":
    pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)


class Visit:
    """A page in a browser, and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def ask(self, question: str = "Which one?") -> None:
        self.page.fill("#question", question)
        self.page.click("#ask")

    def text(self, role: str, part: str) -> str:
        return self.page.inner_text(f"[data-role={role}] .{part}")

    def wait_text(self, role: str, part: str, text: str) -> None:
        from playwright.sync_api import expect

        expect(self.page.locator(f"[data-role={role}] .{part}")).to_have_text(text, timeout=20_000)

    def wait_done(self, *roles: str) -> None:
        for role in roles:
            self.page.wait_for_selector(f"[data-role={role}][data-state=done]", timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@contextmanager
def started() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Any, url: str, **options: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1100, "height": 760}, **options)
    try:
        visit = Visit(context.new_page())
        visit.page.goto(url)
        yield visit
    finally:
        context.close()


def both(**saying: Any) -> Fixed:
    return Fixed(champion=Saying(**saying), base=Saying(served("base"), said="I think it is B."))


def test_shows_what_each_version_says_reasoning_and_answer_apart(browser: Any, tmp_path: Path) -> None:
    with listening(stage(tmp_path, both())) as (url, _), visiting(browser, url) as visit:
        visit.ask()
        visit.wait_done("champion", "base")
        assert visit.text("champion", "reasoning") == "it is so indeed"
        assert visit.text("champion", "answer") == "B"
        assert visit.text("champion", "name") == "medgrpo-tiny/3"
        assert "in the asked form" in visit.text("champion", "figures")
        assert visit.text("base", "loose") == "I think it is B."
        assert "counts as no answer" in visit.text("base", "figures")
        assert visit.page.is_hidden("[data-role=base] .answer")
        assert "Not medical advice" in visit.page.inner_text(".disclaimer")
        assert not visit.errors
        assert {urlsplit(asked).netloc for asked in visit.requests if not asked.startswith("data:")} == {
            urlsplit(url).netloc
        }


def test_shows_a_completion_while_it_comes_and_stops_it(browser: Any, tmp_path: Path) -> None:
    champion = Saying(said=STRICT, hold=2)
    with listening(stage(tmp_path, Fixed(champion=champion))) as (url, _), visiting(browser, url) as visit:
        visit.ask()
        visit.wait_text("champion", "reasoning", "it is")
        visit.page.click("#stop")
        wait_until(champion.cancelled.is_set)
        visit.page.wait_for_selector("[data-state=failed]")
        assert visit.text("champion", "state") == "Stopped."
        assert visit.page.is_enabled("#ask")


def test_an_answer_is_text_and_never_code(browser: Any, tmp_path: Path) -> None:
    with listening(stage(tmp_path, Fixed(champion=Saying(said=SCRIPT)))) as (url, _), visiting(browser, url) as visit:
        visit.ask()
        visit.wait_done("champion")
        assert visit.page.title() == "medgrpo"
        assert "<script>" in visit.text("champion", "reasoning")
        assert visit.text("champion", "answer") == "<b>C</b>"


def test_a_thumb_is_stored_for_the_version_that_answered(browser: Any, tmp_path: Path) -> None:
    made = stage(tmp_path, both())
    with listening(made) as (url, _), visiting(browser, url) as visit:
        visit.ask()
        visit.wait_done("champion", "base")
        visit.page.click("[data-role=base] [data-thumb=down]")
        visit.wait_text("base", "thanks", "Noted: thumb down.")
    assert [(entry.version, entry.up, entry.down) for entry in compare(made.settings)] == [("base", 0, 1)]


def test_tells_where_a_version_comes_from(browser: Any, tmp_path: Path) -> None:
    with listening(stage(tmp_path, both())) as (url, _), visiting(browser, url) as visit:
        visit.page.click("[data-role=base] summary")
        visit.page.wait_for_selector("[data-role=base] dd")
        assert "tiny" in visit.text("base", "lineage")


def test_says_why_there_is_no_answer(browser: Any, tmp_path: Path) -> None:
    failing = Saying(hold=0, failure=RuntimeError("secret"))
    failing.go_on.set()
    with listening(stage(tmp_path, Fixed(champion=failing))) as (url, _), visiting(browser, url) as visit:
        visit.ask()
        visit.page.wait_for_selector("[data-state=failed]")
        assert visit.text("champion", "state").startswith("No answer: the server failed")


def test_with_a_key_for_the_password_the_page_answers(browser: Any, tmp_path: Path) -> None:
    made = stage(tmp_path, both(), key="right-key")
    given = {"username": "any", "password": "right-key"}
    with listening(made) as (url, _), visiting(browser, url, http_credentials=given) as visit:
        visit.ask()
        visit.wait_done("champion", "base")
        assert visit.text("champion", "answer") == "B"


def test_the_key_of_the_browser_is_taken_as_basic_auth(tmp_path: Path) -> None:
    import httpx

    given = {"authorization": "Basic " + base64.b64encode(b"any:right-key").decode(), "accept": "text/html"}
    with listening(stage(tmp_path, both(), key="right-key")) as (url, _):
        page = httpx.get(url, headers=given, trust_env=False)
        refused = httpx.get(url, headers={"accept": "text/html"}, trust_env=False)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (refused.status_code, "Basic" in refused.headers["www-authenticate"]) == (401, True)


def take_picture(url: str, target: Path, question: str) -> None:
    """The page after one question, as a PNG. Prints what was asked for."""
    with started() as browser, visiting(browser, url) as visit:
        visit.page.fill("#question", question)
        visit.page.click("#ask")
        roles = visit.page.eval_on_selector_all(".version", "nodes => nodes.map(node => node.dataset.role)")
        visit.wait_done(*roles)
        visit.page.click("[data-role=champion] summary")
        visit.page.wait_for_selector("[data-role=champion] dd")
        visit.page.screenshot(path=target, full_page=True)
        hosts = {urlsplit(asked).netloc for asked in visit.requests if not asked.startswith("data:")}
        print(f"{target}: {len(visit.requests)} requests, all to {', '.join(hosts)}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        take_picture(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    else:
        with tempfile.TemporaryDirectory() as home, listening(stage(Path(home), both())) as (here, _):
            take_picture(here, Path(sys.argv[1]), "Which one?")
