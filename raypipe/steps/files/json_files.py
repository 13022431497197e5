"""Reads files of JSON objects: one on each line, or a list of them.

Knows nothing of what the columns mean. Lines are read as they are needed; a list is read whole, because it has no lines
to cut at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, cast

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.security.untrusted_text import load_json
from raypipe.steps.files.locate import kind_of, open_file
from raypipe.values.byte_bounds import MOST_COLUMNS, READ_BYTES
from raypipe.values.tabulate import merge_schemas, to_table

_SAMPLED_ROWS = 100
_SHOWN_BYTES = 60
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_BYTES, _FEW_BYTES = 1 << 30, 1 << 16
"""Most bytes of a line, or of a list; bytes read at a time to tell which of them a file holds."""


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    """Its place in the file, for example `line 3`."""
    values: dict[str, Any]
    size_bytes: int = 0


def names(path: str) -> list[str]:
    """Columns of the first rows."""
    sample = islice(_rows(path), _SAMPLED_ROWS)
    return list(dict.fromkeys(name for row in sample for name in row.values))


def count(path: str, limit: int) -> int:
    """Number of rows, up to `limit`."""
    return sum(1 for _ in islice(_rows(path), limit))


def tables(path: str, batch_rows: int, most_bytes: int = _MOST_BYTES) -> Iterator[pa.Table]:
    """Tables of at most `batch_rows` rows, each with the columns of its own rows; a line has at most `most_bytes`."""
    seen: pa.Schema | None = None
    for batch in _split_batches(_rows(path, most_bytes), batch_rows):
        columns = list(dict.fromkeys(name for row in batch for name in row.values))
        rows = [row.values for row in batch]
        table = to_table(rows, columns, lambda index, batch=batch: f"file {path!r}, {batch[index].place}")
        seen = merge_schemas(seen, table.schema, f"file {path!r}, {batch[0].place} and after it")
        yield table


def _split_batches(rows: Iterator[_Row], batch_rows: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size_bytes = 0
    for row in rows:
        batch.append(row)
        size_bytes += row.size_bytes
        if len(batch) == batch_rows or size_bytes >= READ_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _rows(path: str, most_bytes: int = _MOST_BYTES) -> Iterator[_Row]:
    """The rows of a file. Raises InputError, naming the place, for what is no object."""
    with open_file(path) as file:
        is_list = kind_of(path) == "json" and _holds_list(file)
        texts = [file.read(most_bytes + 1)] if is_list else iter(lambda: file.readline(most_bytes + 1), b"")
        for number, content in enumerate(texts, start=1):
            place = "the list" if is_list else f"line {number}"
            if len(content) > most_bytes:
                problem = f"is larger than {most_bytes >> 20} MiB; write one object on each line"
                raise InputError(f"file {path!r}, {place} {problem}")
            text = content.removeprefix(_BYTE_ORDER_MARK) if number == 1 else content
            if is_list:
                yield from _list_rows(path, text)
            elif text.strip():
                yield _Row(place, _parse_object(path, place, text), len(text))


def _holds_list(file: IO[bytes]) -> bool:
    """Whether the first thing in a file is a list; the file is at its beginning again afterwards."""
    first = next((line for line in iter(lambda: file.readline(_FEW_BYTES), b"") if line.strip()), b"")
    file.seek(0)
    return first.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")


def _parse_object(path: str, place: str, line: bytes) -> dict[str, Any]:
    try:
        value = load_json(line)
    except ValueError as error:
        shown = line[:_SHOWN_BYTES].decode(errors="replace").strip()
        problem = f"is not JSON ({error}): {shown!r}; write one JSON object on each line, or one list of objects"
        raise InputError(f"file {path!r}, {place} {problem}") from None
    return _check_object(path, place, value)


def _list_rows(path: str, text: bytes) -> Iterator[_Row]:
    try:
        values = cast(list[Any], load_json(text))
    except ValueError as error:
        raise InputError(f"file {path!r} is not a JSON list ({error}); correct it there") from None
    for number, value in enumerate(values, start=1):
        yield _Row(f"item {number}", _check_object(path, f"item {number}", value))


def _check_object(path: str, place: str, value: Any) -> dict[str, Any]:
    """The columns of a row. Raises InputError for what is no object, or has more columns than a table may have."""
    if not isinstance(value, dict):
        problem = f"is a {type(value).__name__}, not an object of columns and values; correct or remove it"
        raise InputError(f"file {path!r}, {place} {problem}")
    row = cast(dict[str, Any], value)
    if len(row) > MOST_COLUMNS:
        problem = f"has {len(row):,} columns, more than the {MOST_COLUMNS:,} that a table may have"
        hint = "put them into one column, as a mapping or a list"
        raise InputError(f"file {path!r}, {place} {problem}; {hint}")
    return row
