"""I read one file of rows as Arrow tables, a batch at a time.

I do not know which files there are, nor how a format is read; that stands in one module for each.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raypipe.errors import InputError
from raypipe.row import RESERVED, ROW_ID
from raypipe.steps.files import csv_files, json_files, parquet_files, text_files
from raypipe.steps.files.locate import kind_of
from raypipe.values.admission import check_names


@dataclass(frozen=True, slots=True)
class Format:
    """How a kind of file is read."""

    names: Callable[[str], list[str]]
    """Columns, found without reading the rows."""
    tables: Callable[[str, int], Iterator[Any]]
    """Tables of at most so many rows, in order."""
    count: Callable[[str, int], int]
    """Number of rows; counting may stop at a limit."""


_JSON = Format(json_files.names, json_files.tables, json_files.count)
_CSV = Format(csv_files.names, csv_files.tables, csv_files.count)
_PARQUET = Format(parquet_files.names, parquet_files.tables, parquet_files.count)
_TEXT = Format(text_files.names, text_files.tables, text_files.count)

FORMATS = {"parquet": _PARQUET, "lines": _JSON, "json": _JSON, "csv": _CSV, "tsv": _CSV, "text": _TEXT}


def read_tables(path: str, batch_rows: int) -> Iterator[Any]:
    """The rows without the lineage columns of an earlier run.

    Raises InputError, naming the place in the file, for what is no table of rows.
    """
    tables = FORMATS[kind_of(path)].tables(path, batch_rows)
    while True:
        with _readable(path):
            table = next(tables, None)
        if table is None:
            return
        yield table.select(user_columns(f"file {path!r}", table.column_names))


def columns_of(path: str) -> list[str]:
    """Columns of the rows, from the footer, the header or the first lines. Raises InputError."""
    with _readable(path):
        return user_columns(f"file {path!r}", FORMATS[kind_of(path)].names(path))


def count_rows(path: str, limit: int) -> int:
    """Number of rows, counted no further than about `limit`. Raises InputError."""
    with _readable(path):
        return FORMATS[kind_of(path)].count(path, limit)


@contextmanager
def _readable(path: str) -> Generator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"file {path!r} cannot be read ({error}); check that it is there and whole") from None


def user_columns(where: object, names: list[str]) -> list[str]:
    """Without lineage in what a run wrote; elsewhere its names may not be used."""
    check_names(names, str(where))
    kept = [name for name in names if name not in RESERVED]
    if len(kept) < len(names) and ROW_ID not in names:
        taken = next(name for name in names if name in RESERVED)
        raise InputError(f"{where} has the column {taken!r}, a name kept for lineage; rename it")
    return kept
