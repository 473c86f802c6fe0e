"""What tests share: one home folder with a tiny policy and a few questions, made once."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A tiny model is fastest on one thread; more would only slow down the servers and processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# Read when the libraries are first imported, which collecting the tests does: no test reaches for a hub.
os.environ |= {"HF_HUB_OFFLINE": "1", "GX_ANALYTICS_ENABLED": "false"}

import hypothesis
import pytest

from medgrpo.base_models import resolve
from medgrpo.config import Config
from medgrpo.config_file import read_config
from medgrpo.data import PresetSource
from medgrpo.data.prepare import prepare
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef, Example

# Times on a shared machine say nothing about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module", autouse=True)
def own_events() -> Iterator[None]:
    """Prefect's sender of events keeps the server that it met first, and the next module's is another."""
    yield
    if worker := sys.modules.get("prefect.events.worker"):
        worker.EventsWorker.drain_all(timeout=10, at_exit=False)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home folder of the test session."""
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def config() -> Config:
    """The smoke config, cut down to some seconds."""
    overrides = ["grpo.steps=4", "grpo.checkpoints=2", "grpo.num_generations=4", "grpo.prompts_per_step=2"]
    overrides += ["data.source.rows=60", "data.validation_rows=6", "data.test_rows=12"]
    return read_config(ROOT / "configs" / "smoke.toml", overrides)


@pytest.fixture(scope="session")
def base(config: Config, settings: Settings) -> BaseRef:
    """The tiny base model, with its tokenizer trained on the built-in questions."""
    return resolve(config.policy.base, settings)


@pytest.fixture(scope="session")
def dataset(config: Config, base: BaseRef, settings: Settings) -> DatasetRef:
    """A few prepared questions."""
    return prepare(config, base, settings)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real question sets that are not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared/data is not here: real question sets are not part of the repository")
    return SHARED / "data"


@pytest.fixture(scope="session")
def medmcqa(shared_data: Path) -> list[Example]:
    """The MedMCQA cut, with a row's place as its id."""
    source = PresetSource(name="medmcqa", path=str(shared_data / "medmcqa" / "dev_first2000.jsonl"))
    return [example.model_copy(update={"id": str(place)}) for place, example in enumerate(source.load(0))]


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Prefect server with its services; one for all tests of a process."""
    from prefect_server import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture
def on_server(prefect_api: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let this process, and those that it starts, use that server and the session's home folder."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("MEDGRPO_HOME", str(settings.root))
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api
