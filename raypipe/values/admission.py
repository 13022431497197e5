"""Brings tables from outside into the types and names in which rows travel. Knows nothing of where a table comes from.

Metadata of schemas and columns stay outside. Values keep their meaning and lose an encoding: dictionaries, run-end
encodings and views are unpacked, extension types become what they are stored as (a UUID stays one), an interval of
months, days and nanoseconds becomes a struct of these. Refused is what has no meaning here: unions, periods of pandas,
time zones unknown to this machine, texts that are not UTF-8, two columns of one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.row import RESERVED, ROUTE
from raypipe.values.byte_bounds import MOST_COLUMNS

_INTERVAL = pa.struct([("months", pa.int32()), ("days", pa.int32()), ("nanoseconds", pa.int64())])
_ADVICE = "convert it to text or numbers before it is read"


class _Refused(Exception):
    """Why a type cannot be taken."""


def admit_table(table: pa.Table, where: str) -> pa.Table:
    """The same rows, without lineage. Raises InputError, which names `where`, the column and its type."""
    check_names(table.column_names, where)
    table = table.drop_columns([name for name in table.column_names if name in RESERVED])
    plain = _admitted_schema(table.schema, where)
    if not plain.equals(table.schema, check_metadata=True):
        columns: list[Any] = []
        for column, field in zip(table.columns, plain, strict=True):
            try:
                columns.append(_convert(column, field.type))
            except (_Refused, pa.ArrowException, OverflowError, ValueError) as error:
                problem = f"which cannot become {field.type} ({error}); write it as one"
                raise InputError(f"{where}: column {field.name!r} has the type {column.type}, {problem}") from None
        # A table of no columns forgets how many rows it has.
        table = pa.Table.from_arrays(columns, schema=plain) if columns else table.replace_schema_metadata(None)
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            problem = f"has values that its type {column.type} does not allow ({error}); write the column again"
            raise InputError(f"{where}: column {name!r} {problem}") from None
    return table


def check_names(names: Sequence[str], where: str) -> None:
    """Raises InputError for a name that no column may have, and for one that two have."""
    if ROUTE in names:
        raise InputError(f"{where} has the column {ROUTE!r}, a name kept for the ways that rows take; rename it")
    if len(names) > MOST_COLUMNS:
        problem = f"{len(names):,} columns, more than the {MOST_COLUMNS:,} that a table may have"
        raise InputError(f"{where} has {problem}; put them into one column, as a mapping or a list")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where} has two columns {twice!r}; rename one")


@lru_cache(maxsize=256)
def _admitted_schema(schema: pa.Schema, where: str) -> pa.Schema:
    fields: list[pa.Field] = []
    for field in schema:
        try:
            fields.append(pa.field(field.name, _admitted_type(field.type)))
        except _Refused as refused:
            raise InputError(f"{where}: column {field.name!r} has the type {field.type}, {refused}") from None
    return pa.schema(fields)


def _admitted_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _stored(kind)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _admitted_type(kind.value_type)
    if pa.types.is_nested(kind):
        return _nested(kind)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        _check_zone(kind.tz)
    if pa.types.is_interval(kind):
        return _INTERVAL
    return _UNPACKED.get(kind, kind)


_UNPACKED = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def _stored(kind: Any) -> pa.DataType:
    name = kind.extension_name
    if name == "arrow.uuid":
        return pa.uuid()
    if name == "pandas.period":
        raise _Refused(f"whose numbers are not dates by themselves; {_ADVICE}")
    return pa.bool_() if name == "arrow.bool8" else _admitted_type(kind.storage_type)


def _nested(kind: Any) -> pa.DataType:
    if pa.types.is_union(kind):
        raise _Refused("whose values have no type in common; write it as one type, for example as text")
    if pa.types.is_map(kind):
        return pa.map_(_admitted_type(kind.key_type), _admitted_type(kind.item_type))
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        if len(set(names)) < len(names):
            raise _Refused("with two fields of one name; rename one")
        return pa.struct([(name, _admitted_type(kind.field(index).type)) for index, name in enumerate(names)])
    inner = _admitted_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind) and kind.list_size:
        return pa.list_(inner, kind.list_size)
    return (
        pa.large_list(inner) if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind) else pa.list_(inner)
    )


def _check_zone(name: str) -> None:
    try:
        pa.array([0], pa.timestamp("s", name))[0].as_py()
        if name[:1] not in "+-":
            ZoneInfo(name)
    except (ValueError, OSError, LookupError, pa.ArrowException):
        raise _Refused(f"with the time zone {name!r}, which this machine does not know; write UTC") from None


def _convert(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    stored = _as_stored(column.type)
    if stored is not column.type:
        column = column.cast(stored)  # or not at all: a value of a library's type is never made
    if "_view<" not in str(column.type):  # a cast of list views gives arrays that are not whole (pyarrow 26)
        try:
            return column.cast(kind)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            pass
    values = column.to_pylist()
    if kind.equals(_INTERVAL):
        names = [field.name for field in kind]
        values = [None if value is None else dict(zip(names, value, strict=True)) for value in values]
    return pa.chunked_array([pa.array(values, kind)], kind)


def _as_stored(kind: Any) -> Any:
    """The type with what a library's types within it are stored as; itself where there are none."""
    if isinstance(kind, pa.ExtensionType):
        return _as_stored(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return kind if _as_stored(kind.value_type) is kind.value_type else _as_stored(kind.value_type)
    if not pa.types.is_nested(kind):
        return kind
    inner = [kind.field(index) for index in range(kind.num_fields)]
    made = [_as_stored(field.type) for field in inner]
    if all(one is field.type for one, field in zip(made, inner, strict=True)):
        return kind
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, one) for field, one in zip(inner, made, strict=True)])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(made[0], kind.list_size)
    make = next((make for is_one, make in _LISTS if is_one(kind)), None)
    if make is None:
        raise _Refused("which holds values of a library's type; write them plainly")
    return make(made[0])


_LISTS = (
    (pa.types.is_list, pa.list_),
    (pa.types.is_large_list, pa.large_list),
    (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)
