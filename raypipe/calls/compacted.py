"""Writes compacted calls: Parquet files whose row groups have a checksum for each column.

The checksums are of the values as they are decoded, and stand in the file's metadata, of which a digest stands in its
name: a flipped bit is noticed, or changes nothing. Knows nothing of which files a log has.
"""

from __future__ import annotations

import gc
import os
import zlib
from base64 import b64encode
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
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

from raypipe.calls.segment_files import TEMPORARY, create_locked
from raypipe.calls.segments import KEY_BYTES, MOST_TOKENS, Block, parse_fields
from raypipe.concurrency.threads import DaemonThreads
from raypipe.security.untrusted_tables import read_footer

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
LATER = frozenset({"more"})
"""Columns that files of version 1 do not have."""
WHAT = b"raypipe.calls"
VERSION = 2
_OPTIONS: dict[str, Any] = {
    # Packing a column costs as much as reading it: only what becomes smaller by it is packed.
    "compression": dict.fromkeys(SCHEMA.names, "none") | {"text": "zstd", "row_id": "zstd", "more": "lz4"},
    "use_dictionary": ["step", "finish_reason", "model", "ordinal", "sample", "input_tokens", "output_tokens"],
    "write_statistics": False,
    "write_page_checksum": True,
}
DEFAULTS: Mapping[str, Any] = {"finish_reason": "stop"} | dict.fromkeys(["step", "row_id", "text", "model"], "")
COUNTS = {"ordinal": (1 << 31) - 1, "sample": (1 << 31) - 1, "input_tokens": MOST_TOKENS, "output_tokens": MOST_TOKENS}


def as_table(block: Block) -> pa.Table:
    """The calls in frames, those that cannot be placed left out."""
    count = len(block.places)
    try:
        with _no_collection():
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


@contextmanager
def _no_collection() -> Generator[None]:
    """A thousand lists at once make the collector look for garbage, of which there is none: a fifth of the time."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


def _table(columns: Sequence[Sequence[Any]]) -> pa.Table:
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for values, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _is_sound(table: pa.Table) -> bool:
    """Whether every value is as `sound_fields` leaves it."""
    return not any(table.column(name).null_count for name in DEFAULTS) and all(
        is_within(table.column(name), most) for name, most in COUNTS.items()
    )


def is_within(column: pa.ChunkedArray, most: int) -> bool:
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
        about = {"version": VERSION, "columns": SCHEMA.names, "checksums": b64encode(self._checksums).decode()}
        self._writer.add_key_value_metadata({WHAT: orjson.dumps(about | {"sources": dict(sources)})})
        self._writer.close()
        with self._place.open("rb") as written:
            os.fsync(written.fileno())
            digest = digest_of(read_footer(written) or b"")
        target = self._folder / f"calls-{number:020d}-{self.rows}-{digest}.parquet"
        self._place.rename(target)
        return target

    def close(self) -> None:
        """Remove what was not finished."""
        self._thread.shutdown()
        self._place.unlink(missing_ok=True)
        os.close(self._lock)


def digest_of(footer: bytes) -> str:
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
