"""Greedy completions: our loop and transformers' give the same texts, with and without an adapter."""

import pytest
import torch
from peft import get_peft_model

from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.generation import Completer
from medgrpo.policy import Policy, load_base, lora_settings
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

MAX_TOKENS = 24


@pytest.fixture(scope="module", params=["base", "adapter"])
def policy(request: pytest.FixtureRequest, base: BaseRef, config: Config) -> Policy:
    plain = load_base(base.folder)
    if request.param == "base":
        return plain
    model = get_peft_model(plain.model, lora_settings(config.policy.lora)).eval()
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    return Policy(model, plain.tokenizer)


@pytest.fixture(scope="module")
def prompts(base: BaseRef, dataset: DatasetRef, settings: Settings) -> list[list[int]]:
    tokenizer = load_base(base.folder).tokenizer
    questions = [example.question for example in read_split(dataset, "test", settings)]
    return [tokenizer(question)["input_ids"] for question in questions]


def test_both_loops_give_the_same_texts(policy: Policy, prompts: list[list[int]]) -> None:
    completer = Completer(policy, MAX_TOKENS)
    assert completer._decoding is not None
    ours = completer.complete(prompts)
    completer._decoding = None
    assert ours == completer.complete(prompts)
    assert len(set(ours)) > 1


def test_neighbours_do_not_change_a_completion(policy: Policy, prompts: list[list[int]]) -> None:
    completer = Completer(policy, MAX_TOKENS)
    assert [completer.complete([prompt])[0] for prompt in prompts] == completer.complete(prompts)


def test_a_model_with_other_attention_is_left_to_transformers(base: BaseRef, prompts: list[list[int]]) -> None:
    expected = Completer(load_base(base.folder), MAX_TOKENS).complete(prompts)
    policy = load_base(base.folder)
    policy.model.set_attn_implementation("eager")
    completer = Completer(policy, MAX_TOKENS)
    assert completer._decoding is None
    assert completer.complete(prompts) == expected


def test_a_base_that_asks_for_a_penalty_gets_it(base: BaseRef, prompts: list[list[int]]) -> None:
    policy = load_base(base.folder)
    plain = Completer(policy, MAX_TOKENS).complete(prompts)
    policy.model.generation_config.repetition_penalty = 1.5
    completer = Completer(policy, MAX_TOKENS)
    assert completer._decoding is None, "our loop knows no penalties, so transformers' is taken"
    assert completer.complete(prompts) != plain
