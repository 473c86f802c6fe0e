"""What a training takes: memory from the shape alone, refusals that name the way out, a step that is measured."""

import json
import re
from typing import Any

import pytest

from medgrpo.config import Config, LoraConfig
from medgrpo.plan.calibration import Measurement, read_measurement
from medgrpo.plan.estimate import make_plan, step_flops
from medgrpo.plan.memory import Memory, Place, Shape, estimate, find_refusal, read_shape
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

GIB = 2**30
LEAN = {"load_in_4bit": True, "gradient_accumulation_steps": 8, "fast_path": False}
SMALL_LORA = LoraConfig(r=16)

# Values of the models' own config.json.
LLAMA_8B = {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False}
SMOLLM_135M = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM_135M |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
QWEN_1_5B = {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
QWEN_1_5B |= {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}


def shape_of(kind: str, values: dict[str, Any]) -> Shape:
    from transformers import AutoConfig

    return read_shape(AutoConfig.for_model(kind, **values), SMALL_LORA)


@pytest.fixture(scope="module")
def llama() -> Shape:
    return shape_of("llama", LLAMA_8B)


@pytest.mark.parametrize(
    ("kind", "values", "parameters", "adapter", "key_value"),
    [
        ("llama", LLAMA_8B, 8_030_261_248, 41_943_040, 1024),
        ("llama", SMOLLM_135M, 134_515_008, 4_884_480, 192),
        ("qwen2", QWEN_1_5B, 1_543_714_304, 18_464_768, 256),
    ],
    ids=["Llama-3.1-8B", "SmolLM2-135M", "Qwen2.5-1.5B"],
)
def test_shapes_have_the_published_numbers_of_parameters(
    kind: str, values: dict[str, Any], parameters: int, adapter: int, key_value: int
) -> None:
    shape = shape_of(kind, values)
    assert (shape.parameters, shape.adapter_parameters, shape.key_value) == (parameters, adapter, key_value)
    assert shape.adapted_parameters == shape.linear_parameters < shape.parameters


def config_of(**grpo: Any) -> Config:
    policy = {"load_in_4bit": grpo.pop("load_in_4bit", False)}
    sizes = {"prompts_per_step": 1, "num_generations": 8, "max_completion_tokens": 256} | grpo
    return Config.model_validate({"name": "x", "policy": policy, "grpo": sizes, "rewards": [{"kind": "correct"}]})


def gpu(free: float, processes: int = 1) -> Place:
    return Place(on_gpu=True, width=2, processes=processes, free=int(free * GIB), total=int(free * GIB))


def test_the_parts_are_what_they_are_known_to_be(llama: Shape) -> None:
    plain = estimate(config_of(), llama, 256, gpu(80))
    assert plain.weights == 2 * llama.parameters
    assert plain.adapter == 16 * llama.adapter_parameters
    quantized = estimate(config_of(load_in_4bit=True), llama, 256, gpu(80))
    assert quantized.weights / 1e9 == pytest.approx(5.70, abs=0.01), "the size of the published NF4 files"
    # 32 layers x (keys, values) x 8 heads x 128 numbers x 2 bytes = 128 KiB a token, for 8 rows of 512 tokens
    assert plain.sampling == pytest.approx(8 * 512 * 128 * 1024 + 8 * 128256 * 12)
    assert plain.peak == plain.fixed + max(plain.sampling, plain.loss)


def test_what_makes_a_step_smaller_makes_its_memory_smaller(llama: Shape) -> None:
    def loss(**grpo: Any) -> float:
        return estimate(config_of(prompts_per_step=2, **grpo), llama, 256, gpu(80)).loss

    assert loss(gradient_accumulation_steps=2) == pytest.approx(loss() / 2, rel=0.05)
    assert loss(max_completion_tokens=128) < loss()
    assert loss(fast_path=False) < loss(), "it computes activations again instead of keeping them"
    two = estimate(config_of(prompts_per_step=2), llama, 256, gpu(80, processes=2))
    assert two.loss == pytest.approx(loss() / 2, rel=0.05)


def test_vllm_takes_the_place_of_our_cache(llama: Shape) -> None:
    ours = estimate(config_of(), llama, 256, gpu(80))
    server = estimate(config_of(rollouts="vllm-server"), llama, 256, gpu(80))
    inside = estimate(config_of(rollouts="vllm-colocate"), llama, 256, gpu(80))
    assert ours.merged_copy > 0 < ours.sampling
    assert server.merged_copy == server.sampling == inside.sampling == 0
    assert inside.fixed - server.fixed == pytest.approx(0.3 * 80 * GIB)


def test_the_merged_copy_is_left_out_where_it_would_take_too_much(llama: Shape) -> None:
    assert estimate(config_of(), llama, 256, gpu(80)).merged_copy == 2 * llama.adapted_parameters
    assert estimate(config_of(), llama, 256, gpu(24)).merged_copy == 0


@pytest.mark.parametrize(
    ("free", "grpo", "advice"),
    [
        (80, {}, ""),
        (24, {}, "--set grpo.gradient_accumulation_steps=8"),
        (24, {"load_in_4bit": True}, "--set grpo.gradient_accumulation_steps=2"),
        (24, {"load_in_4bit": True, "gradient_accumulation_steps": 2}, ""),
        (16, {"gradient_accumulation_steps": 8}, "--set policy.load_in_4bit=true"),
        (16, {}, "--set grpo.gradient_accumulation_steps=4 --set policy.load_in_4bit=true"),
        (12, {"load_in_4bit": True, "gradient_accumulation_steps": 8}, "--set grpo.fast_path=false"),
        (10, {**LEAN, "prompts_per_step": 16, "gradient_accumulation_steps": 32}, "--set grpo.prompts_per_step="),
        (9, {**LEAN, "max_completion_tokens": 4096}, "--set grpo.max_completion_tokens=1024"),
        (6, {}, "take a smaller base model"),
    ],
)
def test_an_8b_policy_is_refused_with_the_setting_that_makes_it_fit(
    llama: Shape, free: float, grpo: dict[str, Any], advice: str
) -> None:
    refusal = find_refusal(config_of(**grpo), llama, 256, gpu(free))
    assert (advice in refusal) if advice else refusal == "", refusal


def test_what_a_refusal_advises_is_not_refused(llama: Shape) -> None:
    for free in range(8, 80, 6):
        refusal = find_refusal(config_of(prompts_per_step=4), llama, 256, gpu(free))
        if "--set" in refusal:
            told = re.findall(r"--set (?:grpo|policy)\.(\w+)=(\w+)", refusal)
            changed = config_of(**({"prompts_per_step": 4} | {name: json.loads(value) for name, value in told}))
            assert find_refusal(changed, llama, 256, gpu(free)) == "", refusal


def test_without_a_gpu_nothing_is_refused(llama: Shape) -> None:
    assert find_refusal(config_of(), llama, 256, Place(on_gpu=False, width=4)) == ""


def test_advice_keeps_groups_whole_on_every_process(llama: Shape) -> None:
    config = config_of(**(LEAN | {"prompts_per_step": 32, "gradient_accumulation_steps": 32}))
    refusal = find_refusal(config, llama, 256, gpu(9, processes=2))
    told = int(refusal.partition("--set grpo.prompts_per_step=")[2].partition(" ")[0])
    assert told % 2 == 0


def test_a_measurement_corrects_what_goes_with_the_size_of_a_step() -> None:
    expected = Memory(weights=4, merged_copy=0, adapter=1, rewards=0, runtime=1, sampling=1, loss=2)
    measured = Measurement(seconds=6, peak=10, expected_seconds=3, expected=expected)
    assert measured.seconds_factor == 2
    assert measured.corrected(expected) == 10
    assert measured.corrected(expected.model_copy(update={"loss": 4.0})) == 14
    assert measured.model_copy(update={"peak": 5.0}).corrected(expected) == 6, "what is there all the time stays"


def test_shared_prefixes_cost_less_to_read() -> None:
    shape = Shape(**dict.fromkeys(Shape.model_fields, 1) | {"parameters": 10})
    assert step_flops(config_of(), shape, 100) == 6 * 10 * (8 * 256 + 100)
    assert step_flops(config_of(fast_path=False), shape, 100) == 6 * 10 * (8 * 256 + 800)


@pytest.mark.slow
def test_a_measured_step_is_shown_kept_and_used(
    config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings
) -> None:
    before = make_plan(config, settings)
    assert "within a factor of two" in before and "measured" not in before.replace("measured here", "")
    plan = make_plan(config, settings, with_step=True)
    assert "one step took" in plan and "going by a step that was measured here" in plan
    assert "going by a step that was measured here" in make_plan(config, settings)
    kept = read_measurement(config, base, settings)
    assert kept is not None and kept.seconds > 0 and kept.peak > 0.2 * GIB
    assert list(settings.root.glob(".measure-*")) == [], "the home folder of the measurement is gone"
    other = config.model_copy(update={"grpo": config.grpo.model_copy(update={"fast_path": False})})
    assert read_measurement(other, base, settings) is None
