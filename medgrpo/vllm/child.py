"""vLLM as a child: `vllm serve` on loopback, in a process group of its own, ended with us however we end."""

import asyncio
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import httpx

from medgrpo.config import PolicyConfig
from medgrpo.errors import ServeError, UserError
from medgrpo.policy import choose_dtype
from medgrpo.processes import end_group, started_by, tied
from medgrpo.settings import Settings
from medgrpo.types import BaseRef

START_S = 900
"""How long vLLM may take until it answers, in seconds: a large base compiles for minutes."""
GRACE_S = 20
POLL_S = 0.5
LAST_LINES = 15
RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM lays out adapters for, from the smallest that we ask for."""
ADAPTERS = 4
"""Adapters that one batch may use: champion, challenger, and what is loaded beside them at a swap."""


class Hosted(NamedTuple):
    """What vLLM is to hold."""

    base: BaseRef
    policy: PolicyConfig
    rank: int
    """The largest rank of an adapter; see `lora_rank`."""


class Child:
    """A running `vllm serve`.

    Attributes:
        url: where it answers, on loopback.
        key: the key that it asks for: other users of this machine don't have it.
        log: the file that it logs to.
    """

    def __init__(self, hosted: Hosted, log: Path, settings: Settings) -> None:
        """Start it.

        Raises:
            UserError: there is no vLLM here, or the base isn't one for it.
        """
        self.key = secrets.token_urlsafe(24)
        self.log = log
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [find_executable(settings), *_arguments(hosted, port), *shlex.split(settings.vllm_arguments)]
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with log.open("wb") as output:
            self._process = _start(command, self.key, output, settings)

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


def lora_rank(adapters: Iterable[Path]) -> int:
    """The smallest rank of vLLM's that all adapters fit in; 16 at least, as the next one may be larger."""
    settings = [json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")) for adapter in adapters]
    rank = max((int(each["r"]) for each in settings), default=0)
    return next((known for known in RANKS if known >= rank), rank)


def find_executable(settings: Settings) -> str:
    """Path of vLLM's executable.

    Raises:
        UserError: it isn't there.
    """
    found = shutil.which(settings.vllm_command)
    if found is None:
        raise UserError(
            f"there is no command '{settings.vllm_command}': install vLLM in an environment of its own and set "
            "MEDGRPO_VLLM_COMMAND to its vllm, give the URL of a running one (MEDGRPO_VLLM_ENGINE_URL), or do without "
            "it: --engine embedded for the served stage, --set evaluation.engine=transformers for evaluations"
        )
    return found


def _arguments(hosted: Hosted, port: int) -> list[str]:
    if hosted.policy.load_in_4bit:
        raise UserError(
            "vLLM doesn't load a 4-bit base here, as it would be another policy: --engine embedded serves it, "
            "--set evaluation.engine=transformers evaluates it"
        )
    # The embedded engine's dtype: vLLM's own `auto` rounds float32 weights to 16 bits.
    dtype = str(choose_dtype(hosted.policy.dtype)).removeprefix("torch.")
    return [
        *("serve", hosted.base.folder, "--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)),
        *("--enable-lora", "--max-loras", str(ADAPTERS), "--max-lora-rank", str(hosted.rank)),
        *("--dtype", dtype, "--uvicorn-log-level", "warning"),
    ]


def _start(command: list[str], key: str, log: IO[bytes], settings: Settings) -> "subprocess.Popen[bytes]":
    ours = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        # vLLM has an environment of its own: this one's packages must not get in its way.
        tied(["env", "-u", "PYTHONPATH", *command]),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | ours | started_by(settings),
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).is_success
    except httpx.HTTPError:
        return False
