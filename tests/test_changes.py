"""What changed since last time is said, part by part."""

import logging
from pathlib import Path

import pytest

from medgrpo.changes import Change, find_change, remember_key
from medgrpo.fingerprint import digest
from medgrpo.settings import Settings

FIRST = {"rows": "aaaa1111", "seed": "bbbb2222"}


def test_the_first_key_has_nothing_before_it(tmp_path: Path) -> None:
    assert find_change("ours", "dataset", FIRST, Settings(home=tmp_path)) == Change((), "")


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        (FIRST, ()),
        (FIRST | {"rows": "cccc3333"}, ("rows",)),
        ({"rows": "dddd4444", "seed": "eeee5555"}, ("rows", "seed")),
        (FIRST | {"prompt": "ffff6666"}, ("prompt",)),
        ({"rows": "aaaa1111"}, ("seed",)),
    ],
)
def test_parts_that_changed_are_named(
    tmp_path: Path, after: dict[str, str], changed: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    remember_key("ours", "dataset", FIRST, settings)
    with caplog.at_level(logging.INFO, logger="medgrpo"):
        change = find_change("ours", "dataset", after, settings)
    assert (change.parts, change.key_before) == (changed, digest(FIRST))
    for part in changed:
        assert f"{part} {FIRST.get(part, 'none')[:8]} → {after.get(part, 'none')}" in caplog.text
    assert bool(caplog.text) == bool(changed)


def test_configs_and_stages_are_kept_apart(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    remember_key("ours", "dataset", FIRST, settings)
    assert find_change("theirs", "dataset", {"rows": "x"}, settings).key_before == ""
    assert find_change("ours", "training", {"rows": "x"}, settings).key_before == ""


def test_what_was_not_remembered_is_still_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    remember_key("ours", "dataset", FIRST, settings)
    for _ in range(2):
        assert find_change("ours", "dataset", FIRST | {"rows": "x"}, settings).parts == ("rows",)
