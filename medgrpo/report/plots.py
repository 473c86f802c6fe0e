"""The plots of a report: matplotlib figures, and how they become SVG inside of a page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medgrpo.types import Interval

COLOURS = {"#2b6cb0": "blue", "#b7601a": "orange", "#2a7f62": "green"}
INK, LINE = "#57606a", "#dde1e5"
VARIABLES = COLOURS | {INK: "quiet", LINE: "line"}
"""Colour that matplotlib draws with → the page's variable, which is another one in the dark."""
ROW_HEIGHT = 0.32
"""Inches per row of an interval plot."""

Rows = Mapping[str, Sequence[tuple[str, Interval]]]
"""Row → the intervals on it, each with the name of its series."""


def draw_curves(curves: Mapping[str, Mapping[int, float]], title: str = "") -> Any:
    """Rewards against steps."""
    figure, axes = _axes(7, 4 if title else 3)
    for colour, (label, points) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(list(points), list(points.values()), marker=".", label=label, color=colour)
    axes.set(xlabel="step", ylabel="mean over the step's completions", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=LINE)
    if curves:
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_intervals(rows: Rows, xlabel: str, *, is_difference: bool = False) -> Any:
    """Estimates as dots on their intervals, a row per figure and a colour per series.

    Args:
        is_difference: whether zero is the place to look at; else the axis is that of a share.
    """
    figure, axes = _axes(7, 0.8 + ROW_HEIGHT * sum(max(len(marks), 1.4) for marks in rows.values()))
    names = list(dict.fromkeys(name for marks in rows.values() for name, _ in marks))
    for place, marks in enumerate(rows.values()):
        for nth, (name, mark) in enumerate(marks):
            y = place + (nth - (len(marks) - 1) / 2) * 0.28
            colour = list(COLOURS)[names.index(name) % len(COLOURS)]
            axes.plot([mark.low, mark.high], [y, y], color=colour, linewidth=2, label=f"_{name}")
            axes.plot([mark.mean], [y], marker="os^"[names.index(name) % 3], color=colour, linestyle="", label=name)
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(xlabel)
    if is_difference:
        axes.axvline(0, color=INK, linewidth=1)
    else:
        axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color=LINE)
    if len(names) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            *zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True),
            loc="outside upper left",
            ncols=len(names),
            frameon=False,
            labelcolor=INK,
        )
    return figure


def inline(figure: Any, name: str, label: str) -> str:
    """A figure as an SVG element that may stand in a page: it loads nothing, and follows the page's colours.

    Args:
        name: of this plot in its page: elements' names are made of it, so that plots don't use each other's.
        label: what the plot shows, for those who can't see it.
    """
    import matplotlib
    from markupsafe import escape

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = written.getvalue()
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _short(text: str) -> str:
    """A row's name as it fits beside a plot; matplotlib would read dollars as formulas."""
    text = " ".join(text.split())
    return (text if len(text) <= 40 else f"{text[:39]}…").replace("$", r"\$")


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=INK)
    axes.tick_params(colors=INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    return figure, axes
