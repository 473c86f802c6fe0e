"""Sources, preparation and validation: the right rows in, and every bad one named."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from medgrpo.config import Config
from medgrpo.data import FileSource, HubSource
from medgrpo.data.file import ColumnMap
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_manifest, read_split
from medgrpo.data.validate import report_path, validate
from medgrpo.errors import DataError, NotFoundError, ValidationFailed
from medgrpo.settings import Settings
from medgrpo.types import SPLITS, BaseRef, DatasetRef

REVISION = "0123456789abcdef0123456789abcdef01234567"
CHOICE = ColumnMap(question="q", gold="gold", options=("a", "b"), id="id")


def _rows(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"r{n}", "q": f"Is {n} even?", "a": "yes", "b": "no", "gold": "A" if n % 2 == 0 else "B"}
        for n in range(count)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _config(source: FileSource | HubSource, **data: Any) -> Config:
    held_out = {"validation_rows": 2, "test_rows": 3} | data
    return Config.model_validate(
        {"name": "test", "data": {"source": source.model_dump(), **held_out}, "policy": {"base": {"kind": "tiny"}}}
    )


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    path = _write(tmp_path / f"rows{ending}", _rows(3))
    examples = FileSource(path=str(path), example_kind="choice", columns=CHOICE).load(0)
    assert [(e.id, e.question, e.options, e.gold) for e in examples] == [
        ("r0", "Is 0 even?", {"A": "yes", "B": "no"}, "A"),
        ("r1", "Is 1 even?", {"A": "yes", "B": "no"}, "B"),
        ("r2", "Is 2 even?", {"A": "yes", "B": "no"}, "A"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("gone.csv", None, CHOICE, ["no such file", "gone.csv"]),
        ("rows.xml", b"<a/>", CHOICE, ["unknown format '.xml'", ".jsonl"]),
        ("rows.csv", b"id,q,gold,a\n1,x,A,yes\n", CHOICE, ["no column 'b'", "the columns are: a, gold, id, q"]),
        ("rows.csv", b"id,q,gold,a,b\n", CHOICE, ["no rows"]),
        ("rows.csv", b'id,q,gold,a,b\n1,"x,A,yes,no\n', CHOICE, ["rows.csv", "not readable as csv"]),
        ("rows.csv", b"id,q,gold,a,b\n1,\xff\xfe,A,yes,no\n", CHOICE, ["not readable as csv", "utf-8"]),
        ("rows.jsonl", b'{"id": 1}\n{"id": \n', CHOICE, ["rows.jsonl", "line 2"]),
        ("rows.json", b'"text"', CHOICE, ["rows.json", "expected a list"]),
        (
            "rows.jsonl",
            b'{"q": "x", "gold": "1", "tol": "1"}\n{"q": "y", "gold": "2", "tol": "wide"}\n',
            ColumnMap(question="q", gold="gold", tolerance="tol"),
            ["row 2", "wide"],
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, content: bytes | None, columns: ColumnMap, said: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    kind = "numeric" if columns.tolerance else "choice"
    with pytest.raises(DataError) as error:
        FileSource(path=str(path), example_kind=kind, columns=columns).load(0)
    for words in said:
        assert words in str(error.value)


def test_medqa_runs_through_the_file_source(shared_data: Path, tmp_path: Path, base: BaseRef) -> None:
    source = FileSource(
        path=str(shared_data / "medqa" / "dev_4options.jsonl"),
        example_kind="choice",
        columns=ColumnMap(question="question", gold="answer_idx", options="options", topic="meta_info"),
        citation="MedQA",
    )
    settings = Settings(home=tmp_path)
    config = _config(source, validation_rows=100, test_rows=200, max_prompt_tokens=2000)
    dataset = prepare(config, base, settings)
    assert sum(dataset.rows.values()) == 1272
    assert validate(dataset, settings).critical_failures == ()
    first = next(e for e in source.load(0) if e.id == "1")
    assert first.gold_text == "Ceftriaxone"
    assert first.topic == "step1"


def test_hub_source_reads_a_pinned_revision_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    repo = tmp_path / "hub" / "datasets--medical--questions"
    snapshot = repo / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    _write(snapshot / "train.jsonl", [{"Question": "What raises potassium?", "Response": "Renal failure"}])
    card = "---\nconfigs:\n- config_name: en\n  data_files: train.jsonl\n---\n"
    (snapshot / "README.md").write_text(card, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    columns = ColumnMap(question="Question", gold="Response")
    source = HubSource(repo="medical/questions", config="en", revision=REVISION, example_kind="text", columns=columns)
    (example,) = source.load(0)
    assert (example.question, example.gold) == ("What raises potassium?", "Renal failure")
    with pytest.raises(DataError, match="config 'fr'"):
        source.model_copy(update={"config": "fr"}).load(0)
    absent = source.model_copy(update={"repo": "medical/other"})
    with pytest.raises(DataError, match="medical/other@01234567"):
        absent.load(0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, base: BaseRef) -> tuple[Config, BaseRef, DatasetRef, Settings]:
    folder = tmp_path_factory.mktemp("prepared")
    rows = [*_rows(12), {**_rows(1)[0], "id": "again"}, {**_rows(1)[0], "id": "long", "q": "word " * 400}]
    path = _write(folder / "rows.csv", rows)
    settings = Settings(home=folder / "home")
    config = _config(FileSource(path=str(path), example_kind="choice", columns=CHOICE), max_prompt_tokens=200)
    return config, base, prepare(config, base, settings), settings


def test_dropped_rows_keep_their_reason(prepared: tuple[Config, BaseRef, DatasetRef, Settings]) -> None:
    _, _, dataset, settings = prepared
    manifest = read_manifest(dataset.key, settings)
    assert manifest is not None
    reasons = {dropped.id: dropped.reason for dropped in manifest.dropped}
    assert reasons["again"] == "duplicate question"
    assert reasons["long"].startswith("prompt of ")
    assert dataset.rows == {"train": 7, "validation": 2, "test": 3}


def test_splits_share_no_row_and_keep_all(prepared: tuple[Config, BaseRef, DatasetRef, Settings]) -> None:
    _, _, dataset, settings = prepared
    ids = [example.id for split in SPLITS for example in read_split(dataset, split, settings)]
    assert sorted(ids) == sorted(row["id"] for row in _rows(12))


def test_preparing_again_finds_the_dataset_and_other_content_has_another_key(
    prepared: tuple[Config, BaseRef, DatasetRef, Settings], tmp_path: Path
) -> None:
    config, base, dataset, settings = prepared
    assert prepare(config, base, settings) == dataset
    source = config.data.source
    assert isinstance(source, FileSource)
    text = Path(source.path).read_text(encoding="utf-8").replace("Is 3 even?", "Is 3 even??")
    changed = tmp_path / "rows.csv"
    changed.write_text(text, encoding="utf-8")
    other_source = source.model_copy(update={"path": str(changed)})
    other = config.model_copy(update={"data": config.data.model_copy(update={"source": other_source})})
    assert prepare(other, base, settings).key != dataset.key


def test_a_damaged_dataset_is_made_again(prepared: tuple[Config, BaseRef, DatasetRef, Settings]) -> None:
    config, base, dataset, settings = prepared
    path = settings.dataset(dataset.key) / "test.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert read_manifest(dataset.key, settings) is None
    assert prepare(config, base, settings) == dataset
    assert path.read_bytes() == whole


def test_too_few_rows_are_refused(tmp_path: Path, base: BaseRef) -> None:
    path = _write(tmp_path / "rows.csv", _rows(6))
    config = _config(FileSource(path=str(path), example_kind="choice", columns=CHOICE))
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(DataError, match="6 usable questions"):
        prepare(config, base, settings)


def test_a_dataset_that_is_not_here_is_named(tmp_path: Path) -> None:
    absent = DatasetRef(key="nokey", name="x", rows={"test": 1}, digests={"test": "d"})
    with pytest.raises(NotFoundError, match="nokey"):
        read_split(absent, "test", Settings(home=tmp_path))


@pytest.mark.parametrize(
    ("change", "expectation"),
    [
        ({"gold": "E"}, "gold_provable"),
        ({"gold": ""}, "gold_characters"),
        ({"q": "?"}, "question_characters"),
        ({"b": "Yes"}, "options_distinct"),
        ({"id": "r1"}, "unique(id)"),
    ],
)
def test_critical_failures_stop_and_name_the_row(
    tmp_path: Path, base: BaseRef, change: dict[str, str], expectation: str
) -> None:
    rows = _rows(12)
    rows[5] = rows[5] | change
    path = _write(tmp_path / "rows.csv", rows)
    config = _config(FileSource(path=str(path), example_kind="choice", columns=CHOICE))
    settings = Settings(home=tmp_path / "home")
    dataset = prepare(config, base, settings)
    with pytest.raises(ValidationFailed) as error:
        validate(dataset, settings)
    assert expectation in str(error.value)
    assert rows[5]["id"] in str(error.value)
    assert report_path(dataset, settings).is_file(), "the report must be there to look at"


def test_clinical_questions_pass_validation(dataset: DatasetRef, settings: Settings) -> None:
    report = validate(dataset, settings)
    assert report.critical_failures == ()
    assert len(report.results) >= 10


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"a": "x", "b": "y", "c": None, "d": ""}, {"A": "x", "B": "y"}),
        ({"a": "x", "b": None, "c": "z", "d": None}, "option B is empty"),
    ],
)
def test_options_may_be_missing_at_the_end_only(tmp_path: Path, options: dict[str, Any], expected: object) -> None:
    path = _write(tmp_path / "rows.jsonl", [{"q": "What?", "gold": "A", **options}])
    columns = ColumnMap(question="q", gold="gold", options=("a", "b", "c", "d"))
    source = FileSource(path=str(path), example_kind="choice", columns=columns)
    if isinstance(expected, dict):
        assert source.load(0)[0].options == expected
    else:
        with pytest.raises(DataError, match=f"row 1.*{expected}"):
            source.load(0)
