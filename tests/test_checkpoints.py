"""Checkpoints: only whole, unchanged ones are used, and their adapters are found by content."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medgrpo.grpo.checkpoints import (
    DRAFTS,
    MANIFEST,
    adapter_fault,
    adapters,
    export,
    fault,
    finish,
    newest,
    prune,
    seal,
    sweep,
    verified,
)
from medgrpo.settings import Settings

WEIGHTS = "adapter_model.safetensors"


def _draft(output: Path, step: int, weights: bytes = b"weights") -> Path:
    folder = output / DRAFTS / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8}), encoding="utf-8")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"moments")
    (folder / "shards" / "0.distcp").write_bytes(b"part")
    return folder


def _checkpoint(output: Path, step: int, weights: bytes = b"weights") -> Path:
    _draft(output, step, weights)
    finish(step, output)
    return output / f"checkpoint-{step}"


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _edit(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(files)
    (folder / MANIFEST).write_text(json.dumps(files), encoding="utf-8")


def test_a_finished_checkpoint_verifies_and_leaves_no_draft(tmp_path: Path) -> None:
    assert fault(_checkpoint(tmp_path, 5)) == ""
    assert list((tmp_path / DRAFTS).iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no manifest: the save was cut off"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda folder: (folder / "shards" / "0.distcp").unlink(), "shards/0.distcp is missing"),
        (lambda folder: os.truncate(folder / "optimizer.pt", 3), "optimizer.pt was changed"),
        (lambda folder: os.truncate(folder / WEIGHTS, 0), f"{WEIGHTS} was changed"),
        (lambda folder: _flip(folder / WEIGHTS, 17), f"{WEIGHTS} was changed"),
        (lambda folder: _flip(folder / "optimizer.pt", 0), "optimizer.pt was changed"),
        (lambda folder: (folder / "rng_state.pth").write_bytes(b"new"), "rng_state.pth is not in the manifest"),
        (lambda folder: (folder / MANIFEST).write_text("{", encoding="utf-8"), "the manifest is damaged"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), "the manifest is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("{}", encoding="utf-8"), "the manifest is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[1]", encoding="utf-8"), "the manifest is damaged"),
        (lambda folder: os.truncate(folder / MANIFEST, 40), "the manifest is damaged"),
        (lambda folder: _edit(folder, lambda files: files.pop("optimizer.pt")), "optimizer.pt is not in the manifest"),
        (lambda folder: _edit(folder, lambda files: files.update(scaler="0" * 32)), "scaler is missing"),
        (lambda folder: _edit(folder, lambda files: files.update({WEIGHTS: "0" * 32})), f"{WEIGHTS} was changed"),
        (lambda folder: _edit(folder, lambda files: files.update({WEIGHTS: 1})), "the manifest is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = _checkpoint(tmp_path, 5)
    damage(_checkpoint(tmp_path, 10))
    assert newest(tmp_path) == (5, good)
    assert f"skipping checkpoint-10: {said}\n" in caplog.text
    assert [step for step, _ in verified(tmp_path)] == [5]


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path, 5)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for bit in range(0, 8 * path.stat().st_size, 5):
            if path.name == MANIFEST and chr(path.read_bytes()[bit // 8]).isspace():
                continue  # a space that becomes another character between two names may still be JSON
            _flip(path, bit)
            assert fault(folder), f"bit {bit} of {path.name}"
            _flip(path, bit)
    assert fault(folder) == ""


def test_where_none_verifies_training_starts_anew(tmp_path: Path) -> None:
    (_checkpoint(tmp_path, 5) / "optimizer.pt").unlink()
    assert newest(tmp_path) is None


def test_a_save_that_was_cut_off_is_no_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    good = _checkpoint(tmp_path, 5)
    seal(_draft(tmp_path, 10))
    assert newest(tmp_path) == (5, good)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]


def test_a_step_that_is_saved_again_replaces_what_was_damaged(tmp_path: Path) -> None:
    (_checkpoint(tmp_path, 5) / "optimizer.pt").unlink()
    again = _checkpoint(tmp_path, 5, b"new")
    assert newest(tmp_path) == (5, again)
    assert (again / WEIGHTS).read_bytes() == b"new"


def test_pruning_keeps_adapters_and_what_a_resume_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 3, 4, 6, 8, 10):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()  # so that 6 and 8 are what a resume can stand on
    prune(tmp_path, lambda step: step % 2 == 0, whole=2)
    assert [step for step, _ in verified(tmp_path)] == [6, 8]
    assert [step for step, _ in adapters(tmp_path)] == [2, 4, 6, 8, 10]
    for step in (2, 4):
        left = {path.name for path in (tmp_path / f"checkpoint-{step}").iterdir() if path.is_file()}
        assert left == {WEIGHTS, "adapter_config.json", MANIFEST}
    with caplog.at_level(logging.INFO):
        assert fault(tmp_path / "checkpoint-4") == "only its adapter was kept"
    _flip(tmp_path / "checkpoint-4" / WEIGHTS, 3)
    assert adapter_fault(tmp_path / "checkpoint-4") == f"{WEIGHTS} was changed"
    assert [step for step, _ in adapters(tmp_path)] == [2, 6, 8, 10]


def test_nothing_is_pruned_while_one_checkpoint_alone_verifies(tmp_path: Path) -> None:
    for step in (2, 3, 4):
        _checkpoint(tmp_path, step)
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    prune(tmp_path, lambda step: False, whole=2)
    assert [step for step, _ in adapters(tmp_path)] == [2, 3, 4]


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-new").mkdir()
    assert [step for step, _ in verified(tmp_path)] == [3, 20, 100]


def test_an_adapter_is_stored_once_by_its_content(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    first = export(5, _checkpoint(tmp_path, 5), "key", settings)
    same = export(10, _checkpoint(tmp_path, 10), "key", settings)
    other = export(15, _checkpoint(tmp_path, 15, b"other"), "key", settings)
    assert first.adapter_digest == same.adapter_digest != other.adapter_digest
    stored = settings.adapter(first.adapter_digest)
    assert sorted(path.name for path in stored.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
