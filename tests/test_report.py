"""The page about a comparison: every figure, plot and differing row, nothing loaded, everything escaped and masked."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import pytest

from medgrpo import tracking
from medgrpo.answer import render_gold
from medgrpo.config import Config, EvaluationConfig
from medgrpo.errors import NotFoundError
from medgrpo.evaluation.figures import summarize
from medgrpo.evaluation.rows import judge
from medgrpo.evaluation.stored import Tables, write_report
from medgrpo.policy import load_base
from medgrpo.promotion import Proposal
from medgrpo.report import Findings, Summary, draw_curve, render
from medgrpo.report.curve import read_curves
from medgrpo.report.evaluation import gather_findings, make_section, read_findings, render_page, write_page
from medgrpo.report.plots import draw_curves, draw_intervals, inline
from medgrpo.settings import Settings
from medgrpo.statistics import paired_difference
from medgrpo.types import (
    BaseRef,
    CheckpointRef,
    DatasetRef,
    Decision,
    EvalReport,
    Example,
    Interval,
    ModelVersionRef,
    OrderFigures,
    RunRef,
    SampledFigures,
    ServedAnswer,
    Split,
    Verdict,
)

SCRIPT = "<script>alert('x')</script>"
PATIENT = "Call Mrs. Jane Roe at (312) 555-0167."
HALF = Interval(mean=0.5, low=0.4, high=0.6)


def row(place: int, **more: Any) -> Example:
    fields: dict[str, Any] = {"id": f"row-{place}", "kind": "choice", "gold": "B", "topic": f"topic {place % 2}"}
    fields |= {"question": f"Question {place}, not about {place + 1}?", "options": {"A": "low", "B": "high"}}
    return Example.model_validate(fields | more)


ROWS = [row(place) for place in range(8)]
WRONG = "<reasoning>I guess.</reasoning>\n<answer>A</answer>"
OTHER_WRONG = WRONG.replace("guess", "believe")


@pytest.fixture(scope="module")
def asked(config: Config) -> EvaluationConfig:
    return config.evaluation


@pytest.fixture(scope="module")
def make(base: BaseRef, settings: Settings, asked: EvaluationConfig) -> Callable[..., EvalReport]:
    """Makes a stored report in which only some places of the rows are right."""
    tokenizer = load_base(base.folder).tokenizer

    def make(
        name: str,
        right: set[int],
        rows: list[Example] = ROWS,
        *,
        split: Split = "test",
        step: int = 4,
        benchmark: str = "",
        wrong: str = WRONG,
    ) -> EvalReport:
        completions = [render_gold(example) if place in right else wrong for place, example in enumerate(rows)]
        tables = Tables(judge(rows, completions, tokenizer), None, None)
        checkpoint = (
            CheckpointRef(train_key="t", step=step, adapter_digest=f"a{step}") if step else CheckpointRef.base()
        )
        digest = f"{split}-{benchmark}-{len(rows)}"
        report = summarize(tables, asked, f"{name}-{digest}", checkpoint, split, benchmark, digest)
        write_report(report, tables, settings)
        return report

    return make


@pytest.fixture(scope="module")
def run(config: Config, dataset: DatasetRef, settings: Settings) -> RunRef:
    """A run whose steps 2 and 3 were made again after a rollback, with lower rewards."""
    run = tracking.open_run(config.model_copy(update={"name": "reported"}), dataset, "key-reported", settings, {})
    client = tracking.connect(settings)
    for time, (step, reward) in enumerate([(1, 0.25), (2, 0.75), (3, 0.875), (2, 0.5), (3, 0.375), (4, 0.625)]):
        tracking.log_step(client, run.run_id, {"reward": reward, "rewards/correct/mean": reward / 2}, step, 1000 + time)
    return run


@pytest.fixture(scope="module")
def findings(make: Callable[..., EvalReport], run: RunRef) -> Findings:
    incumbent, challenger = make("old", {0, 1}, step=0), make("new", {1, 2, 3, 4, 5}, wrong=OTHER_WRONG)
    verdicts = (
        Verdict(rule="better", holds=True, reason="better: 4 won & 1 lost", figures={"won": 4}),
        Verdict(rule="slice", holds=False, reason=f"negation is below {SCRIPT}", figures={}),
    )
    difference = paired_difference(challenger.correct, incumbent.correct, 0.95, 500)
    return Findings(
        run=run,
        base=make("base", {0}, split="validation", step=0),
        checkpoints=(make("two", {0, 1}, split="validation", step=2), make("four", {0, 1, 2}, split="validation")),
        incumbent=incumbent,
        challenger=challenger,
        benchmarks=(
            (make("new", {0}, ROWS[:3], benchmark="medqa-4"), make("old", {1}, ROWS[:3], benchmark="medqa-4")),
        ),
        version=ModelVersionRef(name="medgrpo-reported", version=3, run_id=run.run_id, adapter_digest="a4"),
        decision=Decision(
            promote=False, verdicts=verdicts, challenger=challenger.key, incumbent=incumbent.key, difference=difference
        ),
    )


@pytest.fixture(scope="module")
def page(config: Config, findings: Findings, settings: Settings) -> str:
    return render_page(config, findings, settings)


class Balanced(HTMLParser):
    """Fails on tags that aren't closed in order; keeps attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def words(page: str) -> str:
    return " ".join(Balanced(page).text.split())


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    parsed = Balanced(page)
    assert parsed.open == [] and page.lstrip().startswith("<!doctype html>")
    assert not {name for name, _ in parsed.attributes if name in ("src", "srcset", "data") or name.startswith("on")}
    assert "<script" not in page and "@import" not in page and "default-src 'none'" in page
    assert page.count("<svg") == 6 and page.count("<style") == 1 and "<?xml" not in page and "<metadata" not in page


def test_plots_use_only_their_own_parts(page: str) -> None:
    parsed = Balanced(page)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids)), "two plots with one name for their parts would draw each other's"
    links = parsed.values("href", "xlink:href") + re.findall(r"url\(([^)]*)\)", page)
    assert links and {link for link in links if link[:1] != "#" or link[1:] not in ids} == set()


def test_plots_follow_the_page_into_the_dark(page: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--blue)" in drawn and "var(--quiet)" in drawn
    assert re.findall(r"(?:fill|stroke): #(?!none)\w+", drawn) == []


def test_the_page_says_what_was_chosen_where_and_what_the_gate_says(page: str) -> None:
    said = words(page)
    assert "of 2 checkpoints the best on 8 validation rows" in said
    assert "measured once on 8 test rows, on which nothing was chosen, against the base model" in said
    assert "medgrpo-reported version 3 ✕ not promoted" in said
    assert "✓ holds better better: 4 won & 1 lost ✕ fails slice negation is below <script>" in said
    assert "step 4 (chosen)" in said and "step 2 (chosen)" not in said and "Not medical advice." in said


def test_every_figure_comes_from_the_stored_rows(
    page: str, findings: Findings, settings: Settings, asked: EvaluationConfig
) -> None:
    said, columns = words(page), ("correct", "lenient", "strict", "refused", "completion_tokens")
    for pair in ((findings.challenger, findings.incumbent), *findings.benchmarks):
        tables = [pd.read_parquet(settings.evaluation(report.key) / "rows.parquet") for report in pair]
        section = make_section(*pair, asked, settings)
        for line, column in zip(section.figures, columns, strict=True):
            challenger, incumbent = (table[column].astype(float) for table in tables)
            assert line.challenger.mean == pytest.approx(challenger.mean()), line.name
            assert line.incumbent and line.incumbent.mean == pytest.approx(incumbent.mean()), line.name
            assert line.difference and line.difference.mean == pytest.approx((challenger - incumbent).mean())
            assert f"{line.incumbent} {line.challenger} {line.difference}" in said, line.name
        assert section.figures[0].difference == section.paired.difference
    for topic, accuracy in findings.challenger.topics.items():
        assert f"{topic} {findings.incumbent.topics[topic]} {accuracy}" in said
    assert f"negation {findings.incumbent.slices['negation']} {findings.challenger.slices['negation']}" in said
    for report in (findings.base, *findings.checkpoints):
        assert f"{report.accuracy} {report.format_rate} {report.completion_tokens}" in said
    assert f"evaluations/{findings.incumbent.key}/rows.parquet" in said


def test_rows_that_differ_are_shown_with_both_completions_lost_ones_first(page: str, findings: Findings) -> None:
    said = words(page).split("Rows on which they differ")[1]
    assert "On test the challenger wins 4 and loses 1 of 8 rows" in said
    assert "On medqa-4 the challenger wins 1 and loses 1 of 3 rows" in said
    shown = re.findall(r"(won|lost) (row-\d)", said)
    assert shown[:5] == [("lost", "row-0"), ("won", "row-2"), ("won", "row-3"), ("won", "row-4"), ("won", "row-5")]
    assert shown[5:] == [("lost", "row-1"), ("won", "row-0")]
    first = said[said.index("row-0") : said.index("row-2")]
    assert "Question 0" in first and "Gold: B" in first
    incumbent, challenger = first.split("Incumbent")[1].split("Challenger")
    assert "<answer>B</answer>" in incumbent.replace(" ", "") and "I believe." in challenger


def test_what_comes_from_the_data_is_escaped_and_masked(
    config: Config, findings: Findings, settings: Settings, make: Callable[..., EvalReport]
) -> None:
    rows = [row(0, topic=f"{SCRIPT} $x_1$", question=f"{PATIENT} {SCRIPT}?", id=SCRIPT), row(1)]
    wrong = f"<reasoning>{PATIENT}{SCRIPT}</reasoning>\n<answer>A</answer>"
    pair = make("x", {0}, rows, wrong=wrong), make("y", {1}, rows, wrong=wrong)
    page = render_page(config, findings.model_copy(update={"challenger": pair[0], "incumbent": pair[1]}), settings)
    assert "<script" not in page and "Roe" not in page and "555-0167" not in page
    assert Balanced(page).open == []
    assert "won <script>" in words(page) and "$x_1$" in page
    assert "against the champion (step 4 of its training)" in words(page)


def test_only_so_many_differing_rows_are_shown(
    settings: Settings, asked: EvaluationConfig, make: Callable[..., EvalReport], findings: Findings, config: Config
) -> None:
    rows = [row(place) for place in range(130)]
    pair = make("many", set(range(120)), rows), make("few", set(), rows)
    section = make_section(*pair, asked, settings)
    assert (section.paired.won, section.paired.lost, len(section.differing)) == (120, 0, 100)
    page = render_page(config, findings.model_copy(update={"challenger": pair[0], "incumbent": pair[1]}), settings)
    assert "The first 100 are shown" in page
    assert "are shown" not in words(render_page(config, findings, settings))


def test_sampled_and_reordered_figures_stand_where_they_were_made(
    config: Config, findings: Findings, settings: Settings
) -> None:
    assert "Several completions" not in render_page(config, findings, settings)
    sampled = SampledFigures(
        samples=4, temperature=0.7, accuracy=HALF, pass_at={1: HALF, 4: HALF}, majority=HALF, agreement=HALF, calibration_error=0.125
    )  # fmt: skip
    orders = OrderFigures(orders=3, rows=8, accuracy=HALF, stable=HALF, places={"A": HALF}, position_bias=0.25)
    folder = settings.evaluation(findings.challenger.key)
    for table in ("sampled", "orders"):  # the page shows none of their lines, but they are behind the figures
        shutil.copy(folder / "rows.parquet", folder / f"{table}.parquet")
    more = findings.challenger.model_copy(update={"sampled": sampled, "orders": orders})
    said = words(render_page(config, findings.model_copy(update={"challenger": more}), settings))
    for line in ("accuracy of 4 sampled completions – 0.500", "pass@4 –", "maj@4 –", "answers that name A –"):
        assert line in said
    assert "calibration error of agreement – 0.125 " in said and "position bias – 0.250 " in said
    both = findings.model_copy(update={"challenger": more, "incumbent": more})
    assert f"pass@4 {HALF} {HALF}" in words(render_page(config, both, settings))


def test_other_rows_are_not_compared(
    make: Callable[..., EvalReport], asked: EvaluationConfig, settings: Settings
) -> None:
    with pytest.raises(ValueError, match="not about the same rows"):
        make_section(make("new", {1}), make("old", {1}, ROWS[:3]), asked, settings)


def test_page_and_record_are_kept_and_stored(config: Config, findings: Findings, settings: Settings) -> None:
    path = write_page(config, findings, settings)
    first = path.read_bytes()
    summary = Summary(
        **dict(findings),
        outcome="waits for approval",
        served=ServedAnswer(question="q", completion="c", answer=None, version="v"),
        curve="c",
        page="/p",
    )
    assert write_page(config, summary, settings) == path and path.read_bytes() == first
    assert read_findings(findings.decision, settings) == findings
    other = findings.decision.model_copy(update={"incumbent": "other"})
    assert read_findings(other, settings) is None
    stored = {
        item.path
        for item in tracking.connect(settings).list_artifacts(findings.run.run_id, f"report/{path.parent.name}")
    }
    assert {Path(name).name for name in stored} == {"evaluation.html", "findings.json"}
    assert json.loads((path.parent / "findings.json").read_text(encoding="utf-8"))["decision"]["promote"] is False
    told = render(summary, settings)
    assert "Whole report: /p" in told and ": waits for approval\n" in told


def test_a_step_that_was_made_again_shows_its_last_value(run: RunRef, settings: Settings) -> None:
    curves = read_curves(run, settings)
    assert curves["total reward"] == {1: 0.25, 2: 0.5, 3: 0.375, 4: 0.625}
    assert list(curves) == ["total reward", "correct"], "no curve where nothing was logged"
    path = draw_curve(run, settings)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [item.path for item in tracking.connect(settings).list_artifacts(run.run_id, "plots")] == [
        "plots/reward.png"
    ]


def drawn(figure: Any) -> dict[str, list[float]]:
    """Label of each line → its x values."""
    lines: dict[str, list[float]] = {}
    for line in figure.axes[0].get_lines():
        lines.setdefault(line.get_label(), []).extend(float(x) for x in line.get_xdata())
    return lines


def test_intervals_are_drawn_where_they_are() -> None:
    low = Interval(mean=0.25, low=0.125, high=0.5)
    figure = draw_intervals({"accuracy": [("old", low), ("new", HALF)], "format": [("new", low)]}, "share")
    lines = drawn(figure)
    assert lines["_old"] == [0.125, 0.5] and lines["old"] == [0.25]
    assert lines["_new"] == [0.4, 0.6, 0.125, 0.5] and lines["new"] == [0.5, 0.25]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["accuracy", "format"]
    assert axes.get_xlim() == (-0.02, 1.02) and axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is on top"
    assert len(figure.legends[0].get_texts()) == 2
    heights = {line.get_label(): line.get_ydata()[0] for line in axes.get_lines()[:4]}
    assert heights["old"] < heights["new"] and heights["_old"] == heights["old"]


def test_a_difference_has_a_line_at_zero_and_room_below_it() -> None:
    negative = Interval(mean=-0.5, low=-0.75, high=-0.25)
    figure = draw_intervals({"test": [("accuracy", negative)]}, "difference", is_difference=True)
    axes = figure.axes[0]
    assert axes.get_xlim()[0] < -0.75 and not figure.legends
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.get_lines())


def test_a_plot_is_described_and_long_or_odd_names_fit() -> None:
    names = ["x" * 60, "<b> & $a^2$", " two\nlines "]
    svg = inline(draw_intervals({name: [("a", HALF)] for name in names}, "share"), "odd", 'A "plot"')
    parsed = Balanced(svg)
    assert parsed.open == [] and 'A "plot"' in parsed.values("aria-label")
    assert "x" * 39 + "…" in parsed.text and "<b> & $a^2$" in parsed.text and "two lines" in parsed.text


def test_one_figure_gives_the_same_bytes() -> None:
    svgs = {inline(draw_curves({"a": {1: 0.5, 2: 0.25}}), "same", "s") for _ in range(2)}
    assert len(svgs) == 1


class Decided(NamedTuple):
    """What is asked of `Stages`: these have computed everything already."""

    findings: Findings
    settings: Settings

    @property
    def run(self) -> RunRef:
        return self.findings.run

    @property
    def dataset(self) -> DatasetRef:
        digests = {report.benchmark: report.rows_digest for report, _ in self.findings.benchmarks}
        return DatasetRef(key="d", name="d", rows={}, digests={}, benchmarks=digests)

    @property
    def proposal(self) -> Proposal:
        return Proposal(version=self.findings.version, compared_with=None, decision=self.findings.decision)

    def reports(self, split: Split) -> list[EvalReport]:
        assert split == "validation"
        return [self.findings.base, *self.findings.checkpoints]

    def compared(self, benchmark: str = "") -> tuple[EvalReport, EvalReport]:
        pairs = {report.benchmark: (report, other) for report, other in self.findings.benchmarks}
        return pairs[benchmark] if benchmark else (self.findings.challenger, self.findings.incumbent)


def test_findings_are_those_that_were_decided_on(config: Config, findings: Findings, settings: Settings) -> None:
    keys = {"challenger": findings.challenger.key, "incumbent": "newly-made"}
    incumbent = findings.incumbent.model_copy(update={"key": "newly-made"})
    fresh = findings.model_copy(update={"incumbent": incumbent, "decision": findings.decision.model_copy(update=keys)})
    assert gather_findings(cast(Any, Decided(fresh, settings))) == fresh
    # Once promoted, a version would be compared with itself: what it was decided on stands.
    itself = fresh.model_copy(update={"incumbent": findings.challenger})
    with pytest.raises(NotFoundError, match=r"medgrpo-reported version 3 was made on another machine.*under report/"):
        gather_findings(cast(Any, Decided(itself, settings)))
    write_page(config, findings, settings)
    promoted = findings.model_copy(update={"incumbent": findings.challenger})
    assert gather_findings(cast(Any, Decided(promoted, settings))) == findings
