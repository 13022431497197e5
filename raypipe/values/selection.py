"""Picks rows of Arrow tables, and cuts tables by bytes, without copying what is large. Knows nothing of their meaning.

`take` copies: eight hundred children of a document are eight hundred documents, and texts beyond 2 GiB overflow. Large
values are picked as slices here, which share the memory that they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

_compute: Any = pyarrow.compute
_LARGE_VALUE_BYTES = 16 << 10
"""A copy of such a value costs more than a chunk of its own."""
_LARGE_COLUMN_BYTES = 32 << 20
_REPEATED_VALUE_BYTES = 1 << 10
"""The same where all of them together are large."""
_MOST_COPIED_BYTES = 512 << 20

_TEXT_TESTS: Any = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)

Numbers = Sequence[int] | np.ndarray


def take_rows(table: pa.Table, places: Numbers) -> pa.Table:
    """The rows at `places`, in this order; one of nulls where a place is negative."""
    at = np.asarray(places, np.int64)
    if not _may_be_large(table, len(at)):
        return table.take(_indices(at))
    return pa.Table.from_arrays([_values_at(column, at) for column in table.columns], schema=table.schema)


def filter_rows(table: pa.Table, is_chosen: np.ndarray | Sequence[bool]) -> pa.Table:
    """The rows for which it is true."""
    mask = np.asarray(is_chosen, bool)
    if mask.all():
        return table
    if not _may_be_large(table, len(mask)):
        return table.filter(pa.array(mask))
    return take_rows(table, np.flatnonzero(mask))


def split(table: pa.Table, most_rows: int, most_bytes: int) -> Iterator[pa.Table]:
    """The rows in order, in tables of at most so many rows and bytes; a row that is larger is one by itself."""
    rows = table.num_rows
    is_small = size_bytes(table) <= most_bytes
    if is_small and 0 < rows <= most_rows:
        yield table
        return
    ends = None if is_small else np.cumsum(_row_bytes(table))
    start = before = 0
    while start < rows:
        end = min(start + most_rows, rows)
        if ends is not None:
            fits = int(np.searchsorted(ends, before + most_bytes, side="right"))
            end = min(max(fits, start + 1), end)
            before = int(ends[end - 1])
        yield table if end - start == rows else table.slice(start, end - start)
        start = end


def count_fitting_rows(table: pa.Table, most_rows: int, most_bytes: int) -> int:
    """How many rows from the first on have no more rows and bytes; none where the first is larger."""
    if table.num_rows <= most_rows and size_bytes(table) <= most_bytes:
        return table.num_rows
    fits = int(np.searchsorted(np.cumsum(_row_bytes(table)), most_bytes, side="right"))
    return min(fits, most_rows, table.num_rows)


def size_bytes(table: pa.Table) -> int:
    """What the rows would take if none shared memory with another."""
    return table.nbytes


def held_bytes(table: pa.Table) -> int:
    """About the memory that the table keeps."""
    shared = table.get_total_buffer_size()
    return shared if shared < _LARGE_VALUE_BYTES else min(shared, table.nbytes)


def _row_bytes(table: pa.Table) -> np.ndarray:
    """The bytes of each row; where values are nested, each counts as much as its neighbours in the same chunk."""
    total = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if any(test(column.type) for test in _TEXT_TESTS):
            lengths = _compute.binary_length(column).fill_null(0)
            total += lengths.to_numpy().astype(np.int64) + 4
        else:
            counts = [len(chunk) for chunk in column.chunks]
            each = [-(-chunk.nbytes // max(1, len(chunk))) for chunk in column.chunks]
            total += np.repeat(np.asarray(each, np.int64), counts)
    return total


def _may_be_large(table: pa.Table, count: int) -> bool:
    """False where no column can be, which costs a twentieth of knowing it."""
    return table.get_total_buffer_size() * max(1, count) > _LARGE_COLUMN_BYTES


def _is_large(column: pa.ChunkedArray, count: int) -> bool:
    if pa.types.is_primitive(column.type) or not len(column):
        return False
    size = column.nbytes
    each = size / len(column)
    together = max(size, each * count)
    if each >= _LARGE_VALUE_BYTES or together > _MOST_COPIED_BYTES:
        return True
    return each >= _REPEATED_VALUE_BYTES and together > _LARGE_COLUMN_BYTES


def _indices(at: np.ndarray) -> pa.Array:
    missing = at < 0
    return pa.array(at, mask=missing) if missing.any() else pa.array(at)


def _values_at(column: pa.ChunkedArray, at: np.ndarray) -> pa.ChunkedArray:
    if not _is_large(column, len(at)):
        return column.take(_indices(at))
    chunks = column.chunks
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    where = np.where(at < 0, -1, np.searchsorted(starts, at, side="right") - 1)
    is_new = (np.diff(where) != 0) | ((np.diff(at) != 1) & (at[1:] >= 0))
    begins = np.flatnonzero(np.concatenate([[True], is_new])) if len(at) else np.zeros(0, np.int64)
    ends = np.append(begins[1:], len(at))
    picked = [
        chunks[chunk].slice(place, count) if chunk >= 0 else pa.nulls(count, column.type)
        for chunk, place, count in zip(
            where[begins].tolist(),
            (at[begins] - starts[where[begins]]).tolist(),
            (ends - begins).tolist(),
            strict=True,
        )
    ]
    return pa.chunked_array(picked, type=column.type)
