"""Turns Python values into Arrow arrays and back without changing one. Knows nothing of files.

Where the values of one column have no common type (a number here, a text there), a written column becomes text: texts
as they are, everything else as JSON. On their way between steps such values are carried exactly as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from raypipe.values import exact

ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError)


def parse_arrow_type(name: str) -> pa.DataType | None:
    """The Arrow type named `name` (`string`, `int64`, `double`, `bool`, `list<…>`); `None` for `""`."""
    if not name:
        return None
    if name.startswith("list<") and name.endswith(">"):
        inner = parse_arrow_type(name[5:-1])
        return None if inner is None else pa.list_(inner)
    return pa.type_for_alias(name)


def to_array(values: Sequence[Any], type_name: str = "") -> pa.Array:
    """Python values as an Arrow array, of the named type where they fit it."""
    wanted = parse_arrow_type(type_name)
    made = _fitting(values, wanted)
    if made is None and wanted is not None and not pa.types.is_string(wanted):
        made = _fitting(values, None)
    return pa.array([to_text(value) for value in values], pa.string()) if made is None else made


def _fitting(values: Sequence[Any], wanted: pa.DataType | None) -> pa.Array | None:
    """The values under a type, by default the one that pyarrow finds; `None` where they do not fit one."""
    try:
        made = pa.array(values, wanted)
    except ARROW_ERRORS:
        return None
    if isinstance(made.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return made if is_writable(made.type) and not _is_changed(made.type, values) else None


def _is_changed(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether pyarrow changed values to fit a type: 0.5 becomes 0, False 0.0, a text bytes or a list, times are cut."""
    if pa.types.is_integer(kind):
        return any(isinstance(value, float) and not value.is_integer() for value in values)
    if pa.types.is_floating(kind):
        return any(value is True or value is False for value in values)
    if pa.types.is_binary(kind):
        return any(isinstance(value, str) for value in values)
    if pa.types.is_string(kind):  # pyarrow takes bytes for texts, and does not look whether they are any
        return bool(_OCTETS & set(map(type, values)))
    if pa.types.is_date(kind):
        return any(isinstance(value, datetime) for value in values)
    if pa.types.is_list(kind):
        inner, there = kind.value_type, [value for value in values if value is not None]
        if any(isinstance(value, str | bytes | Mapping) for value in there):
            return True
        return not pa.types.is_boolean(inner) and any(_is_changed(inner, value) for value in there)
    if pa.types.is_struct(kind):
        there = [value for value in values if value is not None]
        return any(_is_changed(field.type, [value.get(field.name) for value in there]) for field in kind)
    return False


_OCTETS = frozenset({bytes, bytearray, memoryview})


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; a moment or a duration that Python has no value for is a text."""
    try:
        return table.to_pylist()
    except (OverflowError, ValueError, pa.ArrowException):
        columns = [to_values(column) for column in table.columns]
        return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def to_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of one column, as in `to_rows`."""
    try:
        return column.to_pylist()
    except (OverflowError, ValueError, pa.ArrowException):
        return [_value_of(scalar) for scalar in column]


def _value_of(scalar: Any) -> Any:
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_struct(kind):
        return {name: _value_of(item) for name, item in scalar.items()}
    if pa.types.is_map(kind):
        return [(_value_of(pair["key"]), _value_of(pair["value"])) for pair in scalar.values]
    if pa.types.is_nested(kind):
        return [_value_of(item) for item in scalar.values]
    try:
        return scalar.as_py()
    except (OverflowError, ValueError, pa.ArrowException):
        return _time_text(scalar.value, kind)


def _time_text(number: int, kind: Any) -> str:
    """A moment in ISO 8601 (in UTC where it has a time zone), a duration with its unit."""
    if pa.types.is_duration(kind):
        return f"{number} {kind.unit}"
    unit: Any = {"date32[day]": "D", "date64[ms]": "ms"}.get(str(kind)) or kind.unit
    return f"{np.datetime64(number, unit)}{'Z' if getattr(kind, 'tz', None) else ''}"


def to_text(value: Any) -> str | None:
    """A value as text: `None` and texts as they are, everything else as JSON.

    What JSON cannot hold becomes text: NaN, other objects, halves of a surrogate pair (as their escapes).
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else _json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    # Not orjson: it has no integers beyond 64 bits and turns NaN into null.
    write = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_json)
    try:
        return write(value)
    except (TypeError, ValueError):
        pass
    try:
        return write(_with_finite_numbers(value))
    except RecursionError:
        return repr(value)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _with_finite_numbers(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_with_finite_numbers(item) for item in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]


def _as_json(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sets_to_lists(cast("set[Any]", value))
    return value.isoformat() if isinstance(value, date | time) else str(value)


def sets_to_lists(value: Any) -> Any:
    """The same value with lists in place of sets, in an order that does not depend on the process."""
    if isinstance(value, set | frozenset):
        return [sets_to_lists(item) for item in sorted(cast("set[Any]", value), key=exact.dumps)]
    if isinstance(value, dict):
        return {key: sets_to_lists(item) for key, item in cast("dict[Any, Any]", value).items()}
    return [sets_to_lists(item) for item in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def is_writable(kind: pa.DataType, depth: int = 0) -> bool:
    """Whether Parquet and its readers have the type: no struct without fields, no type nested for ever.

    A column that has not is written as text, each value as JSON (`{}` of an empty mapping), null where it is null.
    """
    if isinstance(kind, pa.BaseExtensionType) or depth > _MOST_NESTED:
        return False
    if not pa.types.is_nested(kind):
        return not pa.types.is_interval(kind)
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return bool(inner) and not pa.types.is_union(kind) and all(is_writable(one, depth + 1) for one in inner)


_MOST_NESTED = 24


class _AsIsScalar(pa.ExtensionScalar):  # pyright: ignore[reportUntypedBaseClass]
    def as_py(self, **_: Any) -> Any:
        return None if self.value is None else exact.loads(self.value.as_py())


class AsIs(pa.ExtensionType):  # pyright: ignore[reportUntypedBaseClass]
    """Python values that have no Arrow type in common; between steps each is carried exactly as it is, as tagged JSON.

    The type is not registered: a file that names it has bytes in its columns. See `restored`.
    """

    NAME = "raypipe.as_is"

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), self.NAME)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> AsIs:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[pa.ExtensionScalar]:
        return _AsIsScalar

    def __reduce__(self) -> tuple[Any, ...]:
        return AsIs, ()


AS_IS = AsIs()


def restore_as_is(table: pa.Table) -> pa.Table:
    """A table that comes from another process of the run, with the columns that were carried as they are."""
    fields = [_restored(field) for field in table.schema]
    if all(field.type is before.type for field, before in zip(fields, table.schema, strict=True)):
        return table
    return table.cast(pa.schema(fields))


def _restored(field: pa.Field) -> pa.Field:
    if (field.metadata or {}).get(_NAMED) == AsIs.NAME.encode():
        return pa.field(field.name, AS_IS)
    kind = field.type
    if not pa.types.is_nested(kind):
        return field
    inner = [kind.field(index) for index in range(kind.num_fields)]
    made = [_restored(one) for one in inner]
    if all(one.type is before.type for one, before in zip(made, inner, strict=True)):
        return field
    # Whatever was carried as it is stands in lists and structs that are made here, and in no other type.
    return pa.field(field.name, pa.struct(made) if pa.types.is_struct(kind) else pa.list_(made[0]), field.nullable)


_NAMED = b"ARROW:extension:name"


def to_lossless_array(values: Sequence[Any], type_name: str = "") -> pa.Array:
    """Values on their way between steps: what the next step reads does not depend on which ones travel together.

    They have the named type where they fit it; without a name, the type of their one kind (texts, integers, …).
    """
    wanted = parse_arrow_type(type_name)
    if wanted is not None and pa.types.is_string(wanted):
        return to_array(values, type_name)
    types = set(map(type, values)) - {type(None)}
    if list in types:
        kinds = {_kind(value) for value in values if value is not None}
        is_of_one_kind = len(kinds) < 2 and None not in kinds
    else:
        is_of_one_kind = len(types) < 2 and types <= _PLAIN
    if wanted is not None or is_of_one_kind:
        made = _fitting(values, wanted)
        if made is not None:
            return made
    return as_is_array(values)


def _kind(value: Any, depth: int = 0) -> str | None:
    """The kind of a value that Arrow gives back as it was, whatever it travels with; `None` of any other."""
    if isinstance(value, list):
        items = {_kind(item, depth + 1) for item in cast("list[Any]", value)} if depth < _MOST_LISTS else {None}
        return f"list of {items.pop()}" if len(items) == 1 and None not in items else None
    return type(value).__name__ if type(value) in _PLAIN else None


_PLAIN = frozenset({str, int, float, bool, bytes})
_MOST_LISTS = 16
"""Lists in one another: readers of Arrow's format take no more than 64 types in one another."""


def as_is_array(values: Iterable[Any]) -> pa.Array:
    """Plain values, each exactly as it is."""
    written = [None if value is None else exact.dumps(value) for value in values]
    return pa.ExtensionArray.from_storage(AS_IS, pa.array(written, pa.large_binary()))
