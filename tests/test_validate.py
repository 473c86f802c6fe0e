"""Validation: critical failures stop a run, warnings are told, each with its rows; patient data stays out of reports."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from medgrpo.config import Config
from medgrpo.data import facts, store
from medgrpo.data.checks import CHECKS
from medgrpo.data.facts import row_facts, set_facts
from medgrpo.data.prepare import prepare
from medgrpo.data.validate import describe, read_report, report_folder, validate
from medgrpo.errors import NotFoundError, ValidationFailed
from medgrpo.settings import Settings
from medgrpo.types import BadRow, BaseRef, DatasetRef, ExpectationResult, Origin, ValidationReport

COLUMNS = {"id": "id", "question": "q", "gold": "gold", "options": ["a", "b"]}
PHONE = "Call (617) 555-0134 about the blood test of this patient?"


def _row(number: int, **change: str) -> dict[str, str]:
    asked = f"Is {number} mmol/L of potassium in the range of an adult?"
    return {"id": f"r{number}", "q": asked, "a": "yes", "b": "no", "gold": "AB"[number % 2], **change}


def _prepared(
    folder: Path, base: BaseRef, rows: list[dict[str, str]], **data: Any
) -> tuple[Config, DatasetRef, Settings]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"kind": "file", "path": str(path), "example_kind": "choice", "columns": COLUMNS, "licence": "own"}
    tree = {"source": source, "validation_rows": 4, "test_rows": 4, "max_prompt_tokens": 2000} | data
    config = Config.model_validate({"name": "test", "data": tree, "policy": {"base": {"kind": "tiny"}}})
    settings = Settings(home=folder / "home")
    return config, prepare(config, base, settings), settings


def _failed(report: ValidationReport | None) -> dict[str, set[str]]:
    assert report is not None
    return {result.name: {row.id for row in result.bad_rows} for result in report.results if not result.success}


def test_every_check_is_run_once_and_in_order(dataset: DatasetRef, config: Config, settings: Settings) -> None:
    report = validate(config, dataset, settings)
    assert [result.name for result in report.results] == list(CHECKS)
    assert report.critical_failures == ()


def test_a_critical_failure_stops_and_names_the_row_but_the_report_is_there(tmp_path: Path, base: BaseRef) -> None:
    rows = [_row(number) for number in range(20)]
    rows[5] = _row(5, gold="E")
    config, dataset, settings = _prepared(tmp_path, base, rows)
    with pytest.raises(ValidationFailed) as error:
        validate(config, dataset, settings)
    assert "gold_provable" in str(error.value)
    assert "'r5' (the gold is not judged right: 'E')" in str(error.value)
    assert str(report_folder(config, dataset, settings) / "report.html") in str(error.value)
    assert _failed(read_report(config, dataset, settings)) == {"gold_provable": {"r5"}}


def test_severities_are_the_configs(tmp_path: Path, base: BaseRef) -> None:
    rows = [*(_row(number) for number in range(20)), _row(20, q=PHONE)]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    with pytest.raises(ValidationFailed, match="no_patient_data"):
        validate(config, dataset, settings)
    milder = {"severities": {"no_patient_data": "warning"}}
    config, dataset, settings = _prepared(tmp_path, base, rows, **milder)
    assert _failed(validate(config, dataset, settings)) == {"no_patient_data": {"r20"}}
    stricter = milder | {"severities": {"no_patient_data": "warning", "no_exact_duplicate": "critical"}}
    config, dataset, settings = _prepared(tmp_path, base, [*rows, _row(1, id="again")], **stricter)
    with pytest.raises(ValidationFailed, match=r"no_exact_duplicate.*'again'"):
        validate(config, dataset, settings)


def test_patient_data_is_masked_wherever_it_is_told(tmp_path: Path, base: BaseRef) -> None:
    rows = [*(_row(number) for number in range(20)), _row(20, q=PHONE), _row(20, q=PHONE, id="again")]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    with pytest.raises(ValidationFailed) as error:
        validate(config, dataset, settings, data_docs=tmp_path / "docs")
    written = [*report_folder(config, dataset, settings).iterdir(), *(tmp_path / "docs").rglob("*.html")]
    assert len(written) > 4
    for text in [str(error.value), *(path.read_text(encoding="utf-8") for path in written)]:
        assert "555-0134" not in text
        assert "617" not in text
        assert "r20" in text or "again" in text or "<html" in text


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        ({}, {}),
        ({"allowed_licences": ["mit"]}, {"licence_allowed": {"(the set)"}}),
        ({"language": "de"}, {"language": {f"r{number}" for number in range(20)}}),
        ({"language": ""}, {}),
    ],
)
def test_what_is_expected_is_the_configs(
    tmp_path: Path, base: BaseRef, data: dict[str, Any], failed: dict[str, set[str]]
) -> None:
    config, dataset, settings = _prepared(tmp_path, base, [_row(number) for number in range(20)], **data)
    try:
        validate(config, dataset, settings)
    except ValidationFailed as error:
        assert "licence_allowed" in str(error)
    assert _failed(read_report(config, dataset, settings)) == failed


def test_other_expectations_are_another_report_of_the_same_dataset(tmp_path: Path, base: BaseRef) -> None:
    rows = [_row(number) for number in range(20)]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    other, same, _ = _prepared(tmp_path, base, rows, language="de")
    assert same == dataset
    validate(config, dataset, settings)
    assert read_report(other, dataset, settings) is None
    assert _failed(validate(other, dataset, settings)) != _failed(validate(config, dataset, settings))


def test_ids_are_masked_where_they_identify_somebody(tmp_path: Path, base: BaseRef) -> None:
    rows = [*(_row(number) for number in range(20)), *(_row(n, id="jane.doe@clinic.example") for n in (21, 22))]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    with pytest.raises(ValidationFailed, match=r"unique_ids.*2 rows have this id") as error:
        validate(config, dataset, settings, data_docs=tmp_path / "docs")
    written = [*report_folder(config, dataset, settings).iterdir(), *(tmp_path / "docs").rglob("*.html")]
    for text in [str(error.value), *(path.read_text(encoding="utf-8") for path in written)]:
        assert "jane.doe" not in text


def test_a_line_that_is_there_twice_is_a_duplicate_and_no_repeated_id(tmp_path: Path, base: BaseRef) -> None:
    rows = [_row(number) for number in range(20)]
    config, dataset, settings = _prepared(tmp_path, base, [*rows, rows[3]])
    assert _failed(validate(config, dataset, settings)) == {"no_exact_duplicate": {"r3"}}


def test_groups_of_rows_in_other_processes_have_the_same_facts(
    tmp_path: Path, base: BaseRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*(_row(number) for number in range(40)), _row(40, q=PHONE), _row(1, id="again")]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    at_once = row_facts(config, dataset, settings)
    for module in (facts, store):
        monkeypatch.setattr(module, "GROUP", 7)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rows.jsonl").rename(tmp_path / "elsewhere" / "rows.jsonl")
    config, dataset, _ = _prepared(tmp_path / "elsewhere", base, rows)
    in_groups = row_facts(config, dataset, Settings(home=Path("elsewhere") / "home"))
    pd.testing.assert_frame_equal(in_groups, at_once)


@pytest.mark.parametrize(
    ("counts", "letters", "balanced"),
    [([4] * 8, "ABCDABCD", 1.0), ([2] * 10 + [10] * 10, "AB" * 5 + "ABCDEFGHIJ", 1.0), ([4] * 4, "AAAB", 3.0)],
)
def test_label_balance_is_against_chance(counts: list[int], letters: str, balanced: float) -> None:
    rows = pd.DataFrame({"kind": "choice", "gold": list(letters), "option_count": counts})
    found = set_facts(Config(name="x"), Origin(name="x"), rows)["label_balance"][0]
    assert found == pytest.approx(balanced, rel=0.1)


def test_the_docs_list_the_checks_as_they_are() -> None:
    docs = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name, check in CHECKS.items():
        assert f"| `{name}` | {check.severity} | {check.meaning} |" in docs


def test_the_majority_baseline_is_the_share_of_the_commonest_gold(tmp_path: Path, base: BaseRef) -> None:
    rows = [_row(number, gold="A" if number < 15 else "B") for number in range(20)]
    config, dataset, settings = _prepared(tmp_path, base, rows)
    assert validate(config, dataset, settings).majority_accuracy == 0.75


def test_data_docs_are_an_option(tmp_path: Path, base: BaseRef) -> None:
    config, dataset, settings = _prepared(tmp_path, base, [_row(number) for number in range(20)])
    validate(config, dataset, settings)
    validate(config, dataset, settings, data_docs=tmp_path / "docs")
    assert list((tmp_path / "docs").rglob("index.html"))


def test_a_failure_is_one_line_with_a_few_rows() -> None:
    rows = tuple(BadRow(id=f"r{number}", value="x" * 200) for number in range(20))
    result = ExpectationResult(
        name="question_length", meaning="short", severity="critical", success=False, bad_rows=rows, bad_count=70
    )
    told = describe(result)
    assert "'r4'" in told
    assert "'r5'" not in told
    assert told.endswith(" and 65 more")
    assert len(told) < 600


def test_a_dataset_that_is_gone_is_named(tmp_path: Path, config: Config) -> None:
    absent = DatasetRef(key="nokey", name="x", rows={}, digests={})
    with pytest.raises(NotFoundError, match="nokey"):
        validate(config, absent, Settings(home=tmp_path))
