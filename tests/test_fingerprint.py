"""Digests: equal content has an equal digest in every process, and the smallest change shows."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from medgrpo import fingerprint
from medgrpo.config import Config
from medgrpo.fingerprint import KEY_LENGTH, canonical, digest, file_digest, files_digest, source_digest
from medgrpo.types import Example

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
EXAMPLE = Example(
    id="e", kind="choice", question="Натрий 128 ммоль/л?", gold="A", options={"A": "low", "B": "high"}, tolerance=0.1
)
VALUE = {"rows": [EXAMPLE], "config": Config(name="c"), "é": [1, 2.5, None, True], "b": {"y": "2", "x": "1"}}


def test_a_digest_is_short_lower_hexadecimal() -> None:
    assert len(digest(VALUE)) == KEY_LENGTH == 32
    assert set(digest(VALUE)) <= set("0123456789abcdef")


def test_a_digest_by_hand() -> None:
    # printf '{"a":[1,"é"],"b":null}' | sha256sum
    assert canonical({"b": None, "a": [1, "é"]}) == '{"a":[1,"é"],"b":null}'.encode()
    assert digest({"b": None, "a": [1, "é"]}) == "1e02bc81a26af2f027329541e97eef36"


SCRIPT = """
import sys
from medgrpo.config import Config
from medgrpo.fingerprint import digest, source_digest
from medgrpo.types import Example
rows = [Example.model_validate_json(sys.argv[1])]
print(digest({"rows": rows, "config": Config(name="c"), "\\u00e9": [1, 2.5, None, True], "b": {"y": "2", "x": "1"}}))
print(source_digest("rewards", "answer.py"))
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_other_processes_find_the_same_digest(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SCRIPT, EXAMPLE.model_dump_json()]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(VALUE), source_digest("rewards", "answer.py")]


def reordered(value: Any) -> Any:
    """The same value with the keys of every dictionary the other way round."""
    if isinstance(value, dict):
        return {key: reordered(inner) for key, inner in reversed(value.items())}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


@given(JSON)
def test_key_order_does_not_matter(value: Any) -> None:
    assert digest(reordered(value)) == digest(copy.deepcopy(value)) == digest(value)


@given(JSON)
def test_a_value_that_went_through_json_keeps_its_digest(value: Any) -> None:
    assert digest(json.loads(json.dumps(value))) == digest(value)


@given(JSON, JSON)
def test_digests_are_equal_only_for_equal_content(first: Any, second: Any) -> None:
    assert (digest(first) == digest(second)) == (
        json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    )


@given(st.text(min_size=1, max_size=20), st.data())
def test_one_changed_character_matters(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_categories=("Cs",)).filter(lambda letter: letter != text[place]))
    changed = text[:place] + other + text[place + 1 :]
    assert digest({"question": changed}) != digest({"question": text})


@pytest.mark.parametrize(
    "change",
    [
        {"id": "f"},
        {"question": "Натрий 128 ммоль/л!"},
        {"gold": "B"},
        {"options": {"A": "low", "B": "High"}},
        {"tolerance": 0.2},
        {"unit": "g"},
        {"topic": "t"},
        {"reasoning": "r"},
        {"citation": "c"},
        {"aliases": ("a",)},
    ],
)
def test_every_field_of_an_example_counts(change: dict[str, Any]) -> None:
    assert digest(EXAMPLE.model_copy(update=change)) != digest(EXAMPLE)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [2, 1]), ("1", 1), (None, ""), ([], {}), (["ab", "c"], ["a", "bc"]), ("e", "é"), ([1], [[1]])],
)
def test_what_looks_alike_is_not_the_same(first: Any, second: Any) -> None:
    assert digest(first) != digest(second)


def test_a_config_counts_as_its_fields() -> None:
    config = Config(name="c")
    assert digest(config) == digest(config.model_dump(mode="json"))
    assert digest(config) == digest(Config.model_validate_json(config.model_dump_json()))
    assert digest(config) != digest(config.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", Path("p")])
def test_what_has_no_fixed_text_has_no_digest(value: object) -> None:
    with pytest.raises(TypeError, match=f"no digest for a .*{type(value).__name__}"):
        digest({"value": value})


def test_a_files_bytes_count_and_its_place_does_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"\x00one")
    second.write_bytes(b"\x00one")
    assert file_digest(first) == file_digest(second)
    second.write_bytes(b"\x00onf")
    assert file_digest(first) != file_digest(second)


def test_files_count_with_their_names_in_any_order(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "again").write_text("a")
    assert files_digest(tmp_path, ["a", "b"]) == files_digest(tmp_path, ["b", "a"])
    assert files_digest(tmp_path, ["a", "b"]) != files_digest(tmp_path, ["a", "c"])
    assert files_digest(tmp_path, ["a"]) != files_digest(tmp_path, ["again"])
    with pytest.raises(FileNotFoundError):
        files_digest(tmp_path, ["a", "missing"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package that stands in for medgrpo's source."""
    root = tmp_path / "package"
    (root / "rewards" / "deep").mkdir(parents=True)
    for name in ("answer.py", "other.py", "rewards/correct.py", "rewards/deep/inner.py", "rewards/notes.txt"):
        (root / name).write_text(f"# {name}\n")
    monkeypatch.setattr(fingerprint, "PACKAGE", root)
    return root


def append(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text((root / name).read_text() + "#")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (append("answer.py"), True),
        (append("rewards/correct.py"), True),
        (append("rewards/deep/inner.py"), True),
        (lambda root: (root / "rewards" / "new.py").touch(), True),
        (lambda root: (root / "rewards" / "correct.py").rename(root / "rewards" / "right.py"), True),
        (lambda root: (root / "rewards" / "deep" / "inner.py").unlink(), True),
        (append("other.py"), False),
        (append("rewards/notes.txt"), False),
        (lambda root: (root / "rewards" / "correct.py").touch(), False),
    ],
)
def test_source_digest_changes_with_the_bytes_of_its_parts(
    package: Path, change: Callable[[Path], object], differs: bool
) -> None:
    before = source_digest("rewards", "answer.py")
    assert source_digest("answer.py", "rewards") == before
    change(package)
    assert (source_digest("rewards", "answer.py") != before) is differs


@pytest.mark.parametrize("part", ["awnser.py", "rewrads"])
def test_a_part_that_is_not_there_is_an_error(package: Path, part: str) -> None:
    with pytest.raises(FileNotFoundError, match=part):
        source_digest("answer.py", part)


def test_source_digest_does_not_depend_on_where_the_package_lies(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source_digest("rewards", "answer.py")
    monkeypatch.setattr(fingerprint, "PACKAGE", package.rename(tmp_path / "elsewhere"))
    assert source_digest("rewards", "answer.py") == before
