"""I read and write rows as Parquet, whole or not at all.

I also decide the Arrow type of Python values. Where the values of one column have no common type
(a number here, a text there), the column becomes text: texts as they are, everything else as JSON;
no value is dropped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.row import ANCESTORS, LINEAGE, PARENT_ID, PATH, POSITION, ROW_ID, SOURCE_ID

LINEAGE_SCHEMA = pa.schema(
    [
        (ROW_ID, pa.binary(16)),
        (ANCESTORS, pa.list_(pa.binary(16))),
        (POSITION, pa.int64()),
        (PATH, pa.list_(pa.int32())),
    ]
)
"""Lineage columns of rows between stages."""

ROWS_PER_FILE = 500_000
_ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError)


def type_named(name: str) -> pa.DataType | None:
    """The Arrow type called `name` (`string`, `int64`, `double`, `bool`, `list<…>`); `None` for `""`."""
    if not name:
        return None
    if name.startswith("list<") and name.endswith(">"):
        inner = type_named(name[5:-1])
        return None if inner is None else pa.list_(inner)
    return pa.type_for_alias(name)


def array_of(values: Sequence[Any], type_name: str = "") -> pa.Array:
    """Python values as an Arrow array, of the named type where they fit it."""
    wanted = type_named(type_name)
    made = _fitting(values, wanted)
    if made is None and wanted is not None and not pa.types.is_string(wanted):
        made = _fitting(values, None)
    return pa.array([text_of(value) for value in values], pa.string()) if made is None else made


def _fitting(values: Sequence[Any], wanted: pa.DataType | None) -> pa.Array | None:
    """The values under a type, by default the one that pyarrow finds; `None` where they do not fit one."""
    try:
        made = pa.array(values, wanted)
    except _ARROW_ERRORS:
        return None
    return made if _is_writable(made.type) and not _is_bent(made.type, values) else None


def _is_bent(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether pyarrow bent values to fit a type: 0.5 becomes 0, False 0.0, a text bytes or a list, times are cut."""
    if pa.types.is_integer(kind):
        return any(isinstance(value, float) and not value.is_integer() for value in values)
    if pa.types.is_floating(kind):
        return any(value is True or value is False for value in values)
    if pa.types.is_binary(kind):
        return any(isinstance(value, str) for value in values)
    if pa.types.is_date(kind):
        return any(isinstance(value, datetime) for value in values)
    if pa.types.is_list(kind):
        inner, there = kind.value_type, [value for value in values if value is not None]
        if any(isinstance(value, str | bytes | Mapping) for value in there):
            return True
        return not _is_safe(inner) and any(_is_bent(inner, value) for value in there)
    if pa.types.is_struct(kind):
        there = [value for value in values if value is not None]
        return any(_is_bent(field.type, [value.get(field.name) for value in there]) for field in kind)
    return False


def _is_safe(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_boolean(kind)


def text_of(value: Any) -> str | None:
    """A value as text: `None` and texts as they are, everything else as JSON.

    What JSON cannot say is said in words: NaN, other objects, the halves of a character (as their escapes).
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else _json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    # Not orjson: it has no integers beyond 64 bits and turns NaN into null.
    write = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_in_words)
    try:
        return write(value)
    except (TypeError, ValueError):
        pass
    try:
        return write(_sayable(value))
    except RecursionError:
        return repr(value)


def _sayable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _sayable(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]


def _in_words(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _is_writable(kind: pa.DataType) -> bool:
    """Parquet has no struct without fields."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_writable(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_writable(kind.value_type)
    return True


def unified_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema that rows of all `schemas` fit; columns in order of first appearance."""
    distinct = list(dict.fromkeys(schemas))
    if len(distinct) == 1:
        return distinct[0]
    fields: dict[str, pa.Field] = {}
    for schema in distinct:
        for field in schema:
            fields[field.name] = _unified_field(fields[field.name], field) if field.name in fields else field
    return pa.schema(list(fields.values()))


def _unified_field(a: pa.Field, b: pa.Field) -> pa.Field:
    if a.equals(b):
        return a
    try:
        united = pa.unify_schemas([pa.schema([a]), pa.schema([b])], promote_options="permissive").field(0)
    except _ARROW_ERRORS:
        return pa.field(a.name, pa.string())
    if pa.types.is_binary(united.type) and (pa.types.is_string(a.type) or pa.types.is_string(b.type)):
        return pa.field(a.name, pa.string())  # pyarrow would make bytes of texts
    return united


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows under `schema`; missing columns are null."""
    if table.schema.equals(schema):
        return table
    columns = [_conform_column(table, field) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _conform_column(table: pa.Table, field: pa.Field) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if column.type.equals(field.type):
        return column
    if pa.types.is_string(field.type) and not pa.types.is_null(column.type):
        return pa.array([text_of(value) for value in column.to_pylist()], pa.string())
    try:
        return column.cast(field.type)
    except _ARROW_ERRORS:
        # Integers that no float equals become the nearest one.
        return column.cast(field.type, safe=False)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in order, under their common schema."""
    if len(tables) == 1:
        return tables[0]
    first = tables[0].schema
    if all(table.schema.equals(first) for table in tables[1:]):
        return pa.concat_tables(tables)
    schema = unified_schema([table.schema for table in tables])
    return pa.concat_tables([conform(table, schema) for table in tables])


def write_part(path: Path, table: pa.Table) -> None:
    """Write one file so that a reader sees all of it or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def output_columns(table: pa.Table) -> pa.Table:
    """User columns, then lineage as it is written to the output (identities as hexadecimal text)."""
    own = [name for name in table.column_names if name not in LINEAGE]
    ids = [value.hex() for value in table.column(ROW_ID).to_pylist()]
    ancestors = table.column(ANCESTORS).to_pylist()
    lineage = {
        ROW_ID: pa.array(ids, pa.string()),
        PARENT_ID: pa.array([above[-1].hex() if above else None for above in ancestors], pa.string()),
        SOURCE_ID: pa.array(
            [above[0].hex() if above else own_id for above, own_id in zip(ancestors, ids, strict=True)], pa.string()
        ),
        POSITION: table.column(POSITION),
        PATH: table.column(PATH),
    }
    made = table.select(own)
    for name, column in lineage.items():
        made = made.append_column(name, column)
    return made


def sorted_by_source(table: pa.Table) -> pa.Table:
    """Rows by source position, then by place among their siblings."""
    if table.num_rows < 2:
        return table
    positions = table.column(POSITION).to_pylist()
    paths = table.column(PATH).to_pylist()
    order = sorted(range(table.num_rows), key=lambda row: (positions[row], paths[row]))
    return table if order == list(range(table.num_rows)) else table.take(pa.array(order))


def write_dataset(parts: Iterable[Path], folder: Path, empty: pa.Schema) -> int:
    """Parts, in the given order, as files `part-00000.parquet`, … of one schema. Returns the number of rows.

    Without any row there is one file with the schema `empty`, so that readers find the columns.
    """
    paths = list(parts)
    folder.mkdir(parents=True)
    schema = _without_nulls(unified_schema([pq.read_schema(path) for path in paths]) if paths else empty)
    writer: pq.ParquetWriter | None = None
    in_file = rows = number = 0
    for table in _tables(paths, schema):
        if writer is None:
            writer = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema, compression="zstd")
        writer.write_table(table)
        in_file, rows = in_file + table.num_rows, rows + table.num_rows
        if in_file >= ROWS_PER_FILE:
            writer.close()
            writer, in_file, number = None, 0, number + 1
    if writer is not None:
        writer.close()
    if not rows:
        pq.write_table(schema.empty_table(), folder / "part-00000.parquet", compression="zstd")
    return rows


def _tables(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    count = 0
    for path in paths:
        held.append(conform(pq.ParquetFile(path).read(), schema))
        count += held[-1].num_rows
        if count >= _ROWS_PER_GROUP:
            yield pa.concat_tables(held)
            held, count = [], 0
    if count:
        yield pa.concat_tables(held)


_ROWS_PER_GROUP = 50_000


def _without_nulls(schema: pa.Schema) -> pa.Schema:
    """A column that never had a value is text: readers disagree about columns without a type."""
    return pa.schema([pa.field(f.name, _typed(f.type)) for f in schema])


def _typed(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_typed(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _typed(f.type)) for f in kind])
    return kind
