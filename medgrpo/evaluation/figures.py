"""All figures of a report, from its per-row tables and nothing else."""

from collections import defaultdict
from collections.abc import Iterable

from medgrpo.config import EvaluationConfig
from medgrpo.evaluation.orders import summarize_orders
from medgrpo.evaluation.sampled import summarize_sampled
from medgrpo.evaluation.stored import Tables
from medgrpo.statistics import bootstrap_interval
from medgrpo.types import CheckpointRef, EvalReport, Interval, Split


def summarize(
    tables: Tables,
    asked: EvaluationConfig,
    key: str,
    checkpoint: CheckpointRef,
    split: Split,
    benchmark: str,
    rows_digest: str,
) -> EvalReport:
    """The report of an evaluation.

    Args:
        asked: what was measured on these rows.
    """

    def measure(values: Iterable[float]) -> Interval:
        return bootstrap_interval([float(value) for value in values], asked.confidence, asked.resamples)

    rows, sampled, orders = tables
    correct = [bool(value) for value in rows["correct"]]
    by_topic, by_slice = defaultdict(list), defaultdict(list)
    for place, (topic, slices) in enumerate(zip(rows["topic"], rows["slices"], strict=True)):
        by_topic[topic].append(correct[place])
        for name in slices.split():
            by_slice[name].append(place)
    return EvalReport(
        key=key,
        checkpoint=checkpoint,
        split=split,
        benchmark=benchmark,
        rows_digest=rows_digest,
        rows=len(rows),
        accuracy=measure(correct),
        lenient_accuracy=measure(rows["lenient"]),
        format_rate=measure(rows["strict"]),
        refusal_rate=measure(rows["refused"]),
        completion_tokens=measure(rows["completion_tokens"]),
        topics={topic: measure(values) for topic, values in sorted(by_topic.items())},
        slices={name: measure(correct[place] for place in places) for name, places in sorted(by_slice.items())},
        slice_rows={name: tuple(places) for name, places in sorted(by_slice.items())},
        correct=tuple(correct),
        sampled=None if sampled is None else summarize_sampled(sampled, asked.samples, asked.temperature, measure),
        orders=None if orders is None else summarize_orders(orders, asked.orders, measure),
    )
