"""I read Parquet files.

I do not know what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.opening import open_parquet


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
            for batch in file.iter_batches(batch_size=batch_rows):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            raise _damaged(path, error) from None


def _opened(path: str) -> Any:
    # Buffering ahead would hold every row group of the file until its end.
    try:
        return open_parquet(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(f"file {path!r} is no whole Parquet file ({error}); write it again or leave it out")
