"""Exports: what other tools read gives the logits of the policy that was evaluated, or nothing is exported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from medgrpo import registry, tracking
from medgrpo.cli import app
from medgrpo.config import Config
from medgrpo.errors import MedgrpoError, NotFoundError, UserError
from medgrpo.export import MERGE_BOUND, export, find_converter
from medgrpo.fingerprint import digest
from medgrpo.policy import adapter_digest, load_base, lora_settings
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, ModelVersionRef

IDS = torch.arange(5, 45).unsqueeze(0)
CARD = "---\nlibrary_name: peft\nbase_model: org/name\nbase_model_relation: adapter\n---\n\n# A card\n"
MODULES = ("q_proj", "v_proj", "down_proj")


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits.float()
    return found


@pytest.fixture(scope="module")
def own(config: Config) -> Config:
    return config.model_copy(update={"name": "exported"})


def store(
    own: Config,
    base: BaseRef,
    dataset: DatasetRef,
    settings: Settings,
    modules: tuple[str, ...] = MODULES,
    spread: float = 0.05,
) -> ModelVersionRef:
    """A version whose adapter has random weights on these modules."""
    lora = own.policy.lora.model_copy(update={"target_modules": modules})
    model = get_peft_model(load_base(base.folder).model, lora_settings(lora))
    torch.manual_seed(len(modules))
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = torch.randn_like(weights) * spread
    draft = settings.root / "made" / digest([own.name, modules, str(spread)])
    model.save_pretrained(draft)
    found = adapter_digest(draft)
    target = settings.adapter(found)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)
    run = tracking.open_run(own, dataset, f"key-{own.name}", settings, {})
    step = 1 + int(found[:6], 16)  # a run has one adapter per step
    checkpoint = CheckpointRef(train_key=run.key, step=step, adapter_digest=found)
    return registry.register(own, base, dataset, run, checkpoint, settings, {"MODEL_CARD.md": CARD})


@pytest.fixture(scope="module")
def version(own: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> ModelVersionRef:
    return store(own, base, dataset, settings)


@pytest.fixture(scope="module")
def wanted(version: ModelVersionRef, base: BaseRef, settings: Settings) -> torch.Tensor:
    """Logits of base plus adapter."""
    return logits(PeftModel.from_pretrained(load_base(base.folder).model, settings.adapter(version.adapter_digest)))


def test_an_adapter_is_whole_and_names_its_base(
    own: Config, version: ModelVersionRef, base: BaseRef, wanted: torch.Tensor, settings: Settings, tmp_path: Path
) -> None:
    exported = export(own, "adapter", tmp_path / "new" / "adapter", settings, version.version)
    folder = tmp_path / "new" / "adapter"
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(base.folder).model, folder)), wanted)
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(base.folder).chat_template
    )
    names = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert names["base_model_name_or_path"] == base.name, "a folder of this machine is nowhere else"
    assert (folder / "README.md").read_text(encoding="utf-8").strip() == CARD.strip()
    assert not (folder / "MODEL_CARD.md").exists() and (folder / "medgrpo.json").is_file()
    assert json.loads((folder / "export.json").read_text(encoding="utf-8")) == exported.model_dump(mode="json")
    assert exported.float32_difference is None
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def check_merged(folder: Path, wanted: torch.Tensor) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    difference = (logits(plain) - wanted).abs().max()
    assert 0 < difference < 0.05 * wanted.abs().max(), "16 bits round, and nothing else"
    assert {str(weights.dtype) for weights in AutoModelForCausalLM.from_pretrained(folder).parameters()} == {
        "torch.bfloat16"
    }


def test_merged_weights_are_the_policy(
    own: Config, version: ModelVersionRef, base: BaseRef, wanted: torch.Tensor, settings: Settings, tmp_path: Path
) -> None:
    exported = export(own, "merged", tmp_path / "merged", settings, version.version)
    check_merged(tmp_path / "merged", wanted)
    assert (logits(load_base(base.folder).model) - wanted).abs().max() > 0.1, "the adapter must matter for this test"
    assert exported.largest_logit and exported.float32_difference is not None and exported.rounded_difference
    assert exported.float32_difference <= MERGE_BOUND * exported.largest_logit
    assert exported.float32_difference < exported.rounded_difference < 0.05 * exported.largest_logit
    assert exported.same_tokens is not None and exported.same_tokens > 0.9
    assert not list((tmp_path / "merged").glob("*.bin")) and list((tmp_path / "merged").glob("*.safetensors"))
    readme = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in readme and "base_model_relation: finetune" in readme and "# A card" in readme
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


@pytest.mark.parametrize("ends", [("lm_head",), ("embed_tokens",), ("lm_head", "embed_tokens")])
def test_an_adapted_end_of_tied_weights_does_not_move_the_other(
    own: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path, ends: tuple[str, ...]
) -> None:
    version = store(own, base, dataset, settings, (*MODULES, *ends))
    untouched = load_base(base.folder).model
    assert untouched.config.tie_word_embeddings, "this test needs a base with tied weights"
    wanted = logits(PeftModel.from_pretrained(untouched, settings.adapter(version.adapter_digest)))
    export(own, "merged", tmp_path / "merged", settings, version.version)
    check_merged(tmp_path / "merged", wanted)
    assert not json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]


def test_weights_that_are_no_policy_are_not_exported(
    own: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path
) -> None:
    broken = store(own, base, dataset, settings, spread=float("nan"))
    with pytest.raises(MedgrpoError, match="merged weights are not this policy"):
        export(own, "merged", tmp_path / "merged", settings, broken.version)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        export(own, "adapter", tmp_path, settings, version.version)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_four_bit_policy_is_not_merged(
    own: Config, base: BaseRef, dataset: DatasetRef, settings: Settings, tmp_path: Path
) -> None:
    four = own.model_copy(update={"name": "four", "policy": own.policy.model_copy(update={"load_in_4bit": True})})
    version = store(four, base, dataset, settings)
    with pytest.raises(UserError, match=r"4-bit base.*--form adapter"):
        export(four, "merged", tmp_path / "merged", settings, version.version)
    export(four, "adapter", tmp_path / "adapter", settings, version.version)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_champion_is_what_is_exported_unless_a_version_is_named(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"has no champion: name a version"):
        export(own.model_copy(update={"name": "nobody"}), "adapter", tmp_path / "a", settings)
    with pytest.raises(NotFoundError, match="no version 99"):
        export(own, "adapter", tmp_path / "a", settings, 99)
    tracking.connect(settings).set_registered_model_alias(own.model_name, "champion", str(version.version))
    assert export(own, "adapter", tmp_path / "a", settings).version == version


def test_without_a_converter_it_says_how_to_get_one(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no convert_hf_to_gguf\.py on PATH: get llama\.cpp .*MEDGRPO_GGUF_CONVERTER"):
        export(own, "gguf", tmp_path / "gguf", settings, version.version)
    with pytest.raises(UserError, match=r"MEDGRPO_GGUF_CONVERTER names /nowhere, which is no file"):
        find_converter(settings.model_copy(update={"gguf_converter": "/nowhere"}))
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("#!/bin/sh\n", encoding="utf-8")
    script.chmod(0o755)
    assert find_converter(settings) == [sys.executable, str(script)]


# Stands where llama.cpp's script would, which is no package; it reads what that one reads.
CONVERTER = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype")
args = parser.parse_args()
config = json.loads((args.model / "config.json").read_text())
assert (args.model / "model.safetensors").is_file() and (args.model / "tokenizer.json").is_file()
if config["vocab_size"] < FEWEST:
    raise SystemExit("too few tokens")
args.outfile.write_text(f"GGUF {config['dtype']} {args.outtype}")
"""


@pytest.mark.parametrize(("fewest", "fails"), [(1, False), (10**6, True)])
def test_a_converter_gets_the_merged_weights(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path, fewest: int, fails: bool
) -> None:
    script = tmp_path / "convert.py"
    script.write_text(CONVERTER.replace("FEWEST", str(fewest)), encoding="utf-8")
    mine = settings.model_copy(update={"gguf_converter": str(script)})
    if fails:
        with pytest.raises(MedgrpoError, match=r"converter failed .*exit code 1\):\n.*too few tokens"):
            export(own, "gguf", tmp_path / "gguf", mine, version.version)
        assert [path.name for path in tmp_path.iterdir()] == ["convert.py"]
        return
    exported = export(own, "gguf", tmp_path / "gguf", mine, version.version)
    name = f"{version.name}-v{version.version}.gguf"
    assert {path.name for path in (tmp_path / "gguf").iterdir()} == {name, "README.md", "export.json"}
    assert (tmp_path / "gguf" / name).read_text(encoding="utf-8") == "GGUF bfloat16 auto"
    assert exported.float32_difference is not None


def test_a_hub_that_does_not_take_it_leaves_the_folder(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is whole, but the hub didn't take it as 'me/mine' .*hf auth login"):
        export(own, "adapter", tmp_path / "a", settings, version.version, push="me/mine")
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()


def test_the_command_says_what_it_wrote(
    own: Config, version: ModelVersionRef, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGRPO_HOME", str(settings.root))
    smoke = str(Path(__file__).parent.parent / "configs" / "smoke.toml")
    told = ["export", smoke, "--set", "name=exported", "--to", str(tmp_path / "m"), "--version", str(version.version)]
    done = CliRunner().invoke(app, [*told, "--form", "merged"])
    assert done.exit_code == 0, done.output
    assert f"version {version.version}, merged: {tmp_path / 'm'}" in done.output
    assert "in float32" in done.output and "in 16 bits" in done.output
