"""Evaluation: every policy on the same rows with the same prompt, judged in the strict grammar, with intervals."""

from medgrpo.evaluation.evaluate import best, check_figures, evaluate, evaluate_all, publish, recompute
from medgrpo.evaluation.examiner import generate
from medgrpo.evaluation.policies import adapter_folder, adopt_adapter
from medgrpo.evaluation.stored import Tables, read_report, read_rows, read_tables

__all__ = [
    "Tables",
    "adapter_folder",
    "adopt_adapter",
    "best",
    "check_figures",
    "evaluate",
    "evaluate_all",
    "generate",
    "publish",
    "read_report",
    "read_rows",
    "read_tables",
    "recompute",
]
