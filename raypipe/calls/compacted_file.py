"""Opens compacted files, and checks each row group that is read. Changes nothing.

Files of version 1, and those that others made, have no checksums: they are read as they are, and their values are made
sound.
"""

from __future__ import annotations

import errno
import re
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute

from raypipe.calls.compacted import (
    COUNTS,
    DEFAULTS,
    LATER,
    ROW_GROUP,
    SCHEMA,
    VERSION,
    WHAT,
    Source,
    checksum,
    digest_of,
    is_within,
)
from raypipe.calls.damage import Damage
from raypipe.calls.segments import KEY_BYTES
from raypipe.concurrency.interruption import checkpoint
from raypipe.errors import OutputError
from raypipe.security.untrusted_tables import read_footer
from raypipe.storage.paths import AnyPath, RemotePath, explain_os_error, open_parquet_at, parse_path

_compute: Any = pyarrow.compute
_NAMED = re.compile(r"calls-\d{20}-(\d+)-([0-9a-f]{16})\.parquet")


class CompactedFile:
    """One compacted file, whose groups are checked as they are read. Made by `open_compacted`."""

    def __init__(self, path: AnyPath, file: Any, about: Mapping[str, Any]) -> None:
        self.path, self._file = path, file
        self.rows: int = file.metadata.num_rows
        self.sources: Mapping[str, Source] = about.get("sources", {})
        """What it was made from, by name."""
        self.starts = np.cumsum([0, *(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups))])
        """The first row of each group, and the end of the last."""
        self._columns: list[str] = about.get("columns", [])
        self._checksums = np.frombuffer(b64decode(about.get("checksums", "")), "<u4")
        self._is_even = not (self.starts[:-1] % ROW_GROUP).any() and len(self.starts) == -(-self.rows // ROW_GROUP) + 1

    @property
    def groups(self) -> range:
        """The numbers of its row groups."""
        return range(len(self.starts) - 1)

    def place(self, row: int) -> tuple[int, int]:
        """The group of a row, and which one it is there."""
        if self._is_even:
            return divmod(row, ROW_GROUP)
        group = bisect_right(self.starts, row) - 1
        return group, row - int(self.starts[group])

    def read(self, group: int, names: Sequence[str]) -> list[pa.ChunkedArray] | None:
        """Columns of a group, sound; `None` where they are damaged.

        Raises OutputError when the file cannot be read, FileNotFoundError.
        """
        there = [name for name in names if name in self._file.schema_arrow.names]
        try:
            table = self._file.read_row_group(group, columns=there)
        except _ERRORS as error:
            if not is_damage(error):
                raise _unreadable(self.path, error) from None
            return None
        if table.num_rows != self.starts[group + 1] - self.starts[group]:
            return None
        if not self._columns:
            return [_sound_column(table, name) for name in names]
        columns = [table.column(name) for name in names]
        first = group * len(self._columns)
        for name, column in zip(names, columns, strict=True):
            if checksum(column) != self._checksums[first + self._columns.index(name)]:
                return None
        return columns

    def read_keys(self) -> tuple[bytes, np.ndarray[Any, Any], int]:
        """The keys of all groups that can be read, the rows they stand in, and how many keys cannot be read."""
        keys: list[bytes] = []
        rows: list[np.ndarray[Any, Any]] = [np.empty(0, np.uint32)]
        lost = 0
        for group in self.groups:
            read = self.read(group, ["key"])
            start, end = self.starts[group], self.starts[group + 1]
            if read is None or read[0].null_count:
                lost += int(end - start)
                continue
            for chunk in read[0].chunks:
                width = KEY_BYTES
                keys.append(bytes(memoryview(chunk.buffers()[1])[chunk.offset * width :][: len(chunk) * width]))
            rows.append(np.arange(start, end, dtype=np.uint32))
        return b"".join(keys), np.concatenate(rows), lost


_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError)


def is_damage(error: BaseException) -> bool:
    """Whether a file is not what it should be; otherwise it is gone, may not be read, or its store does not answer."""
    if not isinstance(error, OSError):
        return True
    is_denied = isinstance(error, FileNotFoundError) or error.errno not in (None, errno.EIO)
    return not is_denied and "AWS Error" not in str(error) and "google::cloud" not in str(error)


def _unreadable(path: AnyPath, error: Exception) -> Exception:
    """What is raised where a file may be whole and cannot be read: one that is gone may have been merged."""
    if isinstance(error, FileNotFoundError) or not isinstance(error, OSError):
        return error
    return OutputError(f"the file {path} of the call log cannot be read: {explain_os_error(error)}")


def _sound_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a file of version 1, or of one that others wrote."""
    kind = SCHEMA.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table.column(name).cast(kind, safe=False)
    if name in COUNTS and not is_within(column, COUNTS[name]):
        is_count = _compute.and_(_compute.greater_equal(column, 0), _compute.less_equal(column, COUNTS[name]))
        return _compute.if_else(is_count, column, pa.scalar(None, kind))
    return column.fill_null(DEFAULTS[name]) if name in DEFAULTS and column.null_count else column


def open_compacted(path: AnyPath | str) -> CompactedFile | Damage:
    """A compacted file, or what is wrong with it. Raises OutputError when it cannot be read, FileNotFoundError."""
    path = parse_path(path)
    named = _NAMED.fullmatch(path.name)
    calls = int(named[1]) if named else None
    try:
        file = open_parquet_at(path)
        about = orjson.loads((file.metadata.metadata or {}).get(WHAT, b"{}"))
        calls = calls or file.metadata.num_rows
        if named and digest_of(_footer_of(path)) != named[2]:
            return Damage(path.name, "has metadata that are damaged", calls)
        if about and about["version"] != VERSION:
            problem = f"has version {about['version']} of the call log, which this raypipe does not know"
            raise OutputError(f"the file {path} {problem}; install a newer one, or move the file away")
        problem = _misfit(file, about)
        return CompactedFile(path, file, about) if problem is None else Damage(path.name, problem, calls)
    except (*_ERRORS, ValueError, TypeError, KeyError) as error:
        if not is_damage(error):
            raise _unreadable(path, error) from None
        reason = str(error).strip().partition("\n")[0][:200]
        return Damage(path.name, f"is cut, damaged or no Parquet file ({reason})", calls)


def _footer_of(path: AnyPath) -> bytes:
    if isinstance(path, RemotePath):
        with path.store.open_input_file(path.path) as file:
            return read_footer(file) or b""
    with path.open("rb") as file:
        return read_footer(file) or b""


_KINDS: Mapping[str, Any] = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "whole number": pa.types.is_integer,
    "number": pa.types.is_floating,
}


def _misfit(file: Any, about: Any) -> str | None:
    """Why a file that can be opened is none of a call log."""
    found = file.schema_arrow
    for field in SCHEMA:
        if field.name not in found.names:
            if field.name in LATER and not about:
                continue
            return f"has no column {field.name!r}"
        kind = found.field(field.name).type
        wanted = "text" if pa.types.is_string(field.type) else "number"
        wanted = "whole number" if pa.types.is_integer(field.type) else wanted
        if not (kind.equals(field.type) if field.name == "key" else _KINDS[wanted](kind)):
            return f"has a column {field.name!r} of the type {kind}, not {field.type}"
    return None


def compacted_files(calls: AnyPath) -> list[AnyPath]:
    """The compacted files of a log, the latest last. Raises OSError."""
    return sorted(calls.glob("calls-*.parquet"), key=lambda path: path.name)


def rows_of(path: AnyPath) -> int:
    """How many calls stand in a compacted file; 0 where it cannot be read. Raises OSError."""
    if named := _NAMED.fullmatch(path.name):
        return int(named[1])
    file = open_compacted(path)
    return 0 if isinstance(file, Damage) else file.rows


def read_calls(paths: Iterable[AnyPath], names: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of the calls in compacted files, file after file; what cannot be read is left out. Raises OSError."""
    for path in paths:
        file = open_compacted(path)
        if isinstance(file, Damage):
            continue
        groups: list[pa.Table] = []
        for group in file.groups:
            checkpoint()
            columns = file.read(group, names)
            if columns is not None:
                groups.append(pa.table(dict(zip(names, columns, strict=True))))
        if groups:
            yield pa.concat_tables(groups)
