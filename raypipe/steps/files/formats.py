"""Reads one file of rows as Arrow tables, a batch at a time.

Knows nothing of which files there are, nor how a format is read; each format has a module of its own.
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
    """The functions that read a kind of file."""

    names: Callable[[str], list[str]]
    """Columns, without reading all rows."""
    tables: Callable[[str, int], Iterator[Any]]
    """Tables of at most a number of rows, in order."""
    count: Callable[[str, int], int]
    """Number of rows, counted no further than about a limit."""


_JSON = Format(json_files.names, json_files.tables, json_files.count)
_CSV = Format(csv_files.names, csv_files.tables, csv_files.count)
_PARQUET = Format(parquet_files.names, parquet_files.tables, parquet_files.count)
_TEXT = Format(text_files.names, text_files.tables, text_files.count)

FORMATS = {"parquet": _PARQUET, "lines": _JSON, "json": _JSON, "csv": _CSV, "tsv": _CSV, "text": _TEXT}


def read_tables(path: str, batch_rows: int) -> Iterator[Any]:
    """The rows without the lineage columns of an earlier run, in tables of at most `batch_rows`.

    Raises InputError, naming the place in the file, for what is no table of rows.
    """
    tables = FORMATS[kind_of(path)].tables(path, batch_rows)
    while True:
        with _translate_errors(path):
            table = next(tables, None)
        if table is None:
            return
        yield table.select(user_columns(f"file {path!r}", table.column_names))


def columns_of(path: str) -> list[str]:
    """Columns of the rows, from the footer, the header or the first lines. Raises InputError."""
    with _translate_errors(path):
        return user_columns(f"file {path!r}", FORMATS[kind_of(path)].names(path))


def count_rows(path: str, limit: int) -> int:
    """Number of rows, counted no further than about `limit`. Raises InputError."""
    with _translate_errors(path):
        return FORMATS[kind_of(path)].count(path, limit)


@contextmanager
def _translate_errors(path: str) -> Generator[None]:
    """Errors of reading and unpacking become an InputError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"file {path!r} cannot be read ({error}); check that it exists and is complete") from None


def user_columns(where: object, names: list[str]) -> list[str]:
    """The columns but for the lineage of an earlier run. Raises InputError for its names in any other file."""
    check_names(names, str(where))
    kept = [name for name in names if name not in RESERVED]
    if len(kept) < len(names) and ROW_ID not in names:
        taken = next(name for name in names if name in RESERVED)
        raise InputError(f"{where} has the column {taken!r}, a name kept for lineage; rename it")
    return kept
