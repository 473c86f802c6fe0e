"""The difficulty ledger: what each visit of a question found, and how the questions divide."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.grpo.ledger import Ledger, Shares, draw_shares
from medgrpo.grpo.rollouts import collect, write_step

rows_of_steps = st.lists(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=8), min_size=1, max_size=6
)


def _rows(pairs: list[tuple[str, bool]]) -> pd.DataFrame:
    return pd.DataFrame({"example": [name for name, _ in pairs], "correct": [right for _, right in pairs]})


def _ledger() -> Ledger:
    ledger = Ledger()
    ledger.add(1, list("aaaabbbb"), [True] * 4 + [True, False, False, False])
    ledger.add(2, list("cccc"), [False] * 4)
    ledger.add(3, list("aaaa"), [True, True, False, False])
    return ledger


def test_each_visit_of_a_question_is_a_row() -> None:
    table = _ledger().table()
    assert table[["example", "visit", "step", "completions", "right", "pass_rate"]].values.tolist() == [
        ["a", 1, 1, 4, 4, 1.0],
        ["a", 2, 3, 4, 2, 0.5],
        ["b", 1, 1, 4, 1, 0.25],
        ["c", 1, 2, 4, 0, 0.0],
    ]


@pytest.mark.parametrize(("example", "settled"), [("a", False), ("b", False), ("c", True), ("never asked", False)])
def test_the_newest_visit_tells_whether_a_question_is_settled(example: str, settled: bool) -> None:
    assert _ledger().is_settled(example) == settled


def test_shares_count_each_question_by_its_newest_visit() -> None:
    assert _ledger().shares() == [Shares(1, 0.5, 0.5, 0.0), Shares(2, 1 / 3, 1 / 3, 1 / 3), Shares(3, 0, 2 / 3, 1 / 3)]


@given(rows_of_steps)
def test_shares_add_up_and_visits_count_every_completion(steps: list[list[tuple[str, bool]]]) -> None:
    ledger = Ledger()
    for step, pairs in enumerate(steps, 1):
        ledger.add(step, [name for name, _ in pairs], [right for _, right in pairs])
    for shares in ledger.shares():
        assert sum(shares[1:]) == pytest.approx(1)
    table = ledger.table()
    assert table["completions"].sum() == sum(map(len, steps))
    assert table["right"].sum() == sum(right for pairs in steps for _, right in pairs)
    assert table["pass_rate"].between(0, 1).all()


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_ledger_from_disk_is_that_of_the_training_up_to_a_step(tmp_path: Path, cut: int) -> None:
    """Steps after the checkpoint were made, too, before the training was killed: they don't count."""
    steps = {1: [("a", True), ("a", True)], 2: [("b", True), ("b", False)], 3: [("a", False), ("a", False)]}
    ledger = Ledger()
    for step, pairs in steps.items():
        write_step(tmp_path, step, _rows(pairs))
        if step <= cut:
            ledger.add(step, [name for name, _ in pairs], [right for _, right in pairs])
    read = Ledger.of(collect(tmp_path, cut))
    assert read.shares() == ledger.shares()
    assert read.table().equals(ledger.table())
    assert [read.is_settled(name) for name in "ab"] == [ledger.is_settled(name) for name in "ab"]


def test_a_step_that_is_made_again_counts_once(tmp_path: Path) -> None:
    write_step(tmp_path, 1, _rows([("a", True), ("a", True)]))
    write_step(tmp_path, 1, _rows([("a", True), ("a", False)]))
    assert Ledger.of(collect(tmp_path)).table()["right"].tolist() == [1]


def test_a_ledger_without_visits_is_an_empty_table(tmp_path: Path) -> None:
    assert Ledger.of(collect(tmp_path)).table().empty


def test_shares_are_drawn(tmp_path: Path) -> None:
    draw_shares(_ledger(), tmp_path / "shares.png")
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
