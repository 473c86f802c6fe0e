"""vLLM as a child: `vllm serve` on loopback, in a process group of its own, ended with us however we end."""

import asyncio
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import httpx

from medgrpo.errors import ServeError, UserError
from medgrpo.processes import end_group
from medgrpo.serve.engine import BASE, Source
from medgrpo.settings import Settings

START_S = 900
"""How long vLLM may take until it answers, in seconds: a large base compiles for minutes."""
GRACE_S = 20
POLL_S = 0.5
LAST_LINES = 15
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM lays out adapters for."""
ADAPTERS = 4
"""Adapters that may be in use by one batch: champion, challenger, and what is loaded beside them at a swap."""


class Child:
    """A running `vllm serve`.

    Attributes:
        url: where it answers, on loopback.
        key: the key that it asks for: other users of this machine don't have it.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self.key = secrets.token_urlsafe(24)
        self.log = settings.serving / "vllm.log"
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [_executable(settings), *_arguments(source, port), *shlex.split(settings.vllm_arguments)]
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = _start(command, self.key, log)

    async def ready(self) -> None:
        """Wait until it answers.

        Raises:
            ServeError: it ended, or took too long; with the last lines of its log.
        """
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            try:
                async with asyncio.timeout(START_S):
                    while not await _is_healthy(client, self.url):
                        if self.ended:
                            raise ServeError(f"{self.ended} before it answered:{self._tail()}")
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                raise ServeError(f"vLLM did not answer within {START_S} s:{self._tail()}") from None

    @property
    def ended(self) -> str:
        """That it ended, and how; empty while it runs."""
        code = self._process.poll()
        return "" if code is None else f"vLLM ended with exit code {code} (its log: {self.log})"

    def end(self) -> None:
        """End it and what it started. Blocks until they are gone."""
        end_group(self._process, GRACE_S)

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def lora_rank(adapter: Path | None) -> int:
    """The smallest rank of vLLM's that the adapter fits in; 16 at least, as the next one may be larger."""
    if adapter is None:
        return 16
    rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    return next((known for known in RANKS if known >= max(rank, 16)), rank)


def _executable(settings: Settings) -> str:
    found = shutil.which(settings.vllm_command)
    if found is None:
        raise UserError(
            f"there is no command '{settings.vllm_command}': install vLLM in an environment of its own and set "
            "MEDGRPO_VLLM_COMMAND to its vllm, give the URL of a running one (--engine-url), or use --engine embedded"
        )
    return found


def _arguments(source: Source, port: int) -> list[str]:
    if source.policy.load_in_4bit:
        raise UserError("vLLM doesn't serve a 4-bit base here, as it would be another policy: use --engine embedded")
    return [
        *("serve", source.base.folder, "--served-model-name", BASE, "--host", "127.0.0.1", "--port", str(port)),
        *("--enable-lora", "--max-loras", str(ADAPTERS), "--max-lora-rank", str(lora_rank(source.adapter))),
        *("--dtype", _dtype(source.policy.dtype), "--uvicorn-log-level", "warning"),
    ]


def _dtype(name: str) -> str:
    """What the embedded engine would compute in: vLLM's own `auto` rounds float32 weights to 16 bits."""
    from medgrpo.policy import choose_dtype

    return str(choose_dtype(name)).removeprefix("torch.")


def _start(command: list[str], key: str, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    ours = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # vLLM has an environment of its own: this one's packages must not get in its way.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours
    # By its path: it needs nothing of the package, and starts sooner without.
    keeper = Path(__file__).with_name("keeper.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(keeper), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).is_success
    except httpx.HTTPError:
        return False
