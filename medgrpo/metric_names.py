"""How figures of evaluations are called in MLflow."""

import re

from medgrpo.types import EvalReport


def rows_label(report: EvalReport) -> str:
    """What a report's rows are called in names of metrics, where a path may not stand."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", report.benchmark)[-100:]
    return f"benchmark/{name}" if name else report.split


def report_figures(report: EvalReport) -> dict[str, float]:
    """A report's figures by the names of their metrics; topics are in its table."""
    accuracy, sampled, orders = report.accuracy, report.sampled, report.orders
    figures = {"accuracy": accuracy.mean, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
    for name in ("lenient_accuracy", "format_rate", "refusal_rate", "completion_tokens"):
        figures[name] = getattr(report, name).mean
    figures |= {f"slices/{name}": found.mean for name, found in report.slices.items()}
    if sampled:
        figures |= {f"sampled/pass_at_{count}": chance.mean for count, chance in sampled.pass_at.items()}
        figures |= {"sampled/majority": sampled.majority.mean, "sampled/agreement": sampled.agreement.mean}
        figures |= {"sampled/calibration_error": sampled.calibration_error}
    if orders:
        figures |= {"orders/accuracy": orders.accuracy.mean, "orders/stable": orders.stable.mean}
        figures |= {"orders/position_bias": orders.position_bias}
    return figures
