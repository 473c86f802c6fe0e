"""How long `medgrpo prepare` takes, and how it grows with the rows. Written questions, real steps.

    python benchmarks/prepare.py --rows 20000 200000

Each size runs in a process of its own. Rows have about 80 words of question, four options and 60 words of reasoning;
3 % repeat another row, 3 % almost do, 0.5 % are questions of a benchmark of 5,000. The baseline is the smallest size:
cost is linear where seconds per row stay the same.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from medgrpo.data.clinical import generate

FUNCTION_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "with",
    "for",
    "on",
    "was",
    "which",
    "are",
    "by",
    "that",
    "this",
    "from",
    "at",
    "be",
    "has",
    "patient",
    "after",
]
BENCHMARK_ROWS = 5000

CONFIG = """
name = "speed"
[data]
validation_rows = 500
test_rows = 1000
source = {{ kind = "file", path = "{folder}/rows.jsonl", licence = "own", {read} }}
benchmarks = [{{ kind = "file", path = "{folder}/benchmark.jsonl", {read} }}]
"""
COLUMNS = ("id", "question", "gold", "options", "topic", "reasoning")


def vocabulary() -> list[str]:
    """The words of the built-in questions and of their reasoning, the frequent ones first."""
    texts = (f"{example.question} {example.reasoning}" for example in generate(2000, 0, ()))
    counts = Counter(word for text in texts for word in re.findall("[A-Za-z]{3,}", text.lower()))
    return [word for word, _ in counts.most_common()]


def sentence(chance: random.Random, words: list[str], length: int) -> str:
    """Words of falling frequency, a third of them English function words, a number now and then."""
    drawn = [words[int(len(words) * chance.random() ** 3)] for _ in range(length)]
    for place in range(0, length, 3):
        drawn[place] = chance.choice(FUNCTION_WORDS)
    drawn[length // 2] = str(chance.randint(1, 200))
    return " ".join(drawn)


def question(number: int, chance: random.Random, words: list[str]) -> dict[str, object]:
    """One row."""
    return {
        "id": f"q{number}",
        "question": sentence(chance, words, chance.randint(40, 120)).capitalize() + "?",
        "options": {letter: sentence(chance, words, chance.randint(3, 8)) for letter in "ABCD"},
        "gold": chance.choice("ABCD"),
        "topic": f"topic {number % 20}",
        "reasoning": sentence(chance, words, 60),
    }


def questions(count: int, benchmark: list[dict[str, object]], words: list[str]) -> Iterator[dict[str, object]]:
    """Rows, some of which repeat others."""
    chance = random.Random(1)
    row = question(0, chance, words)
    for number in range(count):
        kind = chance.random()
        if kind < 0.03:
            yield row | {"id": f"q{number}"}
        elif kind < 0.06:
            yield row | {"id": f"q{number}", "question": str(row["question"]).replace("?", " then?")}
        elif kind < 0.065:
            yield chance.choice(benchmark) | {"id": f"q{number}"}
        else:
            row = question(number, chance, words)
            yield row


def write(folder: Path, count: int) -> None:
    """Write the rows, the benchmark and the config."""
    words = vocabulary()
    benchmark_chance = random.Random(2)
    benchmark = [question(number, benchmark_chance, words) for number in range(BENCHMARK_ROWS)]
    for name, rows in (("rows", questions(count, benchmark, words)), ("benchmark", iter(benchmark))):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    columns = ", ".join(f'{name} = "{name}"' for name in COLUMNS)
    read = f'example_kind = "choice", columns = {{ {columns} }}'
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, read=read), encoding="utf-8")


def measure(count: int, home: Path) -> tuple[float, float]:
    """Seconds of one `medgrpo prepare`, and peak GiB of it with all its processes."""
    with tempfile.TemporaryDirectory(dir=home) as name:
        folder = Path(name)
        write(folder, count)
        start, peak = time.perf_counter(), 0.0
        command = [Path(sys.executable).with_name("medgrpo"), "prepare", folder / "config.toml"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(home)
        ) as run:
            while run.poll() is None:
                peak = max(peak, memory(run.pid))
                time.sleep(0.2)
        if run.returncode:
            raise SystemExit(f"prepare ended with {run.returncode}")
    return time.perf_counter() - start, peak


def memory(pid: int) -> float:
    """GiB of a process and of those that it started; pages that several of them share count once each."""
    try:
        tree = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (tree, *tree.children(recursive=True))) / 2**30
    except psutil.NoSuchProcess:  # one of them has just ended
        return 0.0


def environment(home: Path) -> dict[str, str]:
    """Ours, with a home folder that holds the base model already."""
    return os.environ | {"MEDGRPO_HOME": str(home / "home")}


def main() -> None:
    """Measure every size, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    with tempfile.TemporaryDirectory() as name:
        measure(2_500, Path(name))  # converts the base model, which isn't what is measured
        print(f"{'rows':>8} {'seconds':>9} {'ms/row':>8} {'of baseline':>12} {'peak GiB':>9}")
        baseline = 0.0
        for count in sorted(parser.parse_args().rows):
            seconds, peak = measure(count, Path(name))
            baseline = baseline or seconds / count
            ratio = seconds / count / baseline
            print(f"{count:8} {seconds:9.1f} {1000 * seconds / count:8.3f} {ratio:12.2f} {peak:9.2f}")


if __name__ == "__main__":
    main()
