"""Columns: which column holds which part of an example, and how raw rows become examples through that map."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args

from pydantic import ValidationError

from medgrpo.data.formats import RawRow
from medgrpo.data.labels import LETTERS, Labels
from medgrpo.data.normalise import normalise
from medgrpo.data.patient_data import shown
from medgrpo.errors import DataError
from medgrpo.types import Example, Frozen, Kind

SHOWN = 20
"""Faulty rows that are told one by one."""
KINDS = frozenset(get_args(Kind))


class ColumnMap(Frozen):
    """Which column holds which part of an example."""

    question: str
    """Column of the question."""
    gold: str
    """Column of the gold answer: a number, a date, a text; of a choice the option's letter, number or text."""
    gold_text: str = ""
    """For kind `choice`: column of the gold option's text. It must be the text of the option that `gold` names."""
    label_base: Literal[0, 1] | None = None
    """What the first option is called, where golds are option numbers; left out: found out from all rows."""
    id: str = ""
    """Column of a unique id; empty: the row's number."""
    kind: str = ""
    """Column of the kind, where rows differ in it; empty, or no value in a row: the source's `example_kind`."""
    options: str | tuple[str, ...] = ()
    """For kind `choice`: one column that maps letters to texts (or lists texts), or one column per option."""
    tolerance: str = ""
    """Column of the numeric tolerance."""
    lower: str = ""
    """Column of the lowest number that is right. Goes with `upper`."""
    upper: str = ""
    """Column of the highest number that is right. Goes with `lower`."""
    unit: str = ""
    """Column of the unit."""
    topic: str = ""
    """Column of the topic."""
    reasoning: str = ""
    """Column of a worked reasoning."""
    original: str = ""
    """Column of the question that this one was rewritten from; may be absent."""

    def names(self) -> set[str]:
        """Every column that must be there."""
        options = (self.options,) if isinstance(self.options, str) else self.options
        parts = (self.question, self.gold, self.gold_text, self.id, self.kind, self.tolerance, self.lower, self.upper)
        return {*parts, self.unit, self.topic, self.reasoning, *options} - {""}


def read_examples(
    rows: Iterable[RawRow], columns: ColumnMap, kind: Kind, origin: str, citation: str, limit: int = 0
) -> list[Example]:
    """Turn raw rows into examples through a column map.

    Args:
        rows: see `medgrpo.data.formats.number_rows` for rows that are plain mappings.
        origin: names the file or repository in messages.
        limit: only the first rows become examples; 0: all. More are read where only they tell what option numbers mean.

    Raises:
        DataError: there is no row, a mapped column is in no row, or values are not what their parts need: all faulty
            rows in one message.
    """
    labels, faults = Labels(columns.label_base), list[tuple[int, str]]()
    drafts = _read_drafts(rows, columns, kind, origin, limit, labels, faults)
    try:
        labels.settle()
    except ValueError as error:
        faults.insert(0, (0, f"column {columns.gold!r}: {error}"))
        _refuse(origin, faults)
    examples = []
    for draft in drafts:
        number, place = draft.pop("number"), draft.pop("place")
        try:
            examples.append(_finish(draft, labels, citation))
        except ValueError as error:
            faults.append((number, f"{_name(number, place, draft['id'])}: {error}"))
    _refuse(origin, faults)
    return examples


def _read_drafts(
    rows: Iterable[RawRow],
    columns: ColumnMap,
    kind: Kind,
    origin: str,
    limit: int,
    labels: Labels,
    faults: list[tuple[int, str]],
) -> list[dict[str, Any]]:
    """The first pass: an example's fields per row, golds as they stand. Notes what it sees in `labels` and `faults`."""
    drafts: list[dict[str, Any]] = []
    broken: list[tuple[int, str]] = []
    seen: set[str] = set()
    for count, row in enumerate(rows, start=1):
        is_wanted = not limit or count <= limit
        if not is_wanted and not labels.is_open:
            break
        seen |= row.values.keys()
        if row.fault:
            broken += [(row.number, f"{row.place}: {row.fault}")] if is_wanted else []
            continue
        try:
            draft = _draft(row, columns, kind)
        except ValueError as error:
            named = _name(row.number, row.place, str(row.values.get(columns.id) or ""))
            faults += [(row.number, f"{named}: {error}")] if is_wanted else []
            continue
        if draft["kind"] == "choice":
            labels.see(row.place, draft["gold"], draft["options"])
        if is_wanted:
            drafts.append(draft)
    _require_columns(origin, columns, seen, broken)
    if not drafts and not faults and not broken:
        raise DataError(f"{origin}: no rows")
    faults += broken
    return drafts


def _require_columns(origin: str, columns: ColumnMap, seen: set[str], broken: list[tuple[int, str]]) -> None:
    """Columns may be absent in single rows (JSON leaves out what is empty), but each must be in some row."""
    if seen and (missing := columns.names() - seen):
        listed = f"the columns are: {', '.join(sorted(map(str, seen)))}"
        absent = f"no column {', '.join(map(repr, sorted(missing)))} (data.source.columns); {listed}"
        # The faults of values would say the same again, row by row; those of rows that can't be read are news.
        _refuse(origin, [(0, absent), *broken])


def _draft(row: RawRow, columns: ColumnMap, kind: Kind) -> dict[str, Any]:
    """The fields of an example, and where the row stands; the gold of a choice not yet as a letter."""
    values = row.values
    kind = _kind(values, columns.kind, kind)
    draft: dict[str, Any] = {
        "number": row.number,
        "place": row.place,
        "id": _text(values, columns.id) or str(row.number),
        "kind": kind,
        "question": _text(values, columns.question),
        "gold": _text(values, columns.gold),
        "topic": _text(values, columns.topic) or "general",
        "reasoning": _text(values, columns.reasoning),
        "original": _text(values, columns.original),
    }
    if kind == "choice":
        draft["options"] = _options(values, columns.options)
        draft["gold_text"] = _text(values, columns.gold_text)
    elif kind == "numeric":
        draft["unit"] = _text(values, columns.unit)
        draft["tolerance"] = _number(values, columns.tolerance) or 0.0
        draft["limits"] = _limits(values, columns)
    return draft


def _finish(draft: dict[str, Any], labels: Labels, citation: str) -> Example:
    """The example, its gold a letter where it is a choice."""
    if draft["kind"] == "choice":
        stated, options = draft.pop("gold_text"), draft["options"]
        gold = draft["gold"] = labels.letter(draft["gold"], options)
        if stated and gold and options.get(gold) != stated:
            named = f"the gold is option {gold}, {shown(options.get(gold, ''))!r}"
            raise ValueError(f"{named}, but its text is given as {shown(stated)!r}: are the labels shifted?")
    try:
        return Example(citation=citation, **draft)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(told) from error


def _text(values: Mapping[str, Any], column: str) -> str:
    """A column's value as normalised text; empty where there is none."""
    if not column:
        return ""
    value = values.get(column)
    if isinstance(value, str):
        try:
            return normalise(value)
        except ValueError as error:
            raise ValueError(f"column {column!r}: {error}") from error
    if value is None or value != value:  # noqa: PLR0124 (NaN, of whatever type, is what differs from itself)
        return ""
    if isinstance(value, dict | list | tuple | bytes):
        told = f"column {column!r} holds a {type(value).__name__}, not a text: {shown(str(value))}"
        raise ValueError(told)  # noqa: TRY004 (the row is faulty, not the call)
    return str(value)


def _number(values: Mapping[str, Any], column: str) -> float | None:
    text = _text(values, column)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"column {column!r}: {shown(text)!r} is no number")
    return number


def _limits(values: Mapping[str, Any], columns: ColumnMap) -> tuple[float, float] | None:
    lower, upper = _number(values, columns.lower), _number(values, columns.upper)
    if lower is None and upper is None:
        return None
    if lower is None or upper is None:
        raise ValueError(f"only one of the limits is there: columns {columns.lower!r} and {columns.upper!r}")
    if lower > upper:
        raise ValueError(f"the lower limit {lower:g} is above the upper limit {upper:g}")
    return lower, upper


def _kind(values: Mapping[str, Any], column: str, default: Kind) -> Kind:
    text = _text(values, column)
    if text and text not in KINDS:
        raise ValueError(f"column {column!r}: {shown(text)!r} is none of {', '.join(sorted(KINDS))}")
    return cast(Kind, text or default)


def _options(values: Mapping[str, Any], columns: str | tuple[str, ...]) -> dict[str, str]:
    """Letter → text. Options that are absent in this row may only be the last ones: a gap would shift the letters."""
    if isinstance(columns, str):
        value = values.get(columns)
        if isinstance(value, Mapping):
            return _lettered(value)
        if not isinstance(value, list | tuple):
            raise ValueError(f"the options are neither letters with texts nor a list: {shown(str(value))!r}")  # noqa: TRY004
        texts = [_text({columns: text}, columns) for text in value]
    else:
        texts = [_text(values, column) for column in columns]
    while texts and not texts[-1]:
        texts.pop()
    if len(texts) > len(LETTERS):
        raise ValueError(f"{len(texts)} options: at most {len(LETTERS)} are read")
    if "" in texts:
        raise ValueError(f"option {LETTERS[texts.index('')]} is empty")
    return dict(zip(LETTERS, texts, strict=False))


def _lettered(value: Mapping[str, Any]) -> dict[str, str]:
    """Options that come with their letters; one without a text isn't there."""
    options = {str(letter).strip().upper(): _text(value, letter) for letter in value}
    if unknown := [letter for letter in options if letter not in LETTERS or len(letter) != 1]:
        raise ValueError(f"option {shown(unknown[0])!r} is called neither A nor by a letter up to {LETTERS[-1]}")
    return {letter: text for letter, text in options.items() if text}


def _name(number: int, place: str, id_: str) -> str:
    """How a message names a row: its place, and its id where it has one of its own."""
    return f"{place} (id {shown(id_)!r})" if id_ not in ("", str(number)) else place


def _refuse(origin: str, faults: list[tuple[int, str]]) -> None:
    """Raise when there are faults, all in one message."""
    if not faults:
        return
    told = [text for _, text in sorted(faults, key=lambda fault: fault[0])]
    if len(told) == 1:
        raise DataError(f"{origin}: {told[0]}")
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    raise DataError("\n  ".join([f"{origin}: {len(told)} faults", *told[:SHOWN], *more]))
