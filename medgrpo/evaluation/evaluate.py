"""Evaluate checkpoints on one set of rows, tie the reports to their MLflow run, and choose the best of them."""

import logging
from collections.abc import Sequence

from medgrpo.config import Config, EvaluationConfig
from medgrpo.data.store import read_benchmark, read_split
from medgrpo.errors import MedgrpoError
from medgrpo.evaluation.examiner import Examiner, Shards
from medgrpo.evaluation.figures import summarize
from medgrpo.evaluation.orders import judge_orders, reorderings
from medgrpo.evaluation.policies import adapter_folder, open_policies
from medgrpo.evaluation.rows import judge
from medgrpo.evaluation.sampled import judge_sampled
from medgrpo.evaluation.stored import Tables, read_report, read_tables, write_report
from medgrpo.keys import eval_key, rows_digest
from medgrpo.metric_names import rows_label
from medgrpo.settings import Settings
from medgrpo.tracking import is_foreign, log_evaluation, log_rows
from medgrpo.types import BaseRef, CheckpointRef, DatasetRef, EvalReport, Example, RunRef, Split

log = logging.getLogger(__name__)


def evaluate(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoint: CheckpointRef,
    split: Split,
    settings: Settings,
    benchmark: str = "",
) -> EvalReport:
    """Evaluate one checkpoint (or the base model); see `evaluate_all`."""
    return evaluate_all(config, base, dataset, [checkpoint], split, settings, benchmark)[0]


def evaluate_all(
    config: Config,
    base: BaseRef,
    dataset: DatasetRef,
    checkpoints: Sequence[CheckpointRef],
    split: Split,
    settings: Settings,
    benchmark: str = "",
) -> list[EvalReport]:
    """Evaluate checkpoints (or the base model) on the same rows, over one base in memory.

    A second call finds the reports again; one after a kill goes on behind the last finished batch.

    Args:
        benchmark: measure on this one's rows instead of the split's.

    Raises:
        NotFoundError: a checkpoint's adapter, the dataset or the benchmark isn't on this disk.
    """
    asked = config.evaluation.on(split, benchmark)
    reports = []
    with open_policies(config, base, checkpoints, settings) as policies:
        for checkpoint in checkpoints:
            key = eval_key(config, dataset, base, checkpoint, split, benchmark)
            report = read_report(key, settings)
            if report is None:
                examples = (
                    read_benchmark(dataset, benchmark, settings) if benchmark else read_split(dataset, split, settings)
                )
                name = f"{checkpoint.label} on {benchmark or split}"
                shards = Shards(settings.evaluation(key) / "shards")
                with policies.wearing(checkpoint) as policy:
                    # The examiner is kept nowhere: it may hold a copy of the weights, and the next adapter needs room.
                    tables = _measure(Examiner(policy, config, shards, name, policies.completer), examples, asked)
                digest = rows_digest(dataset, split, benchmark)
                report = summarize(tables, asked, key, checkpoint, split, benchmark, digest)
                write_report(report, tables, settings)
                log.info("%s: accuracy %s, format rate %s", name, report.accuracy, report.format_rate)
            reports.append(report.model_copy(update={"checkpoint": checkpoint}))
    return reports


def _measure(examiner: Examiner, examples: Sequence[Example], asked: EvaluationConfig) -> Tables:
    """Ask everything that is asked for on these rows, and judge it."""
    greedy = examiner.ask(examples)
    sampled = orders = None
    if asked.samples:
        repeated = [example for example in examples for _ in range(asked.samples)]
        completions = examiner.ask(repeated, "sampled", asked.temperature)
        sampled = judge_sampled(examples, completions, asked.samples)
    if moved := reorderings(examples, asked.orders):
        completions = examiner.ask([example for others in moved.values() for example in others], "orders")
        orders = judge_orders(examples, greedy, moved, completions)
    return Tables(judge(examples, greedy, examiner.policy.tokenizer), sampled, orders)


def recompute(report: EvalReport, evaluation: EvaluationConfig, settings: Settings) -> EvalReport:
    """A stored report's figures once more, from its per-row tables alone; equal, unless one of them was changed."""
    tables = read_tables(report, settings)
    asked = evaluation.on(report.split, report.benchmark)
    identity = (report.key, report.checkpoint, report.split, report.benchmark, report.rows_digest)
    return summarize(tables, asked, *identity)


def check_figures(report: EvalReport, evaluation: EvaluationConfig, settings: Settings) -> None:
    """Compare a stored report with what its per-row tables give.

    Raises:
        MedgrpoError: a figure differs; the message names the fields.
    """
    again = recompute(report, evaluation, settings)
    if differing := [name for name in EvalReport.model_fields if getattr(again, name) != getattr(report, name)]:
        raise MedgrpoError(
            f"{', '.join(differing)} of the evaluation in {settings.evaluation(report.key)} are not what its tables "
            "give: remove the folder and evaluate again"
        )


def publish(run: RunRef, dataset: DatasetRef, report: EvalReport, settings: Settings) -> None:
    """Store a report in MLflow: figures tied to the checkpoint and to the rows' digest, and the per-row tables."""
    checkpoint = report.checkpoint
    adapter = None if checkpoint.is_base else adapter_folder(checkpoint, settings)
    log_evaluation(run, dataset, report, adapter, settings)
    step = "incumbent" if is_foreign(checkpoint, run) else f"step-{checkpoint.step:06d}"
    name = f"evaluation-{rows_label(report).replace('/', '-')}-{'base' if checkpoint.is_base else step}"
    tables = read_tables(report, settings)
    log_rows(run.run_id, name, tables.rows, settings)
    for kind, table in (("sampled", tables.sampled), ("orders", tables.orders)):
        if table is not None:
            log_rows(run.run_id, f"{name}-{kind}", table, settings)


def best(reports: Sequence[EvalReport]) -> EvalReport:
    """The report with the highest accuracy, then format rate; among equals the earliest step. The base can't win.

    It chooses among reports on validation rows only.

    Raises:
        ValueError: a report is on other rows: what is chosen on them can't be judged by them any more.
    """
    if others := sorted({report.rows_name for report in reports} - {"validation"}):
        raise ValueError(f"checkpoints are chosen on validation rows, and these reports are on {', '.join(others)}")
    checkpoints = [report for report in reports if not report.checkpoint.is_base]
    return min(checkpoints, key=lambda r: (-r.accuracy.mean, -r.format_rate.mean, r.checkpoint.step))
