"""How a dataset's lengths and labels are spread: counted per split, and laid out as bars for the data report's page."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from medgrpo.types import Frozen, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 20
"""About as many bins as a histogram has."""
TOP = 15
"""Labels that a tally names; the rest is counted together."""
WIDTH, HEIGHT = 340, 46
"""Size of one split's panel, in the units of the page's SVG."""
TAIL_GAP = 8
"""Space before the tail's bin, which isn't to the scale of the others."""
LABEL_WIDTH = 44
"""Space that one label of the axis needs."""


class Histogram(Frozen):
    """How one length is spread. Bin i counts the rows with edges[i] ≤ length < edges[i + 1]."""

    unit: str
    edges: tuple[int, ...]
    has_tail: bool
    """Whether the last bin is wider than the others: it takes the longest 1 %, at most."""
    counts: dict[Split, tuple[int, ...]]
    smallest: int
    median: int
    percentile_95: int
    largest: int


class Tally(Frozen):
    """How often each label occurs: counts[split][i] rows have labels[i]."""

    labels: tuple[str, ...]
    counts: dict[Split, tuple[int, ...]]


class Bar(NamedTuple):
    """One bin's rectangle within its panel, and its figures as words."""

    x: float
    y: float
    width: float
    height: float
    label: str


class Tick(NamedTuple):
    """A label of the axis, and which point of it stands at `x`."""

    x: float
    label: str
    anchor: Literal["start", "middle", "end"]


def histogram(values: "Mapping[Split, NDArray[np.int64]]", unit: str) -> Histogram:
    """Count whole numbers in bins that all splits share."""
    import numpy as np

    everything = np.concatenate(list(values.values()))
    if not everything.size:
        everything = np.zeros(1, dtype=np.int64)  # a dataset without rows has a page too
    edges, has_tail = _edges(everything)
    levels = [int(level) for level in np.quantile(everything, [0, 0.5, 0.95, 1], method="inverted_cdf")]
    return Histogram(
        unit=unit,
        edges=tuple(edges),
        has_tail=has_tail,
        counts={split: tuple(np.histogram(found, edges)[0].tolist()) for split, found in values.items()},
        smallest=levels[0],
        median=levels[1],
        percentile_95=levels[2],
        largest=levels[3],
    )


def _edges(values: "NDArray[np.int64]") -> tuple[list[int], bool]:
    """Round bin edges over all but the longest 1 %, which would squeeze the rest: a last, wider bin takes them."""
    import numpy as np

    low, high, largest = (int(level) for level in np.quantile(values, [0, 0.99, 1], method="inverted_cdf"))
    step = _round_step((high - low) / BINS)
    edges = list(range(low // step * step, high + step + 1, step))
    if edges[-2] > high:  # the last bin would be empty
        edges.pop()
    return ([*edges, largest + 1], True) if largest >= edges[-1] else (edges, False)


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that isn't below `least`."""
    power = 1
    while power * 10 < least:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def tally(labels: Mapping[Split, Sequence[str]], *, rest: str = "other labels") -> Tally:
    """Count labels, the most frequent first; `rest` names the ones beyond the first 15."""
    counts = {split: Counter(found) for split, found in labels.items()}
    total = sum(counts.values(), Counter[str]())
    order = sorted(total, key=lambda label: (-total[label], label))
    named, others = order[:TOP], order[TOP:]
    rows = [[label] for label in named] + ([others] if others else [])
    return Tally(
        labels=(*named, *([f"{len(others)} {rest}"] if others else [])),
        counts={split: tuple(sum(found[label] for label in row) for row in rows) for split, found in counts.items()},
    )


def in_order(found: Tally) -> Tally:
    """The same tally with its labels in the order of numbers and letters, where that says more than frequency."""
    places = sorted(range(len(found.labels)), key=lambda place: (len(found.labels[place]), found.labels[place]))
    return Tally(
        labels=tuple(found.labels[place] for place in places),
        counts={split: tuple(counts[place] for place in places) for split, counts in found.counts.items()},
    )


def renamed(found: Tally, names: Iterable[str]) -> Tally:
    """The same tally under other labels; what has one label then is counted as one."""
    names = list(names)
    labels = tuple(dict.fromkeys(names))
    return Tally(
        labels=labels,
        counts={
            split: tuple(sum(n for n, name in zip(counts, names, strict=True) if name == label) for label in labels)
            for split, counts in found.counts.items()
        },
    )


def share(count: int, total: int) -> str:
    """A share in percent as words."""
    return f"{100 * count / total:.1f} %" if total else "–"


def bars(shown: Histogram, split: Split) -> list[Bar]:
    """One split's bars. Heights are shares of the split's rows, to one scale for all splits, so that they compare."""
    counts = shown.counts[split]
    scale = HEIGHT / (max(_share(n, of) for of in shown.counts.values() for n in of) or 1)
    found = []
    for place, count in enumerate(counts):
        height = _share(count, counts) * scale
        width = _bin_width(shown) - 1
        label = f"{bin_name(shown, place)} {shown.unit}: {count:,} rows, {share(count, sum(counts))}"
        found.append(Bar(_left(shown, place), round(HEIGHT - height, 2), round(width, 2), round(height, 2), label))
    return found


def bar_length(shown: Tally, split: Split, place: int) -> float:
    """Length of a label's bar in percent of the tally's longest one; lengths are shares of the split's rows."""
    longest = max(_share(count, counts) for counts in shown.counts.values() for count in counts)
    return round(100 * _share(shown.counts[split][place], shown.counts[split]) / (longest or 1), 1)


def ticks(shown: Histogram) -> list[Tick]:
    """The axis' labels, as many as fit: below the middle of a bin that holds one length, else where a bin begins."""
    regular = len(shown.edges) - 1 - shown.has_tail
    every = max(1, -(-LABEL_WIDTH * regular // WIDTH))
    shift = _bin_width(shown) / 2 if shown.edges[1] - shown.edges[0] == 1 else 0.0
    found = [
        Tick(round(_left(shown, place) + shift, 2), f"{shown.edges[place]:,}", "middle" if place or shift else "start")
        for place in range(0, regular, every)
    ]
    if not shown.has_tail:
        return found
    # The tail's label ends with its bin, so it needs its own width and half of its neighbour's.
    return [
        *(tick for tick in found if tick.x < WIDTH - 1.5 * LABEL_WIDTH),
        Tick(WIDTH, f"≥ {shown.edges[-2]:,}", "end"),
    ]


def bin_name(shown: Histogram, place: int) -> str:
    """A bin as words: its lowest and highest length."""
    low, high = shown.edges[place], shown.edges[place + 1] - 1
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _share(count: int, counts: Sequence[int]) -> float:
    return count / max(1, sum(counts))


def _bin_width(shown: Histogram) -> float:
    return (WIDTH - TAIL_GAP * shown.has_tail) / (len(shown.edges) - 1)


def _left(shown: Histogram, place: int) -> float:
    """Where a bin begins; the tail stands apart."""
    is_tail = shown.has_tail and place == len(shown.edges) - 2
    return round(place * _bin_width(shown) + TAIL_GAP * is_tail, 2)
