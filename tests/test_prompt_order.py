"""The order of prompts: TRL's own, in any epoch, whichever epoch a process begins in."""

from types import SimpleNamespace

import pytest
from trl.trainer.utils import RepeatSampler

from medgrpo.grpo.prompt_order import PromptOrder, ends_block, steps_to_block_end

ROWS = range(11)
SHAPE = {"mini_repeat_count": 2, "batch_size": 3, "repeat_count": 4}


def order(epoch: int, seed: int = 7, *, shuffle: bool = True) -> list[int]:
    return list(PromptOrder(ROWS, **SHAPE, shuffle=shuffle, seed=seed, epoch=lambda: epoch))


def test_every_epoch_has_the_order_that_trl_gives_it() -> None:
    stock = RepeatSampler(ROWS, **SHAPE, seed=7)
    for epoch in range(4):
        assert order(epoch) == list(stock)


def test_the_order_depends_on_epoch_and_seed_alone() -> None:
    sampler = PromptOrder(ROWS, **SHAPE, shuffle=True, seed=7, epoch=lambda: 2)
    assert list(sampler) == list(sampler) == order(2)
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_rows_that_fill_no_batch_change_from_epoch_to_epoch() -> None:
    left_out = [set(ROWS) - set(order(epoch)) for epoch in range(6)]
    assert {len(rows) for rows in left_out} == {2}
    assert len({frozenset(rows) for rows in left_out}) > 1


def test_prompts_are_repeated_in_groups_and_blocks() -> None:
    one = order(1)
    assert len(one) == len(PromptOrder(ROWS, **SHAPE, shuffle=True, seed=7, epoch=lambda: 1))
    assert one[:6] * 4 == one[:24]
    assert one[0:6:2] == one[1:6:2]


def test_without_shuffling_rows_come_as_they_are() -> None:
    assert order(3, shuffle=False)[:6] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("iterations", "parts", "per_generation", "ends"),
    [(1, 1, 1, [1, 2, 3, 4]), (2, 1, 1, [2, 4]), (3, 2, 2, [3]), (1, 1, 4, [4]), (1, 2, 4, [2, 4])],
)
def test_blocks_end_where_completions_are_used_up(
    iterations: int, parts: int, per_generation: int, ends: list[int]
) -> None:
    args = SimpleNamespace(
        num_iterations=iterations, gradient_accumulation_steps=parts, steps_per_generation=per_generation
    )
    assert [step for step in range(1, 5) if ends_block(args, step)] == ends
    assert all(ends_block(args, step + steps_to_block_end(args, step)) for step in range(1, 9))
