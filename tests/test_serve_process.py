"""The served process: ready, asked, drained and ended as a child, however its parent or itself ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from serve_driver import USER, wait_until

from medgrpo.errors import ServeError
from medgrpo.serve.api_keys import API_KEY
from medgrpo.serve.client import ask
from medgrpo.serve.process import serving

QUESTION = USER[0]["content"]
CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from serve_driver import Fixed, Saying, stage
    from medgrpo.serve.server import run

    saying = Saying(hold=2)

    async def start():
        return stage(Path(sys.argv[1]), Fixed(champion=saying))

    def held():
        saying.holding.wait()
        Path(sys.argv[1], "holding").touch()
        while not Path(sys.argv[1], "go on").exists():
            time.sleep(0.01)
        saying.go_on.set()

    import threading, time
    threading.Thread(target=held, daemon=True).start()
    print("not the ready line", flush=True)
    run(start, "127.0.0.1", 0)
""")


@pytest.fixture
def child_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
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
def test_a_served_child_finishes_what_it_began(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        with serving([sys.executable, "-c", CHILD, str(tmp_path)], timeout_s=120) as url:
            assert httpx.get(f"{url}/health", trust_env=False).json()["version"] == "medgrpo-tiny/3"
            asked = pool.submit(ask, url, QUESTION)
            wait_until((tmp_path / "holding").exists)
            pool.submit(_let_go_on_once_it_drains, url, tmp_path)
        assert asked.result().answer == "B", "a request in progress is finished before the end"
        with pytest.raises(ServeError):
            ask(url, QUESTION)


def _let_go_on_once_it_drains(url: str, folder: Path) -> None:
    with httpx.Client(trust_env=False) as client:
        wait_until(lambda: client.get(f"{url}/ready").status_code == 503)
    (folder / "go on").touch()


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
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent_script = textwrap.dedent(f"""
        import sys, time
        from medgrpo.serve.process import serving
        with serving([sys.executable, "-c", {CHILD!r}, sys.argv[1]], timeout_s=120) as url:
            print(url, flush=True)
            time.sleep(300)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", parent_script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        os.kill(parent.pid, signal.SIGKILL)
    assert len(children) == 1
    wait_until_gone(int(children[0]))


def test_the_client_imports_no_torch() -> None:
    script = "import sys, medgrpo.serve.process, medgrpo.serve.client; assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
