"""Brings tables together under one schema, reads and writes them as Parquet. Knows nothing of what the values mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.concurrency.interruption import checkpoint
from raypipe.row import ANCESTORS, LINEAGE, OUTPUT_LINEAGE, PARENT_ID, PATH, POSITION, ROW_ID, SOURCE_ID
from raypipe.storage.digests import HashedFile
from raypipe.storage.paths import AnyPath, open_parquet_at, replacing
from raypipe.values.arrays import (
    ARROW_ERRORS,
    AS_IS,
    as_is_array,
    is_writable,
    restore_as_is,
    sets_to_lists,
    to_array,
    to_text,
    to_values,
)
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import size_bytes, split, take_rows

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


def unify_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
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
    except ARROW_ERRORS:
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
        return pa.array([to_text(value) for value in to_values(column)], pa.string())
    try:
        return column.cast(field.type)
    except ARROW_ERRORS:
        # Integers that no float equals become the nearest one.
        return column.cast(field.type, safe=False)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in order; a column whose type differs keeps its values as they are."""
    if len(tables) == 1:
        return tables[0]
    first = tables[0].schema
    if all(table.schema.equals(first) for table in tables[1:]):
        return pa.concat_tables(tables)
    types: dict[str, pa.DataType] = {}
    for field in (field for table in tables for field in table.schema):
        before = types.get(field.name, field.type)
        if pa.types.is_null(before):
            types[field.name] = field.type
        else:
            types[field.name] = before if before.equals(field.type) or pa.types.is_null(field.type) else AS_IS
    return pa.concat_tables([_with_types(table, types) for table in tables])


def _with_types(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    columns: dict[str, Any] = {}
    for name, kind in types.items():
        column = table.column(name) if name in table.column_names else pa.nulls(table.num_rows)
        if column.type.equals(kind):
            columns[name] = column
        elif pa.types.is_null(column.type):
            columns[name] = pa.nulls(table.num_rows, kind)
        else:
            columns[name] = as_is_array(column.to_pylist())
    return pa.table(columns)


def settle_types(table: pa.Table) -> pa.Table:
    """The same rows as they are written: values that were carried as they are get the type they have in common.

    What has a type that Parquet files do not have becomes text; see `is_writable`.
    """
    for index, field in enumerate(table.schema):
        if not is_writable(field.type):
            values = [sets_to_lists(value) for value in to_values(table.column(index))]
            table = table.set_column(index, field.name, to_array(values))
    return table


def to_ipc(table: pa.Table) -> pa.Buffer:
    """A table in Arrow's own format, without what it is a slice of."""
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def from_ipc(content: pa.Buffer | bytes) -> pa.Table:
    """A table that `to_ipc` of this run wrote."""
    return restore_as_is(pa.ipc.open_stream(content).read_all())


def write_part(place: AnyPath, table: pa.Table) -> str:
    """Write one file so that a reader sees all of it or none; its digest.

    Its folder is made, but not the one above: where that is gone, so is the run folder. Raises OSError.
    """
    place.parent.mkdir(exist_ok=True)
    with replacing(place) as target, ExitStack() as stack:
        file = HashedFile(stack.enter_context(target.open("wb")) if isinstance(target, Path) else target)
        with open_part_writer(file, table.schema) as writer:
            write_groups(writer, table)
    return file.digest


def open_part_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a file that is read once and removed: it packs fast rather than well."""
    return pq.ParquetWriter(
        file, schema, compression="lz4", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )


def write_groups(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Write rows in row groups small enough that those of many parts are held at once."""
    for group in split(table, _ROWS_PER_GROUP, _PART_GROUP_BYTES):
        writer.write_table(group)


def to_output_columns(table: pa.Table) -> pa.Table:
    """User columns, then lineage as the output has it (identities as hexadecimal text)."""
    own = [name for name in table.column_names if name not in LINEAGE]
    ids = _hexadecimal(table.column(ROW_ID).combine_chunks())
    ancestors = table.column(ANCESTORS).combine_chunks()
    first = last = pa.nulls(table.num_rows, pa.string())
    if len(ancestors.values):
        first, last = (_hexadecimal(column) for column in _ends(ancestors))
    lineage = {
        ROW_ID: ids,
        PARENT_ID: last,
        SOURCE_ID: first.fill_null(ids),
        POSITION: table.column(POSITION),
        PATH: table.column(PATH),
    }
    made = table.select(own)
    for name, column in lineage.items():
        made = made.append_column(name, column)
    return made


def _hexadecimal(ids: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """Identities as text; null where they are, which they may be in an array that begins where its buffers do."""
    count, width = len(ids), ids.type.byte_width
    content = ids.buffers()[1]
    if content is None:
        return pa.nulls(count, pa.string())
    octets = np.frombuffer(content, np.uint8)[ids.offset * width : (ids.offset + count) * width]
    offsets = np.arange(count + 1, dtype=np.int32) * (2 * width)
    is_valid = ids.buffers()[0] if ids.null_count else None
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(_HEXADECIMAL[octets]), is_valid)


_HEXADECIMAL = np.array([f"{octet:02x}".encode() for octet in range(256)])


def _ends(lists: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """The first and the last item of each list; null where it has none."""
    offsets = lists.offsets.to_numpy()
    is_empty = offsets[1:] == offsets[:-1]
    first, last = (pa.array(at, mask=is_empty) for at in (offsets[:-1], offsets[1:] - 1))
    return lists.values.take(first), lists.values.take(last)


def sort_by_source(table: pa.Table) -> pa.Table:
    """Rows by source position, then by place among their siblings."""
    if table.num_rows < 2:
        return table
    if (np.diff(table.column(POSITION).to_numpy()) > 0).all():
        return table
    positions = table.column(POSITION).to_pylist()
    paths = table.column(PATH).to_pylist()
    order = sorted(range(table.num_rows), key=lambda row: (positions[row], paths[row]))
    return table if order == list(range(table.num_rows)) else take_rows(table, order)


def unify_file_schemas(paths: Sequence[AnyPath]) -> pa.Schema:
    """The schema that rows of all files fit."""
    return unify_schemas([open_parquet_at(path).schema_arrow for path in paths])


def read_tables(path: AnyPath, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a file under `schema`, row group after row group."""
    with open_parquet_at(path) as file:
        for number in range(file.num_row_groups):
            checkpoint()
            yield conform(file.read_row_group(number), schema)


def write_dataset(
    tables: Iterable[pa.Table], folder: AnyPath, schema: pa.Schema, bounds: Bounds | None = None
) -> tuple[int, list[str]]:
    """Write rows as files `part-00000.parquet`, … under one schema, which the tables have.

    Returns the number of rows, and the digest of each file in the order of their names.

    A column that never had a value is text: readers disagree about columns without a type. Without any row there is one
    file, so that readers find the columns. Raises OSError, StoppedError.
    """
    folder.mkdir(parents=True)
    bounds = bounds or Bounds()
    schema = pa.schema([pa.field(field.name, _null_as_text(field.type)) for field in schema])
    with_dictionary: Any = [name for name in schema.names if name not in OUTPUT_LINEAGE]
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": with_dictionary, "write_page_checksum": True}
    groups = _row_groups(tables, bounds.row_group_bytes)
    group: pa.Table | None = next(groups, schema.empty_table())
    rows, digests = 0, list[str]()
    while group is not None:
        file_rows = file_bytes = 0
        with ExitStack() as stack:
            file = HashedFile(stack.enter_context((folder / f"part-{len(digests):05d}.parquet").open("wb")))
            writer = stack.enter_context(pq.ParquetWriter(file, schema, **options))
            while group is not None and file_rows < ROWS_PER_FILE and file_bytes < bounds.file_bytes:
                writer.write_table(conform(group, schema), row_group_size=_ROWS_PER_GROUP)
                file_rows, file_bytes = file_rows + group.num_rows, file_bytes + size_bytes(group)
                group = next(groups, None)
        rows += file_rows
        digests.append(file.digest)
    return rows, digests


def _row_groups(tables: Iterable[pa.Table], most_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables that each become a row group: with enough rows or bytes, and no more bytes."""
    held: list[pa.Table] = []
    count = held_bytes = 0
    for table in tables:
        checkpoint()
        for part in split(table, max(1, table.num_rows), most_bytes):
            size = size_bytes(part)
            if held and held_bytes + size > most_bytes:
                yield pa.concat_tables(held)
                held, count, held_bytes = [], 0, 0
            held.append(part)
            count, held_bytes = count + part.num_rows, held_bytes + size
            if count >= _ROWS_PER_GROUP:
                yield pa.concat_tables(held)
                held, count, held_bytes = [], 0, 0
    if count:
        yield pa.concat_tables(held)


_ROWS_PER_GROUP = 50_000
_PART_GROUP_BYTES = 4 << 20
"""Of a row group of a part."""


def _null_as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_null_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _null_as_text(field.type)) for field in kind])
    return kind
