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
    gguf_converter: str = ""
    """llama.cpp's convert_hf_to_gguf.py for `medgrpo export` (`MEDGRPO_GGUF_CONVERTER`); empty: the one on PATH."""

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
