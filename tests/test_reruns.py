"""Running a finished config again leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_five_reruns_add_no_row_no_file_and_no_version() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "reruns.py"), "--reruns", "5"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "5 reruns" in ended.stdout, ended.stdout + ended.stderr
    assert ": 1 run, 1 version" in ended.stdout, ended.stdout
    assert "rows and files added: none" in ended.stdout, ended.stdout
    assert ended.returncode == 0
