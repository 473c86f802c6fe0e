"""Configs: the presets, every fault at once with its place, overrides, and what the JSON schema tells."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pydantic import BaseModel, ValidationError

from medgrpo.config import Config, GrpoConfig, LoraConfig
from medgrpo.config_file import read_config
from medgrpo.errors import ConfigError
from medgrpo.rewards import CorrectReward, FluencyReward, FormatReward, SemanticReward

PRESETS = sorted((ROOT / "configs").glob("*.toml"))
GPU = ("llama31-8b", "qwen25", "phi4", "gemma3")
SHA = re.compile(r"[0-9a-f]{40}")


def write(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the one message that a config is refused with."""
    with pytest.raises(ConfigError) as refused:
        read_config(write(folder, text), overrides)
    assert not isinstance(refused.value, ValidationError)
    return str(refused.value).splitlines()


# --- presets


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_under_its_files_name(path: Path) -> None:
    config = read_config(path)
    assert config.name == path.stem
    assert config.model_name == f"medgrpo-{path.stem}"


def test_there_is_a_preset_for_every_family_and_for_no_gpu() -> None:
    assert {path.stem for path in PRESETS} == {"smoke", "laptop", *GPU}


@pytest.mark.parametrize("name", GPU)
def test_gpu_presets_keep_the_original_projects_settings(name: str) -> None:
    config = read_config(ROOT / "configs" / f"{name}.toml")
    assert (config.policy.lora.r, config.policy.lora.alpha) == (64, 64)
    assert config.policy.load_in_4bit
    grpo = config.grpo
    assert (grpo.learning_rate, grpo.lr_schedule, grpo.warmup_ratio) == (5e-6, "cosine", 0.1)
    assert (grpo.weight_decay, grpo.max_grad_norm) == (0.1, 0.1)
    assert (grpo.num_generations, grpo.max_completion_tokens) == (5, 128)
    assert (grpo.steps, grpo.checkpoints, grpo.save_every) == (200, 4, 50)


@pytest.mark.parametrize("name", GPU)
def test_gpu_presets_pin_what_they_download(name: str) -> None:
    config = read_config(ROOT / "configs" / f"{name}.toml").model_dump()
    for pinned, kind in ((config["policy"]["base"], "hub"), (config["data"]["source"], "preset")):
        assert pinned["kind"] == kind
        assert SHA.fullmatch(pinned["revision"])


def test_gpu_presets_are_four_different_base_models() -> None:
    bases = [read_config(ROOT / "configs" / f"{name}.toml").model_dump()["policy"]["base"] for name in GPU]
    assert len({base["repo"] for base in bases}) == len({base["revision"] for base in bases}) == 4


@pytest.mark.parametrize("name", GPU)
def test_gpu_presets_train_all_linear_layers(name: str) -> None:
    modules = set(read_config(ROOT / "configs" / f"{name}.toml").policy.lora.target_modules)
    fused = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert modules == (fused if name == "phi4" else set(LoraConfig().target_modules))


# --- faults

MANY = """
name = "Not A Name"
sed = 1
[data]
source = { kind = "clinical", rows = "many", topcs = [] }
validation_rows = 0
[policy]
base = { kind = "hub", repo = "a/b", revision = "main" }
load_in_4bit = "maybe"
[policy.lora]
r = 1.5
[[rewards]]
kind = "correct"
weight = -1
[[rewards]]
kind = "applause"
[grpo]
stepz = 3
learning_rate = "fast"
num_generations = 1
[[gate.rules]]
kind = "better"
margin = 2
[evaluation]
confidence = [0.9]
"""

MANY_FAULTS = {
    "name": "pattern",
    "sed": "unknown key",
    "data.source.clinical.rows": "valid integer",
    "data.source.clinical.topcs": "unknown key",
    "data.validation_rows": "greater than or equal to 1",
    "policy.base.hub.revision": "pattern",
    "policy.load_in_4bit": "valid boolean",
    "policy.lora.r": "valid integer",
    "rewards.0.correct.weight": "greater than 0",
    "rewards.1": "applause",
    "grpo.stepz": "unknown key",
    "grpo.learning_rate": "valid number",
    "grpo.num_generations": "greater than or equal to 2",
    "gate.rules.0.better.margin": "less than or equal to 1",
    "evaluation.confidence": "valid number",
}


def test_all_faults_are_named_at_once_with_their_place(tmp_path: Path) -> None:
    first, *lines = faults(tmp_path, MANY)
    assert first.startswith(str(tmp_path / "some.toml"))
    assert f"{len(lines)} faults" in first
    for place, said in MANY_FAULTS.items():
        assert any(line.startswith(f"  {place}: ") and said in line for line in lines), place


def test_a_fault_shows_what_was_given(tmp_path: Path) -> None:
    lines = faults(tmp_path, MANY)
    assert any("learning_rate" in line and "given: 'fast'" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "  name: Field required"),
        ('name = "a"\nnaem = 1', "  naem: unknown key (given: 1)"),
        ('name = "a"\n[unknown]\nx = 1', "  unknown: unknown key"),
        ('name = "a"\ngrpo = 3', "  grpo: Input should be a valid dictionary"),
        ('name = "a"\n[data]\nsource = { kind = "cloud" }', "  data.source: Input tag 'cloud'"),
        ('name = "a"\n[data]\nsource = {}', "  data.source: Unable to extract tag using discriminator 'kind'"),
        ('name = "a"\n[grpo]\nlr_schedule = "cubic"', "  grpo.lr_schedule: Input should be 'cosine'"),
        ('name = "a"\n[grpo]\nsteps = 0', "  grpo.steps: Input should be greater than or equal to 1"),
        ('name = "a"\n[grpo]\nsteps = 2.5', "  grpo.steps: Input should be a valid integer"),
        ('name = "a"\n[grpo]\nsteps = 2\ncheckpoints = 3', "  grpo: more checkpoints than steps"),
        ('name = "a"\nrewards = []', "  rewards: Tuple should have at least 1 item"),
        ('name = ""', "  name: String should match pattern"),
        (f'name = "{"a" * 65}"', "  name: String should have at most 64 characters"),
        ('name = "../up"', "  name: String should match pattern"),
        ('name = "a"\nseed = -1', "  seed: Input should be greater than or equal to 0"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, line: str) -> None:
    first, *lines = faults(tmp_path, text)
    assert "1 fault" in first and "1 faults" not in first
    assert len(lines) == 1 and lines[0].startswith(line)


def test_two_rewards_of_a_kind_are_refused(tmp_path: Path) -> None:
    twice = "".join(f'[[rewards]]\nkind = "{kind}"\n' for kind in ("format", "correct", "format", "correct"))
    (line,) = faults(tmp_path, 'name = "a"\n' + twice)[1:]
    assert "more than one is named correct, format" in line


@pytest.mark.parametrize(
    ("prompts", "generations", "parts", "fits"), [(4, 8, 5, False), (4, 8, 8, True), (1, 5, 2, False), (3, 8, 24, True)]
)
def test_gradient_accumulation_must_divide_a_steps_completions(
    tmp_path: Path, prompts: int, generations: int, parts: int, fits: bool
) -> None:
    text = f'name = "a"\n[grpo]\nprompts_per_step = {prompts}\nnum_generations = {generations}\n'
    text += f"gradient_accumulation_steps = {parts}\n"
    if fits:
        assert read_config(write(tmp_path, text)).grpo.completions_per_step == prompts * generations
    else:
        (line,) = faults(tmp_path, text)[1:]
        assert line.startswith("  grpo: gradient_accumulation_steps must divide")
        assert str(prompts * generations) in line


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config: .*absent\.toml"):
        read_config(tmp_path / "absent.toml")
    assert "not readable as TOML" in faults(tmp_path, "name = ")[0]
    assert "not readable as TOML" in faults(tmp_path, 'name = "a"\nname = "b"')[0]
    with pytest.raises(ConfigError, match="not readable"):
        read_config(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        read_config(binary)


# --- overrides

SMALL = 'name = "a"\n[grpo]\nsteps = 8\n[[rewards]]\nkind = "correct"\n'


def override(folder: Path, *overrides: str) -> Config:
    return read_config(write(folder, SMALL), overrides)


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("grpo.steps=12", "grpo.steps", 12),
        ("grpo.learning_rate=1e-3", "grpo.learning_rate", 1e-3),
        ("grpo.beta=0.01", "grpo.beta", 0.01),
        (" grpo.steps = 12 ", "grpo.steps", 12),
        ("policy.load_in_4bit=true", "policy.load_in_4bit", True),
        ('name="b"', "name", "b"),
        ("name=b", "name", "b"),
        ("name=b-2.1", "name", "b-2.1"),
        ("grpo.lr_schedule=linear", "grpo.lr_schedule", "linear"),
        ("prompt.system=", "prompt.system", ""),
        ("prompt.system=a = b", "prompt.system", "a = b"),
        ('data.source.topics=["anion-gap", "sirs"]', "data.source.topics", ("anion-gap", "sirs")),
        ("policy.lora.r=4", "policy.lora.r", 4),  # neither section is in the file
        ("registry.model_name=other", "registry.model_name", "other"),
        ('rewards=[{kind = "format", weight = 2}]', "rewards", (FormatReward(weight=2),)),
        ('policy.base={kind = "folder", path = "models/mine"}', "policy.base.path", "models/mine"),
    ],
)
def test_set(tmp_path: Path, text: str, place: str, value: object) -> None:
    extra = ("data.source.kind=clinical",) if place.startswith("data.source") else ()
    found: Any = override(tmp_path, *extra, text)
    for part in place.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_set_leaves_the_rest_alone(tmp_path: Path) -> None:
    plain, changed = override(tmp_path), override(tmp_path, "grpo.beta=0.5")
    assert changed.model_copy(update={"grpo": plain.grpo}) == plain
    assert changed.grpo.model_copy(update={"beta": 0.0}) == plain.grpo
    assert changed.grpo.steps == 8


def test_the_last_set_wins(tmp_path: Path) -> None:
    assert override(tmp_path, "grpo.steps=10", "grpo.steps=11").grpo.steps == 11


@pytest.mark.parametrize("text", ["grpo.steps", "", "=3", "grpo.=3", "."])
def test_set_without_key_or_value_says_how_it_is_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set .*: write section\.key=value, for example"):
        override(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "section"), [("name.x=3", "name"), ("rewards.0.weight=2", "rewards"), ("grpo.steps.more=1", "steps")]
)
def test_set_through_what_is_no_section(tmp_path: Path, text: str, section: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {re.escape(text)}: '{section}' is not a section"):
        override(tmp_path, text)


def test_what_is_set_is_checked_like_the_file(tmp_path: Path) -> None:
    lines = faults(tmp_path, SMALL, "grpo.stepz=1", "seed=-1", "name=1", "grpo..steps=2")[1:]
    assert {line.split(":")[0].strip() for line in lines} == {"grpo.stepz", "seed", "name", "grpo."}


# --- values


def every_value(value: object) -> Iterator[BaseModel]:
    """This model and all models inside it."""
    if isinstance(value, BaseModel):
        yield value
        for field in type(value).model_fields:
            yield from every_value(getattr(value, field))
    elif isinstance(value, tuple):
        for inner in value:
            yield from every_value(inner)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_config_is_frozen_all_the_way_down(path: Path) -> None:
    values = list(every_value(read_config(path)))
    assert len(values) >= 12
    for value in values:
        field = next(iter(type(value).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, field, getattr(value, field))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_config_survives_json(path: Path, tmp_path: Path) -> None:
    config = read_config(path)
    text = config.model_dump_json()
    assert Config.model_validate_json(text) == config
    stored = tmp_path / "config.json"
    stored.write_text(text, encoding="utf-8")
    assert read_config(stored) == config
    assert read_config(stored, ["seed=99"]).seed == 99


def test_a_json_config_is_checked_as_well(tmp_path: Path) -> None:
    stored = tmp_path / "config.json"
    for text, said in {"{": "not readable as JSON", '{"name": "a", "x": 1}': "  x: unknown key"}.items():
        stored.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_config(stored)


def test_rewards_are_read_as_their_kind(tmp_path: Path) -> None:
    text = 'name = "a"\n' + "".join(
        f'[[rewards]]\nkind = "{kind}"\n' for kind in ("fluency", "semantic", "format", "correct")
    )
    kinds = [type(reward) for reward in read_config(write(tmp_path, text)).rewards]
    assert kinds == [FluencyReward, SemanticReward, FormatReward, CorrectReward]


@pytest.mark.parametrize(("steps", "checkpoints", "every"), [(200, 4, 50), (10, 4, 3), (12, 1, 12), (7, 7, 1)])
def test_checkpoints_are_spaced_evenly(steps: int, checkpoints: int, every: int) -> None:
    grpo = GrpoConfig(steps=steps, checkpoints=checkpoints)
    assert grpo.save_every == every
    assert -(-steps // every) <= checkpoints, "never more than asked for"


def test_checkpoints_are_made_where_completions_are_used_up() -> None:
    grpo = GrpoConfig(steps=11, checkpoints=4, num_iterations=2)
    assert grpo.save_every == 4
    assert grpo.checkpoint_steps == (4, 8, 11)
    assert GrpoConfig(steps=12, checkpoints=4).checkpoint_steps == (3, 6, 9, 12)


def test_the_registered_models_name() -> None:
    assert Config(name="a").model_name == "medgrpo-a"
    assert Config.model_validate({"name": "a", "registry": {"model_name": "b"}}).model_name == "b"


# --- what the schema tells

SCHEMA = Config.model_json_schema()
MODELS = {"Config": SCHEMA, **SCHEMA["$defs"]}
PROPERTIES = [
    pytest.param(schema, id=f"{model}.{name}")
    for model, definition in MODELS.items()
    for name, schema in definition["properties"].items()
]


@pytest.mark.parametrize("schema", PROPERTIES)
def test_every_key_is_described(schema: dict[str, Any]) -> None:
    text = schema.get("description", "")
    assert len(text) > 3
    assert text.endswith("."), "a sentence at least"


@pytest.mark.parametrize("model", MODELS)
def test_every_section_is_described_and_closed(model: str) -> None:
    assert MODELS[model]["description"]
    assert MODELS[model]["additionalProperties"] is False


def test_the_schema_covers_every_section_and_kind() -> None:
    kinds = {definition["properties"].get("kind", {}).get("const") for definition in MODELS.values()} - {None}
    assert kinds == {
        *("clinical", "file", "hub", "preset"),
        *("wheel", "folder", "tiny"),
        *("correct", "format", "semantic", "fluency", "length", "repetition", "verifier", "custom"),
        *("original-similarity", "original-perplexity", "original-tags"),
        *("better", "better-or-cheaper", "slice", "majority", "contamination", "audit", "data", "benchmarks"),
    }
