"""Checkpoints: only whole, unchanged ones are used, and their adapters are found by content."""

import json
from pathlib import Path

import pytest

from medgrpo.grpo.checkpoints import MANIFEST, export, fault, seal, verified
from medgrpo.settings import Settings


def _checkpoint(output: Path, step: int, weights: bytes = b"weights") -> Path:
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8}), encoding="utf-8")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    seal(folder)
    return folder


def test_a_sealed_checkpoint_verifies(tmp_path: Path) -> None:
    assert fault(_checkpoint(tmp_path, 5)) == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no manifest"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"weight"), "adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"wejghts"), "adapter_model.safetensors"),
        (lambda folder: (folder / MANIFEST).write_text("{", encoding="utf-8"), "manifest is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: object, said: str) -> None:
    _checkpoint(tmp_path, 5)
    newest = _checkpoint(tmp_path, 10)
    damage(newest)  # type: ignore[operator]
    assert said in fault(newest)
    assert [step for step, _ in verified(tmp_path)] == [5]


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
