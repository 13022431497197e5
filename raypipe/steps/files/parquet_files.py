"""Reads Parquet files. Knows nothing of what the columns mean."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.security.untrusted_tables import open_parquet
from raypipe.values.byte_bounds import READ_BYTES

_FEW_ROWS, _SOME_ROWS = 64, 512
_MANY_CHUNKS = 4
_BUFFER_BYTES = 1 << 20
_DAMAGED = "file {!r} is not a complete Parquet file ({}); write it again or leave it out"


def names(path: str) -> list[str]:
    """Columns, from the footer."""
    with _open(path) as file:
        return list(file.schema_arrow.names)


def count(path: str, limit: int) -> int:
    """Number of rows, from the footer; `limit` is not needed."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def tables(path: str, batch_rows: int) -> Iterator[pa.Table]:
    """Row group after row group, in tables of at most `batch_rows` rows."""
    with _open(path) as file:
        try:
            for group in range(file.num_row_groups):
                at_once = _rows_at_once(file.metadata.row_group(group), batch_rows)
                if at_once == _FEW_ROWS < batch_rows and _keeps_size(file, group):
                    at_once = min(_SOME_ROWS, batch_rows)
                batches = file.iter_batches(batch_size=at_once, row_groups=[group])
                yield from _join_batches(batches, batch_rows)
        except pa.ArrowInvalid as error:
            raise InputError(_DAMAGED.format(path, error)) from None


def _rows_at_once(group: Any, batch_rows: int) -> int:
    """How many rows of a row group are decoded at once, so that they are about `READ_BYTES` at most.

    Of values that are stored once and repeated, the file does not say how large they become.
    """
    repeated = 0
    for number in range(group.num_columns):
        column = group.column(number)
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
            repeated += column.total_uncompressed_size
    known = READ_BYTES * group.num_rows // max(1, group.total_byte_size)
    unknown = max(_FEW_ROWS, READ_BYTES // repeated) if repeated else batch_rows
    return max(1, min(batch_rows, known, unknown))


def _keeps_size(file: Any, group: int) -> bool:
    """Whether the first rows of a group become no larger in memory than the file says of all its rows."""
    first = next(file.iter_batches(batch_size=_FEW_ROWS, row_groups=[group]), None)
    metadata = file.metadata.row_group(group)
    return first is not None and first.nbytes * metadata.num_rows <= 2 * first.num_rows * metadata.total_byte_size


def _join_batches(batches: Iterator[Any], batch_rows: int) -> Iterator[pa.Table]:
    """Small batches joined to tables of at most `batch_rows` rows and about `READ_BYTES`."""
    held: list[Any] = []
    rows = size = 0
    for batch in chain(batches, (None,)):
        is_full = batch is None or rows + batch.num_rows > batch_rows or size + batch.nbytes > READ_BYTES
        if rows and is_full:
            table = pa.Table.from_batches(held)
            yield table.combine_chunks() if len(held) > _MANY_CHUNKS else table
            held, rows, size = [], 0, 0
        if batch is not None:
            held.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes


def _open(path: str) -> Any:
    # Buffering ahead would keep every row group in memory until the file's end; no buffer, a whole column of one.
    try:
        return open_parquet(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except pa.ArrowInvalid as error:
        raise InputError(_DAMAGED.format(path, error)) from None
