"""Notes about answers: people's thumbs, and figures of requests; never a prompt or completion."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import Field

from medgrpo.data.patient_data import mask
from medgrpo.settings import Settings
from medgrpo.types import Frozen

REMEMBERED = 10_000
"""How many of the newest completions feedback can be given about."""
LONGEST_COMMENT = 2000
Thumb = Literal["up", "down"]


class Given(Frozen):
    """A thumb about one completion."""

    id: str
    """Id of the completion."""
    version: str
    thumb: Thumb
    comment: str = ""
    """Masked for patient data."""
    at: str


class RequestFigures(Frozen):
    """What a completion took, for comparing versions."""

    id: str
    version: str
    shadow: bool
    """Whether it was made for this comparison alone, and nobody was shown it."""
    prompt_tokens: int
    completion_tokens: int
    strict: bool
    """Whether it follows the answer grammar."""
    first_s: float
    """Seconds to the first text."""
    seconds: float
    at: str


class VersionFigures(Frozen):
    """One version's requests and thumbs."""

    version: str
    requests: int = 0
    shadows: int = 0
    strict_share: float | None = None
    """Share of the completions that follow the answer grammar; None: there is none."""
    mean_completion_tokens: float | None = None
    median_seconds: float | None = None
    up: int = Field(default=0, ge=0)
    down: int = Field(default=0, ge=0)


class Notes:
    """The notes of one home folder, and the completions of this server that a thumb can be about."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.serving
        self._versions: OrderedDict[str, str] = OrderedDict()

    def remember(self, completion_id: str, version: str) -> None:
        """Note that a completion was given."""
        self._versions[completion_id] = version
        if len(self._versions) > REMEMBERED:
            self._versions.popitem(last=False)

    def version_of(self, completion_id: str) -> str | None:
        """The version that gave a completion; None: this server didn't, or too long ago."""
        return self._versions.get(completion_id)

    def rate(self, completion_id: str, thumb: Thumb, comment: str) -> Given:
        """Store a thumb about a completion that is remembered. A later one about the same replaces it."""
        given = Given(
            id=completion_id,
            version=self._versions[completion_id],
            thumb=thumb,
            comment=mask(comment),
            at=now(),
        )
        self._append("feedback.jsonl", given)
        return given

    def record(self, figures: RequestFigures) -> None:
        """Store what a completion took."""
        self._append("requests.jsonl", figures)

    def _append(self, name: str, note: Frozen) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(note.model_dump_json() + "\n")


def now() -> str:
    """The time, as notes hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def compare(settings: Settings) -> list[VersionFigures]:
    """Each version's figures, by its name."""
    thumbs = {note["id"]: note for note in _read(settings.serving / "feedback.jsonl")}
    requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for note in _read(settings.serving / "requests.jsonl"):
        requests[note["version"]].append(note)
    given: dict[str, list[str]] = defaultdict(list)
    for note in thumbs.values():
        given[note["version"]].append(note["thumb"])
    return [_figures(version, requests[version], given[version]) for version in sorted({*requests, *given})]


def _figures(version: str, requests: list[dict[str, Any]], thumbs: list[str]) -> VersionFigures:
    shadows = sum(note["shadow"] for note in requests)
    told: dict[str, float] = {}
    if requests:
        told = {
            "strict_share": sum(note["strict"] for note in requests) / len(requests),
            "mean_completion_tokens": sum(note["completion_tokens"] for note in requests) / len(requests),
            "median_seconds": median(note["seconds"] for note in requests),
        }
    counts = {"requests": len(requests) - shadows, "shadows": shadows}
    return VersionFigures(version=version, up=thumbs.count("up"), down=thumbs.count("down"), **counts, **told)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The notes of a file; a line that a crash cut short is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def describe(figures: list[VersionFigures]) -> str:
    """The figures as a table."""
    if not figures:
        return "nothing is noted yet: set MEDGRPO_SHADOW or MEDGRPO_CHALLENGER_SHARE, or POST /v1/feedback"
    rows: list[tuple[str, ...]] = [("version", "requests", "shadows", "strict", "tokens", "median s", "up", "down")]
    for entry in figures:
        told = (entry.strict_share, ".2f"), (entry.mean_completion_tokens, ".1f"), (entry.median_seconds, ".2f")
        shown = ("-" if value is None else format(value, form) for value, form in told)
        rows.append((entry.version, *map(str, (entry.requests, entry.shadows)), *shown, str(entry.up), str(entry.down)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)
