"""I read files of JSON objects: one on each line, or a list of them.

I do not know what the columns mean. Lines are read as they are needed; a list is held whole, because it has
no lines to cut at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, cast

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.security.untrusted_text import load_json
from raypipe.steps.files.locate import kind_of, opened
from raypipe.values.byte_bounds import MOST_COLUMNS, READ_BYTES
from raypipe.values.tabulate import merge_schemas, to_table

_SAMPLED_ROWS = 100
_SHOWN = 60
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_BYTES, _FEW_BYTES = 1 << 30, 1 << 16
"""Of a line, or of a list, which is held whole; of what shows which of them a file holds."""


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    """Where it stands, for example `line 3`."""
    values: dict[str, Any]
    size_bytes: int = 0


def names(path: str) -> list[str]:
    """Columns of the first rows."""
    sample = islice(_rows(path), _SAMPLED_ROWS)
    return list(dict.fromkeys(name for row in sample for name in row.values))


def count(path: str, limit: int) -> int:
    """Number of rows, up to `limit`."""
    return sum(1 for _ in islice(_rows(path), limit))


def tables(path: str, batch_rows: int) -> Iterator[pa.Table]:
    """Tables of at most `batch_rows` rows; each has the columns of its own rows."""
    seen: pa.Schema | None = None
    for batch in _batches(_rows(path), batch_rows):
        columns = list(dict.fromkeys(name for row in batch for name in row.values))
        table = to_table([row.values for row in batch], columns, _places(path, batch))
        seen = merge_schemas(seen, table.schema, f"file {path!r}, {batch[0].place} and after it")
        yield table


def _places(path: str, batch: Sequence[_Row]) -> Any:
    return lambda index: f"file {path!r}, {batch[index].place}"


def _batches(rows: Iterator[_Row], batch_rows: int) -> Iterator[list[_Row]]:
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


def _rows(path: str) -> Iterator[_Row]:
    with opened(path) as file:
        if kind_of(path) == "json" and _is_list(file):
            content = _bounded(path, "the list", file.read(_MOST_BYTES + 1))
            yield from _list_rows(path, content.removeprefix(_BYTE_ORDER_MARK))
            return
        lines = iter(lambda: file.readline(_MOST_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            _bounded(path, f"line {number}", line)
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield _Row(f"line {number}", _object(path, f"line {number}", text), len(text))


def _bounded(path: str, place: str, content: bytes) -> bytes:
    if len(content) > _MOST_BYTES:
        problem = f"is larger than {_MOST_BYTES >> 20} MiB; write one object on each line"
        raise InputError(f"file {path!r}, {place} {problem}")
    return content


def _is_list(file: IO[bytes]) -> bool:
    first = next((line for line in iter(lambda: file.readline(_FEW_BYTES), b"") if line.strip()), b"")
    file.seek(0)
    return first.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")


def _object(path: str, place: str, line: bytes) -> dict[str, Any]:
    try:
        value = load_json(line)
    except ValueError as error:
        shown = line[:_SHOWN].decode(errors="replace").strip()
        problem = f"is not JSON ({error}): {shown!r}; write one JSON object on each line, or one list of objects"
        raise InputError(f"file {path!r}, {place} {problem}") from None
    return _checked(path, place, value)


def _list_rows(path: str, text: bytes) -> Iterator[_Row]:
    try:
        values = cast(list[Any], load_json(text))
    except ValueError as error:
        raise InputError(f"file {path!r} is no JSON list ({error}); correct it there") from None
    for number, value in enumerate(values, start=1):
        yield _Row(f"item {number}", _checked(path, f"item {number}", value))


def _checked(path: str, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        problem = f"is a {type(value).__name__}, not an object of columns and values; correct or remove it"
        raise InputError(f"file {path!r}, {place} {problem}")
    row = cast(dict[str, Any], value)
    if len(row) > MOST_COLUMNS:
        raise InputError(f"file {path!r}, {place} has {len(row):,} columns, {_NO_MORE}")
    return row


_NO_MORE = f"more than the {MOST_COLUMNS:,} that a table may have; put them into one column, as a mapping or a list"
