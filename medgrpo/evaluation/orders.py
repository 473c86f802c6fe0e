"""The same question with its options in other orders: a policy that knows the answer names the same option in each."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from medgrpo.answer import parse
from medgrpo.evaluation.sampled import Measure
from medgrpo.judge.choice import read_choice
from medgrpo.types import Example, OrderFigures

if TYPE_CHECKING:
    import pandas as pd

# Options that speak of other options mean something else in another place.
_REFERS = re.compile(
    r"\b(?:above|below|following|preceding)\b|\b(?:all|none|both|neither|any|either) of (?:these|them|the options)\b|"
    r"^\W*(?:all|none|both|neither)\W*$|"
    r"^\W*(?:both |only |options? )*\(?[a-j]\)?\W*(?:(?:,|and|&|or|\+)\W*\(?[a-j]\b)+",
    re.IGNORECASE,
)


def reorderings(examples: Sequence[Example], orders: int) -> dict[int, list[Example]]:
    """Place of each row that can be asked in other orders → the row in each of them, decided by its id.

    Args:
        orders: per row, its own among them; a row with few options has fewer.
    """
    found = {place: _reorder(example, orders) for place, example in enumerate(examples) if _is_movable(example)}
    return {place: others for place, others in found.items() if others}


def _is_movable(example: Example) -> bool:
    return example.kind == "choice" and not any(map(_REFERS.search, example.options.values()))


def _reorder(example: Example, orders: int) -> list[Example]:
    letters, texts = list(example.options), list(example.options.values())
    own = tuple(range(len(letters)))
    seen, rng = [own], Random(f"orders of {example.id}")
    while len(seen) < min(orders, math.factorial(len(letters))):
        order = tuple(rng.sample(own, len(own)))
        if order not in seen:
            seen.append(order)
    gold = letters.index(example.gold)
    return [
        example.model_copy(
            update={
                "options": {letter: texts[place] for letter, place in zip(letters, order, strict=True)},
                "gold": letters[order.index(gold)],
            }
        )
        for order in seen[1:]
    ]


def judge_orders(
    examples: Sequence[Example],
    greedy: Sequence[str],
    moved: Mapping[int, Sequence[Example]],
    completions: Sequence[str],
) -> "pd.DataFrame":
    """One line per row and order, the row's own order first.

    Args:
        greedy: the completions in the rows' own order, of all rows.
        moved: what `reorderings` gave.
        completions: of the moved rows, in their order.
    """
    import pandas as pd

    rest = iter(completions)
    lines = []
    for place, others in moved.items():
        asked = [(examples[place], greedy[place]), *((example, next(rest)) for example in others)]
        lines += [{"row": place, "order": order, **_judge(*one)} for order, one in enumerate(asked)]
    assert next(rest, None) is None, "a completion belongs to no order"
    return pd.DataFrame(lines)


def _judge(example: Example, completion: str) -> dict[str, Any]:
    parsed = parse(completion)
    letter = read_choice(parsed.answer, example) if parsed.is_strict and parsed.answer is not None else None
    return {
        "id": example.id,
        "gold": example.gold,
        "letter": letter or "",
        "option": example.options[letter] if letter else "",
        "correct": letter == example.gold,
        "completion": completion,
    }


def summarize_orders(table: "pd.DataFrame", orders: int, measure: Measure) -> OrderFigures:
    """All figures over the orders; rows are what is resampled.

    Completions outside the strict grammar name no option: they are wrong and unstable, and in no letter's share.
    """
    groups = [group for _, group in table.groupby("row", sort=True)]
    stable = [group["option"].nunique() == 1 and bool(group["letter"].iloc[0]) for group in groups]
    answered = [part for group in groups if len(part := group[group["letter"] != ""])]
    named, golds = (_shares(answered, column) for column in ("letter", "gold"))
    letters = sorted({*named, *golds})
    places = {letter: measure(named[letter]) for letter in letters}
    bias = [abs(places[letter].mean - measure(golds[letter]).mean) for letter in letters]
    return OrderFigures(
        orders=orders,
        rows=len(groups),
        accuracy=measure(float(group["correct"].mean()) for group in groups),
        stable=measure(map(float, stable)),
        places=places,
        position_bias=max(bias, default=0.0),
    )


def _shares(groups: Sequence["pd.DataFrame"], column: str) -> dict[str, list[float]]:
    """Letter → its share of each row's lines."""
    shares: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(groups))
    for place, group in enumerate(groups):
        for letter, share in group[column].value_counts(normalize=True).items():
            shares[str(letter)][place] = float(share)
    return shares
