"""The checks on a dataset by name: what is expected, and whether a run may go on without it. `validate` runs them."""

from typing import Literal, NamedTuple, get_args

from medgrpo.types import Severity

CheckName = Literal[
    "unique_ids",
    "question_length",
    "gold_length",
    "option_count",
    "options_distinct",
    "gold_provable",
    "no_held_out_leak",
    "no_patient_data",
    "licence_allowed",
    "licence_present",
    "text_intact",
    "language",
    "label_balance",
    "gold_fits_completion",
    "no_exact_duplicate",
    "no_near_duplicate",
    "no_contradiction",
    "no_benchmark_overlap",
    "prompt_fits",
]


MAX_CHARACTERS = 20_000
"""Longest question or gold; longer ones are damage, not questions."""


class Check(NamedTuple):
    """What is expected, and how bad it is when it isn't so."""

    meaning: str
    severity: Severity


CHECKS: dict[CheckName, Check] = {
    "unique_ids": Check("every row that is kept has an id of its own", "critical"),
    "question_length": Check("questions have between 5 and 20,000 characters", "critical"),
    "gold_length": Check("golds have between 1 and 20,000 characters", "critical"),
    "option_count": Check("choices have between 2 and 10 options", "critical"),
    "options_distinct": Check("the options of a choice differ", "critical"),
    "gold_provable": Check("the gold, written in the answer grammar, is judged right, and nothing is not", "critical"),
    "no_held_out_leak": Check("no validation or test question is trained on", "critical"),
    "no_patient_data": Check("no text identifies a patient", "critical"),
    "licence_allowed": Check("the licence is one that data.allowed_licences lists", "critical"),
    "licence_present": Check("the source states a licence", "warning"),
    "text_intact": Check("no text was damaged by a wrong encoding", "warning"),
    "language": Check("questions are in data.language", "warning"),
    "label_balance": Check("always giving the same letter is right at most 1.5 times as often as chance", "warning"),
    "gold_fits_completion": Check("the gold in its shortest completion fits max_completion_tokens", "warning"),
    "no_exact_duplicate": Check("no source row repeats another one's question", "warning"),
    "no_near_duplicate": Check("no source row almost repeats another one's question", "warning"),
    "no_contradiction": Check("no two source rows give one question different golds", "warning"),
    "no_benchmark_overlap": Check("no source row is a question of a benchmark", "warning"),
    "prompt_fits": Check("prompts have at most data.max_prompt_tokens tokens", "warning"),
}

assert set(CHECKS) == set(get_args(CheckName))
