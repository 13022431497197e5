"""Reads Parquet files. Knows nothing of what the columns mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.security.untrusted_tables import open_parquet
from raypipe.values.byte_bounds import READ_BYTES


def names(path: str) -> list[str]:
    """Columns, from the footer."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def count(path: str, limit: int) -> int:
    """Number of rows, from the footer; `limit` is not needed."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def tables(path: str, batch_rows: int) -> Iterator[pa.Table]:
    """Row group after row group, in tables of at most `batch_rows` rows."""
    with _opened(path) as file:
        try:
            for group in range(file.num_row_groups):
                at_once = _rows_at_once(file.metadata.row_group(group), batch_rows)
                if at_once == _FEW_ROWS < batch_rows and _is_as_written(file, group):
                    at_once = min(_SOME_ROWS, batch_rows)
                batches = file.iter_batches(batch_size=at_once, row_groups=[group])
                yield from _gathered(batches, batch_rows)
        except pa.ArrowInvalid as error:
            raise _damaged(path, error) from None


def _rows_at_once(group: Any, batch_rows: int) -> int:
    """How many rows of a row group are decoded at once, so that they are not many bytes.

    Where values are written once and repeated, the file does not say how large they become.
    """
    repeated = 0
    for number in range(group.num_columns):
        column = group.column(number)
        if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
            repeated += column.total_uncompressed_size
    known = READ_BYTES * group.num_rows // max(1, group.total_byte_size)
    unknown = max(_FEW_ROWS, READ_BYTES // repeated) if repeated else batch_rows
    return max(1, min(batch_rows, known, unknown))


def _is_as_written(file: Any, group: int) -> bool:
    """Whether the first rows of a group become no larger than the file says that its rows are."""
    first = next(file.iter_batches(batch_size=_FEW_ROWS, row_groups=[group]), None)
    metadata = file.metadata.row_group(group)
    return first is not None and first.nbytes * metadata.num_rows <= 2 * first.num_rows * metadata.total_byte_size


def _gathered(batches: Iterator[Any], batch_rows: int) -> Iterator[pa.Table]:
    held: list[Any] = []
    rows = size = 0
    for batch in batches:
        if held and (rows + batch.num_rows > batch_rows or size + batch.nbytes > READ_BYTES):
            yield _joined(held)
            held, rows, size = [], 0, 0
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if rows:
        yield _joined(held)


def _joined(batches: list[Any]) -> pa.Table:
    table = pa.Table.from_batches(batches)
    return table.combine_chunks() if len(batches) > _MANY_CHUNKS else table


_FEW_ROWS, _SOME_ROWS = 64, 512
_MANY_CHUNKS = 4
_BUFFER_BYTES = 1 << 20


def _opened(path: str) -> Any:
    # Buffering ahead would hold every row group of the file until its end, no buffer a whole column of one.
    try:
        return open_parquet(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(f"file {path!r} is no whole Parquet file ({error}); write it again or leave it out")
