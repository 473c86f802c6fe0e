"""Completions: our loop and transformers' give the same texts, with and without an adapter."""

from typing import Any

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


class Stock(Completer):
    """Leaves everything to transformers."""

    def _decoding(self, generation: Any) -> None:
        return None


def is_ours(completer: Completer) -> bool:
    return completer._decoding(completer._at(0.0)) is not None


def test_both_loops_give_the_same_texts(policy: Policy, prompts: list[list[int]]) -> None:
    completer = Completer(policy, MAX_TOKENS)
    assert is_ours(completer)
    ours = completer.complete(prompts)
    assert ours == Stock(policy, MAX_TOKENS).complete(prompts)
    assert len(set(ours)) > 1


def test_neighbours_do_not_change_a_completion(policy: Policy, prompts: list[list[int]]) -> None:
    completer = Completer(policy, MAX_TOKENS)
    assert [completer.complete([prompt])[0] for prompt in prompts] == completer.complete(prompts)


def test_a_model_with_other_attention_is_left_to_transformers(base: BaseRef, prompts: list[list[int]]) -> None:
    expected = Completer(load_base(base.folder), MAX_TOKENS).complete(prompts)
    policy = load_base(base.folder)
    policy.model.set_attn_implementation("eager")
    completer = Completer(policy, MAX_TOKENS)
    assert not is_ours(completer)
    assert completer.complete(prompts) == expected


def test_a_base_that_asks_for_a_penalty_gets_it(base: BaseRef, prompts: list[list[int]]) -> None:
    policy = load_base(base.folder)
    plain = Completer(policy, MAX_TOKENS).complete(prompts)
    policy.model.generation_config.repetition_penalty = 1.5
    completer = Completer(policy, MAX_TOKENS)
    assert not is_ours(completer), "our loop knows no penalties, so transformers' is taken"
    assert completer.complete(prompts) != plain


@pytest.mark.parametrize("kind", [Completer, Stock])
def test_a_seed_decides_what_is_sampled_and_touches_nothing_else(
    kind: type[Completer], policy: Policy, prompts: list[list[int]]
) -> None:
    completer = kind(policy, MAX_TOKENS)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = completer.complete(prompts, 2.0, seed=7)
    assert torch.equal(torch.rand(3), expected), "other random numbers go on as if nothing had been sampled"
    assert completer.complete(prompts, 2.0, seed=7) == first
    assert completer.complete(prompts, 2.0, seed=8) != first
    assert completer.complete(prompts, 1e-4, seed=8) == completer.complete(prompts), (
        "a cold draw is the likeliest token"
    )


def test_sampling_draws_from_the_whole_vocabulary_whatever_the_base_asks_for(
    base: BaseRef, prompts: list[list[int]]
) -> None:
    policy = load_base(base.folder)
    free = Completer(policy, MAX_TOKENS).complete(prompts, 2.0)
    policy.model.generation_config.update(top_k=1, top_p=0.01, min_p=0.9)
    completer = Completer(policy, MAX_TOKENS)
    assert completer.complete(prompts, 2.0) == free
    stock = Stock(policy, MAX_TOKENS)
    assert stock.complete(prompts, 2.0) != stock.complete(prompts)


def test_the_same_prompt_may_be_asked_many_times(policy: Policy, prompts: list[list[int]]) -> None:
    texts = Completer(policy, MAX_TOKENS).complete([prompts[0]] * 8, 2.0)
    assert len(set(texts)) > 1
