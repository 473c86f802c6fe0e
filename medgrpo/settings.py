"""Where things live, from the environment (`MEDGRPO_*`). Nothing here changes a result, so no key contains it."""

from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The places a pipeline reads and writes. Build it where it is needed, never at import."""

    model_config = SettingsConfigDict(env_prefix="MEDGRPO_", frozen=True)

    home: Path = Path(".medgrpo")
    """The one folder that everything lives under (`MEDGRPO_HOME`)."""
    tracking_uri: str = ""
    """MLflow server (`MEDGRPO_TRACKING_URI`); empty: a SQLite file under `home`."""
    train_timeout_s: float = 24 * 3600
    """Longest time that one attempt at training may take, in seconds (`MEDGRPO_TRAIN_TIMEOUT_S`)."""
    processes: int = Field(default=1, ge=1)
    """How many processes train together, one per GPU (`MEDGRPO_PROCESSES`)."""
    accelerate_config: str = ""
    """accelerate's config file, as configs/accelerate/fsdp2.yaml (`MEDGRPO_ACCELERATE_CONFIG`); empty: plain DDP."""
    vllm_url: str = ""
    """The vLLM server that samples for `grpo.rollouts = "vllm-server"` (`MEDGRPO_VLLM_URL`)."""
    vllm_command: str = "vllm"
    """vLLM's executable, to serve or evaluate with (`MEDGRPO_VLLM_COMMAND`)."""
    vllm_arguments: str = ""
    """More arguments for it, as `--tensor-parallel-size 2` (`MEDGRPO_VLLM_ARGUMENTS`)."""
    vllm_engine_url: str = ""
    """A running vLLM to serve or evaluate with, instead of starting one (`MEDGRPO_VLLM_ENGINE_URL`)."""
    gguf_converter: str = ""
    """llama.cpp's convert_hf_to_gguf.py for `medgrpo export` (`MEDGRPO_GGUF_CONVERTER`); empty: the one on PATH."""

    api_keys: str = ""
    """File with the hashes of the served stage's keys (`MEDGRPO_API_KEYS`); empty: `api_keys` under `home`."""
    max_running: int = Field(default=16, ge=1)
    """How many requests the served stage generates for at once (`MEDGRPO_MAX_RUNNING`)."""
    max_waiting: int = Field(default=64, ge=0)
    """How many more may wait; the rest gets status 429 (`MEDGRPO_MAX_WAITING`)."""
    request_timeout_s: float = Field(default=120, gt=0)
    """Longest time that a request may take, waiting included, in seconds (`MEDGRPO_REQUEST_TIMEOUT_S`)."""
    log_completions: bool = False
    """Whether the served stage logs questions and completions, masked for patient data (`MEDGRPO_LOG_COMPLETIONS`)."""
    trace_share: float = Field(default=0, ge=0, le=1)
    """Share of the requests that become MLflow traces, masked for patient data (`MEDGRPO_TRACE_SHARE`)."""
    challenger_share: float = Field(default=0, ge=0, le=1)
    """Share of the requests that name no version which the challenger answers (`MEDGRPO_CHALLENGER_SHARE`)."""
    shadow: bool = False
    """Whether the challenger answers what the champion answered, for the record alone (`MEDGRPO_SHADOW`)."""

    @cached_property
    def root(self) -> Path:
        """`home`, absolute and existing."""
        root = self.home.expanduser().resolve()
        root.mkdir(parents=True, exist_ok=True)
        return root

    @property
    def mlflow_uri(self) -> str:
        """The tracking URI that MLflow clients use."""
        return self.tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    def without_secrets(self, text: str) -> str:
        """A text that may name the tracking URI, without the user and password in it: for messages and links."""
        secret = urlsplit(self.mlflow_uri).netloc.rpartition("@")[0]
        return text.replace(f"{secret}@", "") if secret else text

    @property
    def artifacts(self) -> Path:
        """Root of MLflow's artifacts when no server owns them."""
        return self.root / "artifacts"

    @property
    def prefect_home(self) -> Path:
        """Prefect's database, results and profiles."""
        return self.root / "prefect"

    @property
    def key_file(self) -> Path:
        """Hashes of the served stage's keys."""
        return Path(self.api_keys).expanduser() if self.api_keys else self.root / "api_keys"

    @property
    def serving(self) -> Path:
        """Folder of what the served stage writes: feedback, and figures of requests."""
        return self.root / "serving"

    def base_model(self, digest: str) -> Path:
        """Folder of a converted base model."""
        return self.root / "base_models" / digest[:32]

    def dataset(self, key: str) -> Path:
        """Folder of a prepared dataset."""
        return self.root / "datasets" / key

    def training(self, key: str) -> Path:
        """Folder of a training: checkpoints, rollouts, log."""
        return self.root / "training" / key

    def adapter(self, digest: str) -> Path:
        """Folder of an adapter, found by its content."""
        return self.root / "adapters" / digest

    def evaluation(self, key: str) -> Path:
        """Folder of an evaluation: report and per-row table."""
        return self.root / "evaluations" / key
