"""The page about one comparison: a challenger against the incumbent, with all figures, plots and differing rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medgrpo.config import Config, EvaluationConfig
from medgrpo.data.patient_data import mask
from medgrpo.errors import NotFoundError
from medgrpo.evaluation import read_rows
from medgrpo.fingerprint import write_whole
from medgrpo.gate.evidence import Comparison, compare
from medgrpo.page import load_template
from medgrpo.report.curve import read_curves
from medgrpo.report.summary import Findings
from medgrpo.settings import Settings
from medgrpo.statistics import paired_difference
from medgrpo.tracking import log_files
from medgrpo.types import Decision, EvalReport, Interval

if TYPE_CHECKING:
    import pandas as pd

    from medgrpo.stages import Stages

TEMPLATE = "report/evaluation.html.j2"
PAGE, RECORD = "evaluation.html", "findings.json"
SHOWN_ROWS = 100
"""Differing rows that a page shows of each set."""
FIGURES = {
    "accuracy": "right answers in the strict grammar; this decides",
    "lenient accuracy": "the same with format faults forgiven",
    "format rate": "completions in the strict grammar",
    "refusal rate": "completions that decline to answer",
    "tokens": "length of a completion",
}
COLUMNS = {
    "accuracy": "correct",
    "lenient accuracy": "lenient",
    "format rate": "strict",
    "refusal rate": "refused",
    "tokens": "completion_tokens",
}
"""Figure → column of the per-row table that it is the mean of."""


class Line(NamedTuple):
    """One figure of both policies."""

    name: str
    incumbent: Interval | None
    challenger: Interval
    difference: Interval | None = None
    """Challenger minus incumbent, paired by row; None where it isn't made."""
    meaning: str = ""


class DifferingRow(NamedTuple):
    """A row that exactly one of the two has right; patient data masked."""

    id: str
    topic: str
    question: str
    gold: str
    won: bool
    """Whether it is the challenger."""
    incumbent: str
    """Its completion."""
    challenger: str
    """Its completion."""


class Section(NamedTuple):
    """What the page says of both policies on one set of rows."""

    name: str
    rows: int
    figures: tuple[Line, ...]
    topics: tuple[Line, ...]
    slices: tuple[Line, ...]
    more: tuple[Line, ...]
    """Of several sampled completions, and of several orders of the options."""
    paired: Comparison
    differing: tuple[DifferingRow, ...]
    """The first of them, lost rows first."""


def write_page(config: Config, findings: Findings, settings: Settings) -> Path:
    """Write the page of a comparison and what it was made of, and store both in the run: the same bytes each time.

    Raises:
        NotFoundError: the rows behind a report are not on this disk.
    """
    folder = page_folder(findings.decision, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECORD, Findings.model_validate(dict(_fields(findings))).model_dump_json(indent=1))
    write_whole(folder / PAGE, render_page(config, findings, settings))
    log_files(findings.run.run_id, [folder / PAGE, folder / RECORD], f"report/{folder.name}", settings)
    return folder / PAGE


def _fields(findings: Findings) -> list[tuple[str, Any]]:
    """Without what a subclass has more."""
    return [(name, getattr(findings, name)) for name in Findings.model_fields]


def page_folder(decision: Decision, settings: Settings) -> Path:
    """Where the page of a comparison lies."""
    return settings.evaluation(decision.challenger) / f"against-{decision.incumbent[:8]}"


def read_findings(decision: Decision, settings: Settings) -> Findings | None:
    """What a decision's page was made of, or None where none was written on this disk."""
    path = page_folder(decision, settings) / RECORD
    return Findings.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def gather_findings(stages: "Stages") -> Findings:
    """What the gate has decided on, or decides now, about a config's best checkpoint. Nothing is moved.

    Raises:
        NotFoundError: the decision was made with reports that are not on this disk.
    """
    proposal = stages.proposal
    if stored := read_findings(proposal.decision, stages.settings):
        return stored
    challenger, incumbent = stages.compared()
    if (challenger.key, incumbent.key) != (proposal.decision.challenger, proposal.decision.incumbent):
        version = proposal.version
        raise NotFoundError(
            f"the decision about {version.name} version {version.version} was made on another machine or by another "
            f"version of medgrpo: its page is among the artifacts of the MLflow run {version.run_id}, under report/"
        )
    base, *checkpoints = stages.reports("validation")
    return Findings(
        run=stages.run,
        base=base,
        checkpoints=tuple(checkpoints),
        incumbent=incumbent,
        challenger=challenger,
        benchmarks=tuple(stages.compared(name) for name in stages.dataset.benchmarks),
        version=proposal.version,
        decision=proposal.decision,
    )


def render_page(config: Config, findings: Findings, settings: Settings) -> str:
    """The page as HTML: it loads nothing from elsewhere, and escapes and masks what comes from the data."""
    pairs = ((findings.challenger, findings.incumbent), *findings.benchmarks)
    sections = [make_section(*pair, config.evaluation, settings) for pair in pairs]
    page = load_template(TEMPLATE).render(
        config=config,
        findings=findings,
        sections=sections,
        reports=[report for pair in pairs for report in pair],
        plots=_plots(sections, findings, read_curves(findings.run, settings)),
        SHOWN_ROWS=SHOWN_ROWS,
    )
    return f"{page}\n"


def make_section(
    challenger: EvalReport, incumbent: EvalReport, evaluation: EvaluationConfig, settings: Settings
) -> Section:
    """Put two reports on the same rows side by side.

    Raises:
        ValueError: they are not about the same rows.
    """
    if challenger.rows_digest != incumbent.rows_digest:
        raise ValueError(f"the two reports on {challenger.rows_name} are not about the same rows")
    tables = read_rows(challenger, settings), read_rows(incumbent, settings)
    return Section(
        name=challenger.rows_name,
        rows=challenger.rows,
        figures=tuple(_figure_lines(challenger, incumbent, tables, evaluation)),
        topics=_lines(challenger.topics, incumbent.topics),
        slices=_lines(challenger.slices, incumbent.slices),
        more=_lines(_more(challenger), _more(incumbent)),
        paired=compare(challenger, incumbent, evaluation),
        differing=tuple(_differing(*tables)[:SHOWN_ROWS]),
    )


def _figure_lines(
    challenger: EvalReport,
    incumbent: EvalReport,
    tables: "tuple[pd.DataFrame, pd.DataFrame]",
    evaluation: EvaluationConfig,
) -> list[Line]:
    def difference(name: str) -> Interval:
        ours, theirs = (table[COLUMNS[name]].tolist() for table in tables)
        return paired_difference(ours, theirs, evaluation.confidence, evaluation.resamples)

    ours, theirs = figures(challenger), figures(incumbent)
    return [Line(name, theirs[name], ours[name], difference(name), meaning) for name, meaning in FIGURES.items()]


def figures(report: EvalReport) -> dict[str, Interval]:
    """The figures of a report that every evaluation has."""
    return {
        "accuracy": report.accuracy,
        "lenient accuracy": report.lenient_accuracy,
        "format rate": report.format_rate,
        "refusal rate": report.refusal_rate,
        "tokens": report.completion_tokens,
    }


def _more(report: EvalReport) -> dict[str, Interval]:
    """Figures that only some evaluations have."""
    more: dict[str, Interval] = {}
    if sampled := report.sampled:
        more[f"accuracy of {sampled.samples} sampled completions"] = sampled.accuracy
        more |= {f"pass@{n}": share for n, share in sampled.pass_at.items()}
        more[f"maj@{sampled.samples}"] = sampled.majority
        more["agreement"] = sampled.agreement
        more["calibration error of agreement"] = _point(sampled.calibration_error)
    if orders := report.orders:
        more[f"accuracy over {orders.orders} orders of the options ({orders.rows} rows)"] = orders.accuracy
        more["the same option in every order"] = orders.stable
        more |= {f"answers that name {letter}": share for letter, share in orders.places.items()}
        more["position bias"] = _point(orders.position_bias)
    return more


def _point(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)


def _lines(challenger: Mapping[str, Interval], incumbent: Mapping[str, Interval]) -> tuple[Line, ...]:
    return tuple(Line(name, incumbent.get(name), share) for name, share in challenger.items())


def _differing(challenger: "pd.DataFrame", incumbent: "pd.DataFrame") -> list[DifferingRow]:
    """The rows that exactly one has right: first those that the challenger loses."""
    joined = challenger.merge(incumbent, on="id", suffixes=("", "_incumbent"), validate="one_to_one")
    joined = joined[joined["correct"] != joined["correct_incumbent"]].sort_values("correct", kind="stable")
    return [
        DifferingRow(
            id=mask(row["id"]),
            topic=mask(row["topic"]),
            question=mask(row["question"]),
            gold=mask(row["gold"]),
            won=bool(row["correct"]),
            incumbent=mask(row["completion_incumbent"]),
            challenger=mask(row["completion"]),
        )
        for row in joined.head(SHOWN_ROWS).to_dict("records")
    ]


def _plots(sections: Sequence[Section], findings: Findings, curves: Mapping[str, Mapping[int, float]]) -> Any:
    """Name → SVG; only of what there is."""
    from medgrpo.report.plots import draw_curves, draw_intervals, inline

    first, chosen = sections[0], findings.challenger.checkpoint
    differences = {f"{one.name} ({one.rows} rows)": [("accuracy", one.paired.difference)] for one in sections}
    validation = {
        report.checkpoint.label + " (chosen)" * (report.checkpoint == chosen): [
            ("accuracy", report.accuracy),
            ("format rate", report.format_rate),
        ]
        for report in (findings.base, *findings.checkpoints)
    }
    drawn = {
        "figures": ("Figures on the test rows", draw_intervals(_pairs(first.figures[:-1]), "share of the rows")),
        "differences": (
            "Paired differences in accuracy",
            draw_intervals(differences, "challenger minus incumbent", is_difference=True),
        ),
        "validation": ("Checkpoints on the validation rows", draw_intervals(validation, "share of the rows")),
    }
    if curves:
        drawn["rewards"] = ("Rewards during training", draw_curves(curves))
    for name in ("topics", "slices"):
        if lines := getattr(first, name):
            drawn[name] = (f"Accuracy by {name[:-1]}", draw_intervals(_pairs(lines), "accuracy"))
    return {name: inline(figure, name, label) for name, (label, figure) in drawn.items()}


def _pairs(lines: Sequence[Line]) -> dict[str, list[tuple[str, Interval]]]:
    return {
        line.name: [(who, mark) for who, mark in zip(("incumbent", "challenger"), line[1:3], strict=True) if mark]
        for line in lines
    }
