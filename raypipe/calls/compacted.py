"""Reads and writes compacted calls: Parquet files whose row groups have a checksum for each column.

The checksums are of the values as they are decoded, and stand in the file's metadata, of which a digest stands in its
name: a flipped bit is noticed, or changes nothing. Files of version 1 have neither, and are read as they are. Knows
nothing of which files a log has.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import pack
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from raypipe.calls.damage import Damage
from raypipe.calls.segment_files import TEMPORARY, create_locked
from raypipe.calls.segments import KEY_BYTES, MOST_TOKENS, Block, parse_fields
from raypipe.concurrency.interruption import checkpoint
from raypipe.concurrency.threads import DaemonThreads
from raypipe.errors import OutputError
from raypipe.security.untrusted_tables import read_footer
from raypipe.storage.paths import AnyPath, RemotePath, open_parquet_at, parse_path

_compute: Any = pyarrow.compute
ROW_GROUP = 1024
SCHEMA = pa.schema(
    [
        ("key", pa.binary(KEY_BYTES)),
        ("step", pa.string()),
        ("row_id", pa.string()),
        ("ordinal", pa.int32()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("model", pa.string()),
        ("ended_at", pa.float64()),
        ("latency_s", pa.float64()),
        ("more", pa.string()),
    ]
)
"""Columns of a compacted call log; `ended_at` is seconds since 1970 in UTC, `more` JSON that is kept as it is."""
Source = tuple[str, int | None]
"""Of what a file was made from: what is wrong with it, or nothing, and how many calls are lost with it."""
_LATER = frozenset({"more"})
"""Columns that files of version 1 do not have."""
_WHAT = b"raypipe.calls"
_VERSION = 2
_NAMED = re.compile(r"calls-\d{20}-(\d+)-([0-9a-f]{16})\.parquet")
_REPEATED: Any = ["step", "finish_reason", "model"]
_OPTIONS: dict[str, Any] = {
    "compression": {name: "none" if name == "key" else "zstd" for name in SCHEMA.names},
    "use_dictionary": _REPEATED,
    "write_statistics": False,
    "write_page_checksum": True,
}
_DEFAULTS: Mapping[str, Any] = {"finish_reason": "stop"} | dict.fromkeys(["step", "row_id", "text", "model"], "")
_COUNTS = {"ordinal": (1 << 31) - 1, "sample": (1 << 31) - 1, "input_tokens": MOST_TOKENS, "output_tokens": MOST_TOKENS}


def as_table(block: Block) -> pa.Table:
    """The calls in frames, those that cannot be placed left out."""
    count = len(block.places)
    try:
        columns: list[Any] = [*zip(*orjson.loads(block.as_json()), strict=True)]
        keys = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), count, [None, pa.py_buffer(block.keys())])
        columns += [(None,) * count] * (len(SCHEMA) - 2 - len(columns))
        table = _table([keys, *columns])
        if table.num_rows == count and _is_sound(table):
            return table
    except (ValueError, TypeError, OverflowError):  # ArrowInvalid and ArrowTypeError are such
        pass
    sound = [(key, *fields) for key, body in block.frames() if (fields := parse_fields(body)) is not None]
    return _table([*zip(*sound, strict=True)]) if sound else SCHEMA.empty_table()


def _table(columns: Sequence[Sequence[Any]]) -> pa.Table:
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for values, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _is_sound(table: pa.Table) -> bool:
    """Whether every value is as `sound_fields` leaves it."""
    return not any(table.column(name).null_count for name in _DEFAULTS) and all(
        _is_within(table.column(name), most) for name, most in _COUNTS.items()
    )


def _is_within(column: pa.ChunkedArray, most: int) -> bool:
    found = _compute.min_max(column).as_py()
    return found["min"] is None or 0 <= found["min"] <= found["max"] <= most


class CompactedWriter:
    """Writes a compacted file, which has its name once it is whole. The columns of a group are packed in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = folder / f"calls-{uuid4().hex}{TEMPORARY}"
        self._lock = create_locked(self._place)
        self._writer = pq.ParquetWriter(self._place, SCHEMA, **_OPTIONS)
        self._thread, self._packing = DaemonThreads(1, "raypipe-compact"), None
        self._held: list[pa.Table] = []
        self._checksums = bytearray()
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Add calls. Raises OSError."""
        self._held.append(table)
        self.rows += table.num_rows
        if sum(held.num_rows for held in self._held) >= ROW_GROUP:
            joined = pa.concat_tables(self._held)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                self._pack(joined.slice(start, ROW_GROUP))
            self._held = [joined.slice(whole)]

    def _pack(self, group: pa.Table) -> None:
        self._wait()
        self._packing = self._thread.submit(self._write_group, group)

    def _write_group(self, group: pa.Table) -> None:
        self._writer.write_table(group, row_group_size=ROW_GROUP)
        self._checksums += b"".join(pack("<I", checksum(column)) for column in group.columns)

    def _wait(self) -> None:
        if self._packing is not None:
            self._packing.result()

    def finish(self, number: int, sources: Mapping[str, Source]) -> Path | None:
        """Give the file its name, if it has a call. `sources`: what it was made from, by name. Raises OSError."""
        if not self.rows:
            return None
        rest = pa.concat_tables(self._held)
        if rest.num_rows:
            self._pack(rest)
        self._wait()
        about = {"version": _VERSION, "columns": SCHEMA.names, "checksums": b64encode(self._checksums).decode()}
        self._writer.add_key_value_metadata({_WHAT: orjson.dumps(about | {"sources": dict(sources)})})
        self._writer.close()
        with self._place.open("rb") as written:
            os.fsync(written.fileno())
            digest = _digest(read_footer(written) or b"")
        target = self._folder / f"calls-{number:020d}-{self.rows}-{digest}.parquet"
        self._place.rename(target)
        return target

    def close(self) -> None:
        """Remove what was not finished."""
        self._thread.shutdown()
        self._place.unlink(missing_ok=True)
        os.close(self._lock)


def _digest(footer: bytes) -> str:
    return blake2b(footer, digest_size=8).hexdigest()


def checksum(column: pa.ChunkedArray) -> int:
    """A CRC-32 of the values of a column, however they are cut into chunks and whatever stands behind its nulls."""
    nulls = lengths = content = 0
    for chunk in column.chunks:
        if chunk.null_count:
            nulls = zlib.crc32(chunk.is_valid().to_numpy(zero_copy_only=False).tobytes(), nulls)
            chunk = chunk.fill_null("" if pa.types.is_string(chunk.type) else 0)
        buffers, start, end = chunk.buffers(), chunk.offset, chunk.offset + len(chunk)
        width = 1
        if pa.types.is_string(chunk.type):
            offsets = np.frombuffer(buffers[1], np.int32)[start : end + 1]
            start, end = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
            lengths = zlib.crc32(np.diff(offsets).tobytes(), lengths)
        else:
            width = chunk.type.bit_width // 8
        if buffers[-1] is not None:
            content = zlib.crc32(memoryview(buffers[-1])[start * width : end * width], content)
    return zlib.crc32(pack("<III", nulls, lengths, content))


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
        """Columns of a group, sound; `None` where they are damaged. Raises OSError when the file cannot be read."""
        there = [name for name in names if name in self._file.schema_arrow.names]
        try:
            table = self._file.read_row_group(group, columns=there)
        except _ERRORS as error:
            if not is_damage(error):
                raise
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


def _sound_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a file of version 1, or of one that others wrote."""
    kind = SCHEMA.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table.column(name).cast(kind, safe=False)
    if name in _COUNTS and not _is_within(column, _COUNTS[name]):
        is_count = _compute.and_(_compute.greater_equal(column, 0), _compute.less_equal(column, _COUNTS[name]))
        return _compute.if_else(is_count, column, pa.scalar(None, kind))
    return column.fill_null(_DEFAULTS[name]) if name in _DEFAULTS and column.null_count else column


def open_compacted(path: AnyPath | str) -> CompactedFile | Damage:
    """A compacted file, or what is wrong with it. Raises OSError when it cannot be read for another reason."""
    path = parse_path(path)
    named = _NAMED.fullmatch(path.name)
    calls = int(named[1]) if named else None
    try:
        file = open_parquet_at(path)
        about = orjson.loads((file.metadata.metadata or {}).get(_WHAT, b"{}"))
        calls = calls or file.metadata.num_rows
        if named and _digest(_footer_of(path)) != named[2]:
            return Damage(path.name, "has metadata that are damaged", calls)
        if about and about["version"] != _VERSION:
            problem = f"has version {about['version']} of the call log, which this raypipe does not know"
            raise OutputError(f"the file {path} {problem}; install a newer one, or move the file away")
        problem = _misfit(file, about)
        return CompactedFile(path, file, about) if problem is None else Damage(path.name, problem, calls)
    except (*_ERRORS, ValueError, TypeError, KeyError) as error:
        if not is_damage(error):
            raise
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
            if field.name in _LATER and not about:
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
