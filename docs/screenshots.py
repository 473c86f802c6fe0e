"""The pictures of docs/operations.md, taken of the real UIs with headless Chromium.

    MEDGRPO_HOME=shots medgrpo run configs/smoke.toml
    MEDGRPO_HOME=shots python docs/screenshots.py configs/smoke.toml

Starts both UIs on the home folder, on loopback, and ends them again. Chromium: `apt-get install chromium`.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image

from medgrpo.config_file import read_config
from medgrpo.errors import UserError
from medgrpo.processes import end_group
from medgrpo.settings import Settings
from medgrpo.tracking import FLOW_RUN_TAG, KEY_TAG, connect

IMAGES = Path(__file__).parent / "images"
START_S = 180
LIMIT = 200_000
"""Largest picture, in bytes."""
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def ui(which: str, ready: str) -> Iterator[str]:
    """One of the UIs, as `medgrpo ui` starts it; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "medgrpo.cli", "ui", which, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    own = {"PREFECT_SERVER_UI_API_URL": f"{url}/api"}
    process = subprocess.Popen(command, start_new_session=True, env=os.environ | own, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not answers(f"{url}{ready}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"{which} did not start")
            time.sleep(0.5)
        yield url
    finally:
        end_group(process, 20)


def answers(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def shoot(url: str, name: str, height: int = 900) -> None:
    """Take a picture of a page once its scripts have come to rest."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise UserError("Chromium is not installed: apt-get install chromium")
    path = IMAGES / f"{name}.png"
    with tempfile.TemporaryDirectory() as profile:
        size = [f"--window-size=1500,{height}", "--virtual-time-budget=25000", f"--user-data-dir={profile}"]
        subprocess.run(
            [chromium, *QUIET, *size, f"--screenshot={path}", url], check=True, capture_output=True, timeout=150
        )
    with Image.open(path) as picture:  # few colours: a quarter of the bytes
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    if path.stat().st_size > LIMIT:
        raise UserError(f"{path} is larger than {LIMIT} bytes: lower its height")
    print(path, path.stat().st_size)


def main() -> None:
    """Take all pictures of a config that was run in this home folder."""
    config, settings = read_config(Path(sys.argv[1]), ()), Settings()
    client = connect(settings)
    experiment = client.get_experiment_by_name(config.model_name)
    if experiment is None:
        raise UserError(f"nothing was run in {settings.root}: see the top of {__file__}")
    (run, *_) = client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` != ''")
    runs = f"/#/experiments/{experiment.experiment_id}/runs"
    with ui("mlflow", "/health") as url:
        shoot(f"{url}{runs}", "mlflow-runs")
        shoot(f"{url}{runs}/{run.info.run_id}", "mlflow-run", 1200)
        shoot(f"{url}/#/models/{config.model_name}", "mlflow-registry", 600)
    with ui("prefect", "/api/ready") as url:
        shoot(f"{url}/runs/flow-run/{run.data.tags[FLOW_RUN_TAG]}", "prefect-flow-run", 1100)


if __name__ == "__main__":
    main()
