"""Reading a config: TOML (or the `config.json` that MLflow keeps of a run), overrides, and every fault at once."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medgrpo.config import Config
from medgrpo.errors import ConfigError


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML config and apply `--set section.key=value` overrides.

    Raises:
        ConfigError: no such file, not TOML, or keys that are unknown or wrong: all of them in one message.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"no such config: {path}") from error
    except (ValueError, OSError) as error:  # both parsers' errors are ValueErrors
        raise ConfigError(f"{path} is not readable as {path.suffix[1:].upper() or 'TOML'}: {error}") from error
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one value. What isn't TOML by itself counts as a string, so that quotes can be left out in a shell."""
    dotted, equals, text = override.partition("=")
    *parents, key = dotted.strip().split(".")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write section.key=value, for example --set grpo.beta=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: '{parent}' is not a section")
    tree[key] = value


def _describe(error: ValidationError, path: Path) -> str:
    """One line per fault: where it is, what is wrong, what was given."""
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        message = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
        lines.append(f"  {place}: {message}{given}")
    return f"{path}: {len(lines)} fault{'s' if len(lines) > 1 else ''}\n" + "\n".join(lines)
