"""Columns: which column holds which part of an example, and how raw rows become examples through that map."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic import ValidationError

from medgrpo.data.formats import RawRow
from medgrpo.data.labels import LETTERS, Labels
from medgrpo.data.normalise import normalise
from medgrpo.data.patient_data import listed, shown
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
    """Column of the gold answer: a number, a range, a date, a text; of a choice the option's letter, number or text."""
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
    """Column of the tolerance of a number, or of each end of a range."""
    lower: str = ""
    """Column of the lowest number that is right. Goes with `upper`."""
    upper: str = ""
    """Column of the highest number that is right. Goes with `lower`."""
    unit: str = ""
    """Column of the unit."""
    aliases: str = ""
    """For kind `text`: column of other texts that are right too: a list, a list as JSON, or a text with `|` between."""
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
        return {*parts, self.unit, self.aliases, self.topic, self.reasoning, *options} - {""}


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
    reader, left = RowReader(columns, kind, origin, citation), iter(rows)
    drafts = [draft for row in islice(left, limit or None) if (draft := reader.draft(row))]
    reader.look_ahead(left)
    reader.settle()
    examples = [example for draft in drafts if (example := reader.finish(draft))]
    reader.refuse()
    if not examples:
        raise DataError(f"{origin}: no rows")
    return examples


class Draft(NamedTuple):
    """A row's values as the parts of an example; the gold of a choice not yet as a letter."""

    number: int
    place: str
    fields: dict[str, Any]
    """An example's, but for the citation."""
    gold_text: str
    """What the row says that the text of the gold option is."""


class Fault(NamedTuple):
    """What is wrong with a row; with all rows: number 0."""

    number: int
    text: str
    is_unreadable: bool = False
    """Whether the row couldn't be read at all: it then says nothing about the columns."""


class RowReader:
    """Reads rows in two passes, since what a label means shows only when all are seen.

    First `draft` every row, then `settle`, then `finish` every draft. Both passes note faults; `refuse` tells them.
    """

    def __init__(self, columns: ColumnMap, kind: Kind, origin: str, citation: str) -> None:
        """Start without a row."""
        self.columns, self.kind, self.origin, self.citation = columns, kind, origin, citation
        self.labels = Labels(columns.label_base)
        self.faults: list[Fault] = []
        self._seen: set[str] = set()

    def draft(self, row: RawRow) -> Draft | None:
        """The first pass; None where the row has a fault."""
        try:
            return self._draft(row)
        except ValueError as error:
            named = _name(row.number, row.place, str(row.values.get(self.columns.id) or ""))
            self.faults.append(Fault(row.number, f"{named}: {error}", bool(row.fault)))
            return None

    def look_ahead(self, rows: Iterator[RawRow]) -> None:
        """See rows that don't become examples, as long as they may tell what labels mean."""
        for row in rows:
            if not self.labels.is_open:
                break
            with suppress(ValueError):
                self._draft(row)

    def settle(self) -> None:
        """End the first pass.

        Raises:
            DataError: a column is in no row (JSON leaves out what is empty, so in some it may be absent), or the labels
                have no one meaning.
        """
        if self._seen and (missing := self.columns.names() - self._seen):
            absent = f"no column {', '.join(map(repr, sorted(missing)))} (data.source.columns)"
            told = Fault(0, f"{absent}; the columns are: {listed(sorted(map(str, self._seen)))}")
            # The faults of values would say the same again, row by row; those of rows that can't be read are news.
            self.faults = [told, *(fault for fault in self.faults if fault.is_unreadable)]
            self.refuse()
        try:
            self.labels.settle()
        except ValueError as error:
            self.faults.append(Fault(0, f"column {self.columns.gold!r}: {error}"))
            self.refuse()

    def finish(self, draft: Draft) -> Example | None:
        """The second pass; None where the draft has a fault."""
        try:
            return self._finish(draft)
        except ValueError as error:
            named = _name(draft.number, draft.place, draft.fields["id"])
            self.faults.append(Fault(draft.number, f"{named}: {error}"))
            return None

    def refuse(self) -> None:
        """Raise when there are faults, all in one message."""
        if not self.faults:
            return
        told = [fault.text for fault in sorted(self.faults, key=lambda fault: fault.number)]
        if len(told) == 1:
            raise DataError(f"{self.origin}: {told[0]}")
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        raise DataError("\n  ".join([f"{self.origin}: {len(told)} faults", *told[:SHOWN], *more]))

    def _draft(self, row: RawRow) -> Draft:
        values, columns = row.values, self.columns
        self._seen |= values.keys()
        if row.fault:
            raise ValueError(row.fault)
        kind = _kind(values, columns.kind, self.kind)
        fields: dict[str, Any] = {
            "id": _text(values, columns.id) or str(row.number),
            "kind": kind,
            "question": _text(values, columns.question),
            "gold": _text(values, columns.gold),
            "topic": _text(values, columns.topic) or "general",
            "reasoning": _text(values, columns.reasoning),
            "original": _text(values, columns.original),
        }
        gold_text = ""
        if kind == "choice":
            fields["options"] = _options(values, columns.options)
            gold_text = _text(values, columns.gold_text)
            self.labels.see(row.place, fields["gold"], fields["options"])
        elif kind in ("numeric", "range"):
            fields["unit"] = _text(values, columns.unit)
            fields["tolerance"] = _number(values, columns.tolerance) or 0.0
            fields["limits"] = _limits(values, columns) if kind == "numeric" else None
        elif kind == "text":
            fields["aliases"] = _aliases(values, columns.aliases)
        return Draft(row.number, row.place, fields, gold_text)

    def _finish(self, draft: Draft) -> Example:
        fields, stated = draft.fields, draft.gold_text
        if fields["kind"] == "choice":
            options = fields["options"]
            gold = self.labels.letter(fields["gold"], options)
            if stated and gold and options.get(gold) != stated:
                named = f"the gold is option {gold}, {shown(options.get(gold, ''))!r}"
                raise ValueError(f"{named}, but its text is given as {shown(stated)!r}: are the labels shifted?")
            fields = fields | {"gold": gold}
        try:
            return Example(citation=self.citation, **fields)
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


def _aliases(values: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Other texts that are right, in their order, each once."""
    value = values.get(column) if column else None
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"column {column!r} starts like a list as JSON, but isn't one: {shown(value)!r}"
            ) from error
    texts = value if isinstance(value, list | tuple) else _text(values, column).split("|")
    if odd := [text for text in texts if not isinstance(text, str | None)]:
        raise ValueError(f"column {column!r}: {shown(str(odd[0]))!r} is no text")
    return tuple(dict.fromkeys(text for part in texts if (text := _text({column: part}, column))))


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
    letters = {key: str(key).strip().upper() for key in value}
    if unknown := [letter for letter in letters.values() if letter not in LETTERS or len(letter) != 1]:
        raise ValueError(f"option {shown(unknown[0])!r} is called neither A nor by a letter up to {LETTERS[-1]}")
    options: dict[str, str] = {}
    for key, letter in letters.items():
        if not (text := _text(value, key)):
            continue
        if letter in options:
            raise ValueError(f"two options are called {letter}")
        options[letter] = text
    return options


def _name(number: int, place: str, id_: str) -> str:
    """How a message names a row: its place, and its id where it has one of its own."""
    return f"{place} (id {shown(id_)!r})" if id_ not in ("", str(number)) else place
