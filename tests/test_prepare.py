"""Prepare: the right rows in the right splits, every other one with its reason, and a key that is the content."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from medgrpo.config import Config
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_dropped, read_manifest, read_split
from medgrpo.data.validate import read_report, validate
from medgrpo.errors import ConfigError, DataError, NotFoundError, ValidationFailed
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, BaseRef, DatasetRef

COLUMNS = {"id": "id", "question": "q", "gold": "gold", "options": ["a", "b"]}
Prepared = tuple[Config, BaseRef, DatasetRef, Settings]


def _rows(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"r{n}", "q": f"Is {n} an even number?", "a": "yes", "b": "no", "gold": "A" if n % 2 == 0 else "B"}
        for n in range(count)
    ]


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _config(source: Path | Mapping[str, Any], **data: Any) -> Config:
    if isinstance(source, Path):
        source = {"kind": "file", "path": str(source), "example_kind": "choice", "columns": COLUMNS, "licence": "own"}
    held_out = {"validation_rows": 2, "test_rows": 3} | data
    return Config.model_validate(
        {"name": "test", "data": {"source": source, **held_out}, "policy": {"base": {"kind": "tiny"}}}
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, base: BaseRef) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    rows = [*_rows(12), {**_rows(1)[0], "id": "again"}, {**_rows(1)[0], "id": "long", "q": "word " * 400}]
    settings = Settings(home=folder / "home")
    config = _config(_write(folder / "rows.csv", rows), max_prompt_tokens=200)
    return config, base, prepare(config, base, settings), settings


def test_dropped_rows_are_kept_with_their_reason(prepared: Prepared) -> None:
    _, _, dataset, settings = prepared
    dropped = {row.example.id: (drop.reason, drop.detail) for row, drop in read_dropped(dataset, settings)}
    assert dropped.keys() == {"again", "long"}
    assert dropped["again"] == ("exact duplicate", "same question as row 'r0'")
    assert dropped["long"][0] == "prompt too long"
    assert "data.max_prompt_tokens = 200" in dropped["long"][1]
    assert dataset.rows == {"train": 7, "validation": 2, "test": 3}


def test_the_manifest_tells_where_rows_come_from_and_went(prepared: Prepared) -> None:
    config, _, dataset, settings = prepared
    manifest = read_manifest(dataset.key, settings)
    assert manifest is not None
    assert (manifest.origin.name, manifest.origin.licence) == (config.data.source.origin().name, "own")
    assert (manifest.loaded, manifest.dropped) == (14, {"exact duplicate": 1, "prompt too long": 1})
    assert set(manifest.files) == {"train.parquet", "validation.parquet", "test.parquet", "dropped.parquet"}


def test_splits_share_no_row_and_keep_all(prepared: Prepared) -> None:
    _, _, dataset, settings = prepared
    ids = [example.id for split in SPLITS for example in read_split(dataset, split, settings)]
    assert sorted(ids) == sorted(row["id"] for row in _rows(12))


def test_two_homes_hold_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    config, base, dataset, settings = prepared
    elsewhere = Settings(home=tmp_path)
    assert prepare(config, base, elsewhere) == dataset
    for path in settings.dataset(dataset.key).glob("*.*"):
        assert path.read_bytes() == (elsewhere.dataset(dataset.key) / path.name).read_bytes(), path.name


def test_other_hashes_and_threads_give_the_same_bytes(tmp_path: Path, settings: Settings, base: BaseRef) -> None:
    files = []
    for seed, threads in (("1", "1"), ("2", "2")):
        home = tmp_path / seed
        shutil.copytree(settings.root / "base_models", home / "base_models")
        environment = os.environ | {
            "MEDGRPO_HOME": str(home),
            "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": threads,
            "RAYON_NUM_THREADS": threads,
        }
        command = [sys.executable, "-m", "medgrpo.cli", "prepare", "configs/smoke.toml"]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
        (dataset,) = (home / "datasets").iterdir()
        files.append({path.name: path.read_bytes() for path in dataset.glob("*.*")})
    assert files[0] == files[1]
    assert len(files[0]) == 5


def test_one_character_changes_the_key_and_the_log_names_part_and_row(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, base, dataset, settings = prepared
    source = Path(config.data.source.origin().name)
    text = source.read_text(encoding="utf-8")
    assert prepare(config, base, settings) == dataset
    try:
        source.write_text(text.replace("Is 3 an even number?", "Is 3 an even numbers?"), encoding="utf-8")
        with caplog.at_level(logging.INFO, logger="medgrpo"):
            changed = prepare(config, base, settings)
    finally:
        source.write_text(text, encoding="utf-8")
    assert changed.key != dataset.key
    assert sum(changed.digests[split] != dataset.digests[split] for split in SPLITS) >= 1
    assert "since these changed: rows" in caplog.text
    assert "has 1 row changed: 'r3'" in caplog.text
    assert prepare(config, base, settings) == dataset


def test_a_failed_run_in_between_does_not_hide_what_changed(
    tmp_path: Path, base: BaseRef, caplog: pytest.LogCaptureFixture
) -> None:
    path, settings = _write(tmp_path / "rows.csv", _rows(20)), Settings(home=tmp_path / "home")
    prepare(_config(path), base, settings)
    changed = [{**row, "q": row["q"] + "?"} if row["id"] == "r3" else row for row in _rows(20)]
    _write(path, changed)
    with pytest.raises(DataError, match="usable questions"):
        prepare(_config(path, test_rows=100), base, settings)
    with caplog.at_level(logging.INFO, logger="medgrpo"):
        prepare(_config(path), base, settings)
    assert "has 1 row changed: 'r3'" in caplog.text


def test_an_interrupt_ends_the_counting_of_tokens_too(
    tmp_path: Path, base: BaseRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def count(*arguments: Any) -> list[int]:
        told.append(arguments[-1].wait(timeout=20))
        return []

    told: list[bool] = []
    monkeypatch.setattr("medgrpo.data.prepare.find_duplicates", interrupt)
    monkeypatch.setattr("medgrpo.data.prepare.prompt_lengths", count)
    settings, before = Settings(home=tmp_path / "home"), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        prepare(_config(_write(tmp_path / "rows.csv", _rows(20))), base, settings)
    assert told == [True], "it went on counting"
    assert threading.active_count() == before
    assert not (settings.root / "datasets").exists()


def test_repeated_ids_are_told_apart_by_their_content(
    tmp_path: Path, base: BaseRef, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*_rows(20), {**_rows(30)[25], "id": "r3"}]
    path, settings = _write(tmp_path / "rows.csv", rows), Settings(home=tmp_path / "home")
    prepare(_config(path), base, settings)
    _write(path, [*rows, _rows(40)[35]])
    with caplog.at_level(logging.INFO, logger="medgrpo"):
        prepare(_config(path), base, settings)
    assert "has 1 row new: 'r35'" in caplog.text
    assert "gone" not in caplog.text


def test_a_manifest_of_another_version_counts_as_none(prepared: Prepared) -> None:
    config, base, dataset, settings = prepared
    path = settings.dataset(dataset.key) / "manifest.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(whole) | {"later": 1}), encoding="utf-8")
    assert read_manifest(dataset.key, settings) is None
    assert prepare(config, base, settings) == dataset
    assert path.read_text(encoding="utf-8") == whole


def test_what_is_wrong_with_a_benchmark_names_the_benchmark(tmp_path: Path, base: BaseRef) -> None:
    path = _write(tmp_path / "rows.csv", _rows(20))
    gone = {"kind": "file", "path": "gone.csv", "example_kind": "choice", "columns": COLUMNS}
    with pytest.raises(DataError, match=r"data\.benchmarks\.0: .*gone\.csv"):
        prepare(_config(path, benchmarks=[gone]), base, Settings(home=tmp_path / "home"))


def test_other_row_numbers_and_citations_hold_out_the_same_questions(tmp_path: Path, base: BaseRef) -> None:
    columns = {name: column for name, column in COLUMNS.items() if name != "id"}
    held_out = []
    for name, rows in (("as it was", _rows(30)), ("a row before", [_rows(31)[-1], *_rows(30)])):
        path = _write(tmp_path / f"{name}.csv", rows)
        source = {"kind": "file", "path": str(path), "example_kind": "choice", "columns": columns, "citation": name}
        settings = Settings(home=tmp_path / "home")
        dataset = prepare(_config(source), base, settings)
        held_out.append({e.question for split in ("validation", "test") for e in read_split(dataset, split, settings)})
    assert len(held_out[0] & held_out[1]) >= 4, "at most the new row takes another one's place"


def test_a_damaged_dataset_is_made_again(prepared: Prepared) -> None:
    config, base, dataset, settings = prepared
    path = settings.dataset(dataset.key) / "test.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert read_manifest(dataset.key, settings) is None
    assert prepare(config, base, settings) == dataset
    assert path.read_bytes() == whole


def test_too_few_rows_are_refused_with_what_became_of_them(tmp_path: Path, base: BaseRef) -> None:
    rows = [*_rows(6), {**_rows(1)[0], "id": "again"}]
    config = _config(_write(tmp_path / "rows.csv", rows))
    with pytest.raises(DataError, match=r"6 usable questions of 7 \(1 dropped: exact duplicate\)"):
        prepare(config, base, Settings(home=tmp_path / "home"))


def test_a_dataset_that_is_not_here_is_named(tmp_path: Path) -> None:
    absent = DatasetRef(key="nokey", name="x", rows={"test": 1}, digests={"test": "d"})
    with pytest.raises(NotFoundError, match="nokey"):
        read_split(absent, "test", Settings(home=tmp_path))


def test_questions_of_a_benchmark_are_left_out(tmp_path: Path, base: BaseRef) -> None:
    benchmark = {
        "kind": "file",
        "path": str(_write(tmp_path / "benchmark.csv", _rows(20)[4:6])),
        "example_kind": "choice",
        "columns": COLUMNS,
    }
    config = _config(_write(tmp_path / "rows.csv", _rows(20)), benchmarks=[benchmark])
    settings = Settings(home=tmp_path / "home")
    dataset = prepare(config, base, settings)
    dropped = {row.example.id: drop.reason for row, drop in read_dropped(dataset, settings)}
    assert dropped == {"r4": "benchmark overlap", "r5": "benchmark overlap"}


def test_one_benchmark_twice_is_refused(tmp_path: Path, base: BaseRef) -> None:
    path = _write(tmp_path / "rows.csv", _rows(20))
    source = _config(path).data.source.model_dump()
    with pytest.raises(ConfigError, match=r"data\.benchmarks: .*rows\.csv is there twice"):
        prepare(_config(path, benchmarks=[source, source]), base, Settings(home=tmp_path / "home"))


MEDQA = {"kind": "preset", "name": "medqa-4", "path": "medqa/dev_4options.jsonl"}
MEDMCQA = {"kind": "preset", "name": "medmcqa", "path": "medmcqa/dev_first2000.jsonl"}
ANATOMY = {"kind": "preset", "name": "mmlu-anatomy", "path": "mmlu/anatomy_test.csv"}
CLINICAL = {"kind": "preset", "name": "mmlu-clinical-knowledge", "path": "mmlu/clinical_knowledge_test.csv"}
PUBMEDQA = {"kind": "preset", "name": "pubmedqa", "path": "pubmedqa/pqal_train500.json"}
MEDCALC = {"kind": "preset", "name": "medcalc", "path": "medcalc/one_shot_55.csv"}
HUATUO = {"kind": "preset", "name": "medical-o1-reasoning-sft", "path": "huatuo/demo_198.json"}
VERIFIABLE = HUATUO | {"name": "medical-o1-verifiable-problem"}
LEAKED = ["44", "56", "85", "93", "194"]
"""Rows of the Huatuo file that are questions of the MedQA (four) and MedMCQA (one) files."""


@pytest.mark.parametrize(
    ("source", "benchmarks", "rows", "dropped", "failed", "majority"),
    [
        (MEDQA, [MEDMCQA, ANATOMY, CLINICAL], 1272, {}, {}, 352 / 1272),
        (
            MEDMCQA,
            [MEDQA, ANATOMY, CLINICAL],
            2000,
            {"exact duplicate": 7, "near duplicate": 2},
            {"options_distinct": 13, "no_exact_duplicate": 7, "no_near_duplicate": 2},
            635 / 1991,
        ),
        (PUBMEDQA, [MEDQA], 500, {}, {"label_balance": 1}, 276 / 500),
        (ANATOMY, [MEDMCQA], 135, {}, {}, 45 / 135),
        (CLINICAL, [MEDMCQA], 265, {}, {}, 79 / 265),
        (MEDCALC, [MEDQA], 55, {}, {}, 3 / 55),
        (
            HUATUO,
            [MEDQA, MEDMCQA, PUBMEDQA],
            198,
            {"benchmark overlap": 5},
            {"gold_fits_completion": 192, "no_benchmark_overlap": 5},
            1 / 193,
        ),
        (VERIFIABLE, [MEDQA, MEDMCQA], 198, {"benchmark overlap": 5}, {"no_benchmark_overlap": 5}, 2 / 193),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) and "name" in value else None,
)
def test_real_sets_show_their_real_defects(
    shared_data: Path,
    tmp_path: Path,
    base: BaseRef,
    source: dict[str, Any],
    benchmarks: list[dict[str, Any]],
    rows: int,
    dropped: dict[str, int],
    failed: dict[str, int],
    majority: float,
) -> None:
    def at(preset: dict[str, Any]) -> dict[str, Any]:
        return preset | {"path": str(shared_data / preset["path"])}

    config = _config(at(source), benchmarks=[at(each) for each in benchmarks], max_prompt_tokens=100_000)
    settings = Settings(home=tmp_path)
    dataset = prepare(config, base, settings)
    manifest = read_manifest(dataset.key, settings)
    assert manifest is not None
    assert (manifest.loaded, manifest.dropped) == (rows, dropped)
    try:
        validate(config, dataset, settings)
    except ValidationFailed:
        assert source is MEDMCQA, "only its repeated options stop a run"
    report = read_report(config, dataset, settings)
    assert report is not None
    assert {result.name: result.bad_count for result in report.results if not result.success} == failed
    assert report.majority_accuracy == pytest.approx(majority)
    if source in (HUATUO, VERIFIABLE):
        assert [row.example.id for row, _ in read_dropped(dataset, settings)] == LEAKED


def test_kinds_and_aliases_come_back_from_disk(tmp_path: Path, base: BaseRef) -> None:
    asked = [
        {"q": f"What is condition {n}?", "kind": "text", "gold": f"condition {n}", "also": f"{n}th|no. {n}", "unit": ""}
        for n in range(10)
    ]
    asked += [
        {"q": f"How much is normal {n}?", "kind": "range", "gold": f"{n}-{n + 9}", "also": "", "unit": "mg"}
        for n in range(10)
    ]
    columns = {"question": "q", "gold": "gold", "kind": "kind", "aliases": "also", "unit": "unit"}
    path = _write(tmp_path / "rows.csv", asked)
    source = {"kind": "file", "path": str(path), "example_kind": "text", "columns": columns, "licence": "own"}
    config, settings = _config(source), Settings(home=tmp_path / "home")
    dataset = prepare(config, base, settings)
    loaded = {example.id: example for example in config.data.source.load(config.seed)}
    kept = [example for split in SPLITS for example in read_split(dataset, split, settings)]
    assert kept == [loaded[example.id] for example in kept]
    assert {(example.kind, bool(example.aliases), example.unit) for example in kept} == {
        ("text", True, ""),
        ("range", False, "mg"),
    }
    assert not validate(config, dataset, settings).critical_failures
