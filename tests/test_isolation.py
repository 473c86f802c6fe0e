"""What is drawn inside of the block is not missed afterwards."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from medgrpo.grpo.isolation import unseen_draws

DRAWS: dict[str, Callable[[], float]] = {
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),
    "torch": lambda: float(torch.rand(())),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_go_on_as_if_nothing_had_been_drawn(draw: Callable[[], float]) -> None:
    with unseen_draws():
        first, second = draw(), draw()
    assert first != second
    with pytest.raises(ValueError, match="evaluation failed"), unseen_draws():
        draw()
        raise ValueError("evaluation failed")
    assert (draw(), draw()) == (first, second)
