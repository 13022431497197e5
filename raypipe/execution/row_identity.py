"""Gives the rows of a source their identities: content alone counts, and which of several equal rows one is.

Content is Arrow's types and values: what a library makes of them in Python does not count, nor a file's name, nor its
place, nor the rows beside. Knows nothing of who reads the rows.

Version 1 is that of raypipe 0.1.0, for call logs that were begun by it: there the name of the file counts, and moments
are what Arrow gives Python, which depends on pandas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from raypipe.contracts.step import Unit
from raypipe.identity import canonical_json, row_identity, source_identity
from raypipe.values.arrays import to_rows, to_values

VERSION, FIRST_VERSION = 2, 1
Number = Callable[[int, int, Sequence[bytes]], dict[int, int]]
"""Numbers equal rows: `Occurrences.number`, here or in another process."""

_GUESSED = re.compile(
    r"(-?(?:0|[1-9]\d{0,17}))|(-?(?:0|[1-9]\d{0,14})(?:\.\d*)?(?:[eE][+-]?\d{1,2})?)|(?:true|True|TRUE|false|False|FALSE)|"
)
"""What a file without types may hold as a number, a truth value or nothing, depending on the rest of its column."""
_LONGEST_GUESSED = 24
_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class RowIdentifier:
    """Identifies the rows of one unit, table after table, in order. `number` is where equal rows are counted."""

    def __init__(self, unit: Unit, place: int, number: Number) -> None:
        self._place, self._number = place, number
        self._is_guessed = unit.has_guessed_types
        self._rows = 0

    def identify(self, named: pa.Table) -> list[bytes]:
        """One identity a row. `named`: the columns that count."""
        contents = _contents(named, self._is_guessed)
        ids = [row_identity(content, 0) for content in contents]
        for index, number in self._number(self._place, self._rows, ids).items():
            ids[index] = row_identity(contents[index], number)
        self._rows += len(ids)
        return ids


class FirstVersionIdentifier:
    """Identifies the rows of one unit as raypipe 0.1.0 did."""

    def __init__(self, unit: Unit) -> None:
        self._name = unit.name
        self._seen: dict[bytes, int] = {}

    def identify(self, named: pa.Table) -> list[bytes]:
        """One identity a row. `named`: the columns that count."""
        ids: list[bytes] = []
        is_plain = all(map(_is_plain, named.columns))
        for row in to_rows(named):
            content = _sorted_json(row) if is_plain else canonical_json(_without_nulls(row))
            first = source_identity(content, self._name, 0)
            occurrence = self._seen[first] = self._seen.get(first, -1) + 1
            ids.append(first if not occurrence else source_identity(content, self._name, occurrence))
        return ids


Identifier = RowIdentifier | FirstVersionIdentifier


def identifier_of(unit: Unit, place: int, version: int, number: Number) -> Identifier:
    """What identifies the rows of a unit, the `place`-th of its source."""
    return FirstVersionIdentifier(unit) if version == FIRST_VERSION else RowIdentifier(unit, place, number)


_sorted_json = partial(orjson.dumps, option=orjson.OPT_SORT_KEYS)


def _is_plain(column: pa.ChunkedArray) -> bool:
    """Whether canonical JSON writes the values as they are: texts and integers, none of them null."""
    return not column.null_count and (pa.types.is_string(column.type) or pa.types.is_integer(column.type))


def _contents(table: pa.Table, is_guessed: bool) -> list[bytes]:
    """The canonical content of each row."""
    if not is_guessed and all(map(_is_plain, table.columns)):
        return list(map(_sorted_json, to_rows(table)))
    columns: list[list[Any]] = []
    is_plain = True
    for column in table.columns:
        is_plain = is_plain and _is_plain(column)
        values = to_values(column) if _is_like_json(column.type) else list(map(_canonical, column))
        if is_guessed and pa.types.is_string(column.type):
            guessed = [_guess(value) for value in values]
            is_plain, values = is_plain and guessed == values, guessed
        columns.append(values)
    names = table.column_names
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)) if names else ({},) * len(table)
    if is_plain:
        return list(map(_sorted_json, rows))
    return [canonical_json(_without_nulls(row)) for row in rows]


def _guess(text: str | None) -> Any:
    """A text from a file without types as what it would be in a column of its like."""
    if text is None or len(text) > _LONGEST_GUESSED or (found := _GUESSED.fullmatch(text)) is None:
        return text
    if not text:
        return None
    if found[1]:
        return int(text)
    return float(text) if found[2] else text.lower() == "true"


def _is_like_json(kind: pa.DataType) -> bool:
    """Whether Python has one value for each of Arrow's, whatever is installed."""
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        return False
    if pa.types.is_map(kind) or not pa.types.is_nested(kind):
        plain = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)
        return any(of(kind) for of in (*plain, pa.types.is_floating, pa.types.is_null))
    return all(_is_like_json(kind.field(index).type) for index in range(kind.num_fields))


def _canonical(scalar: Any) -> Any:
    """A value by its Arrow type, for canonical JSON: moments and durations as nanoseconds, decimals without scale."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        stored = scalar.value
        return stored.as_py() if not hasattr(stored, "type") else _canonical(stored)
    if pa.types.is_dictionary(kind):
        return _canonical(scalar.value)
    if pa.types.is_struct(kind):
        return {name: _canonical(item) for name, item in scalar.items()}
    if pa.types.is_map(kind):
        return [[_canonical(pair["key"]), _canonical(pair["value"])] for pair in scalar.values]
    if pa.types.is_nested(kind):
        return [_canonical(item) for item in scalar.values]
    return _canonical_leaf(scalar, kind)


def _canonical_leaf(scalar: Any, kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return {"$utc" if kind.tz else "$moment": scalar.value * _NS[kind.unit]}
    if pa.types.is_date32(kind):
        return {"$day": scalar.value}
    if pa.types.is_date64(kind):
        return {"$day": scalar.value // 86_400_000}
    if pa.types.is_time(kind):
        return {"$time": scalar.value * _NS[kind.unit]}
    if pa.types.is_duration(kind):
        return {"$duration": scalar.value * _NS[kind.unit]}
    value = scalar.as_py()
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return {"$decimal": digits.rstrip("0").rstrip(".") if "." in digits else digits}
    return value


def _without_nulls(value: Any) -> Any:
    """A value without its nulls: in a table, a row gets null fields from its neighbours."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
