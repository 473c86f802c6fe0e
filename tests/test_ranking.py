"""Ranking accuracy: what is counted, and what the content rewards reach on real rows."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from medgrpo.audit.ranking import Pair, make_pairs, misranked, rank
from medgrpo.data import PresetSource
from medgrpo.judge import is_correct
from medgrpo.rewards import CorrectReward, Reward, SemanticReward
from medgrpo.rewards.scoring import RewardSet
from medgrpo.rewards.semantic import load_encoder
from medgrpo.types import Example, Rollout

SETS = {
    "medqa-4": "medqa/dev_4options.jsonl",
    "medmcqa": "medmcqa/dev_first2000.jsonl",
    "mmlu-anatomy": "mmlu/anatomy_test.csv",
    "mmlu-clinical-knowledge": "mmlu/clinical_knowledge_test.csv",
    "medcalc": "medcalc/one_shot_55.csv",
    "medical-o1-verifiable-problem": "huatuo/demo_198.json",
}
CHOICE = Example(
    id="c", kind="choice", question="Which?", gold="B", options={"A": "right lung", "B": "left lung", "C": "both"}
)


@cache
def pairs(shared_data: Path) -> dict[str, list[Pair]]:
    rows = [
        row.model_copy(update={"id": f"{name}/{place}"})
        for name, path in SETS.items()
        for place, row in enumerate(PresetSource(name=name, path=str(shared_data / path)).load(0))  # type: ignore[arg-type]
    ]
    return make_pairs(rows, most=100)


def test_pairs_of_a_choice() -> None:
    found = make_pairs([CHOICE])
    assert {(pair.right, pair.wrong) for pair in found["choice: another letter"]} == {("B", "A"), ("B", "C")}
    texts = {(pair.right, pair.wrong) for pair in found["choice: another option's text"]}
    assert texts == {("left lung", "right lung"), ("left lung", "both")}
    [side] = found["text: side"]
    assert (side.example.kind, side.example.gold, side.wrong) == ("text", "left lung", "right lung")
    assert "left lung" in side.right


def test_pairs_are_bounded_and_the_same_each_time() -> None:
    rows = [CHOICE.model_copy(update={"id": str(place)}) for place in range(300)]
    found = make_pairs(rows, most=50)
    other = make_pairs(list(reversed(rows)), most=50)
    assert [pair[2:] for pair in found["text: negation"]] == [pair[2:] for pair in other["text: negation"]]
    assert found["choice: another letter"] == other["choice: another letter"]
    assert len(found["choice: another letter"]) == 50
    assert len({pair.example.id for pair in found["choice: another letter"]}) > 30, "spread over the rows"
    assert len(found["text: side"]) == 1, "the same text in many rows is one pair"
    assert len(make_pairs(rows, most=1000)["choice: another letter"]) == 600


def test_an_alias_is_no_wrong_answer() -> None:
    row = Example(id="t", kind="text", question="?", gold="left lung", aliases=("right lung",))
    assert "text: side" not in make_pairs([row])


class Knows(Reward):
    kind: Literal["knows"] = "knows"
    right: tuple[str, ...]

    def score(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(r.answer in self.right) for r in rollouts]


def test_a_tie_counts_against_the_rewards() -> None:
    found = [Pair("family", CHOICE, "B", wrong) for wrong in "ACAC"]
    [right] = rank(RewardSet([Knows(right=("B",))]), {"family": found}, None)
    assert (right.family, right.pairs, right.accuracy.mean, right.accuracy.high) == ("family", 4, 1.0, 1.0)
    assert right.accuracy.low == pytest.approx(4 / (4 + 1.959964**2))  # Wilson: n / (n + z²)
    assert right.plain is None
    [tied] = rank(RewardSet([Knows(right=("A", "B"))]), {"family": found}, None)
    assert tied.accuracy.mean == 0.5
    assert [pair.wrong for pair in misranked(RewardSet([Knows(right=("A", "B"))]), found)] == ["A", "A"]
    [wrong] = rank(RewardSet([Knows(right=())]), {"family": found}, None)
    assert wrong.accuracy.mean == 0.0


def test_plain_similarity_is_the_cosine_of_answer_and_gold() -> None:
    vectors = {"left lung": [1.0, 0.0], "right lung": [0.6, 0.8], "both": [1.0, 0.0]}
    found = [Pair("family", CHOICE, "left lung", wrong) for wrong in ("right lung", "both")]

    def encode(texts: Sequence[str]) -> Any:
        return np.array([vectors[text] for text in texts])

    [row] = rank(RewardSet([CorrectReward()]), {"family": found}, encode)
    assert row.accuracy.mean == 1.0
    assert row.plain is not None and row.plain.mean == 0.5


def test_wrong_sides_of_real_pairs_are_wrong(shared_data: Path) -> None:
    for family, found in pairs(shared_data).items():
        said_right = [pair for pair in found if is_correct(pair.wrong, pair.example)]
        assert not said_right, (family, said_right[:5])


CLOSED = ("choice", "numeric", "date")
PERTURBED = ("text: negation", "text: number", "text: unit", "text: side")


def test_the_content_rewards_rank_real_pairs_rightly(shared_data: Path) -> None:
    encoder = load_encoder(SemanticReward().encoder)

    def encode(texts: Sequence[str]) -> Any:
        return encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    asked = RewardSet([CorrectReward(), SemanticReward(weight=0.2)])
    rows = {row.family: row for row in rank(asked, pairs(shared_data), encode)}
    assert {"choice: another letter", "numeric: off by ten", "text: opposite", "text: drug", *PERTURBED} <= set(rows)
    assert all(row.pairs == 100 for family, row in rows.items() if family.startswith(("choice", "text")))
    for family, row in rows.items():
        if family.startswith(CLOSED):
            assert row.accuracy.mean == 1.0, (family, misranked(asked, pairs(shared_data)[family])[:5])
        if family in PERTURBED:
            wrong = [(pair.right, pair.wrong) for pair in misranked(asked, pairs(shared_data)[family])]
            assert row.accuracy.mean >= 0.99, (family, row.accuracy, wrong)
    plain = rows["text: negation"].plain
    assert plain is not None and plain.mean < 0.9, "what plain similarity doesn't see"
