"""I remember every model call so that none is paid twice.

Each worker appends every completion to a segment file of its own before the row moves on: one
`write` per call, so a killed process loses nothing it completed; `sync` adds protection against
power loss. A segment is a header and frames of length, CRC-32 and content; reading stops at the
first frame that is cut or damaged. Segments are compacted to Parquet, and a `CallIndex` over the
compacted keys (16 bytes of key and 6 bytes of place each) answers look-ups; its arrays can be shared
between processes without copying.

I do not know what a key stands for, nor which endpoint answered.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.chat import Completion, Usage
from raypipe.errors import OutputError

HEADER = b"raypipe calls 1\n"
_FRAME_BYTES = 8
_KEY_BYTES = 16
_SEGMENT = ".calls"
_ROOM = ".room"
_ROOM_BYTES = 1 << 20
"""Kept for the answers of calls that are in flight when the disk is full."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ROW_GROUP = 1024
_CACHED_GROUPS = 16

SCHEMA = pa.schema(
    [
        ("key", pa.binary(_KEY_BYTES)),
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
    ]
)
"""Columns of a compacted call log; `ended_at` is seconds since 1970 in UTC."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a call was asked: step, row identity, ordinal within the row, sample index."""

    step: str
    row: bytes
    ordinal: int
    sample: int


class SegmentWriter:
    """Appends completions to new segments; they stay locked while their writer lives.

    There are two, taken in turn from one `sync` to the next: a write to a file waits for a running fsync of the same
    file (0.1 to 0.5 s measured), and would hold up every call of the worker.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        name = f"segment-{owner}-{uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = [_new_segment(folder / f"{name}-{side}{_SEGMENT}") for side in "ab"]
            self._room: Path | None = _kept_room(folder / f"{name}{_ROOM}")
        except OSError as error:
            raise OutputError(f"the call log {folder} cannot be written: {error.strerror}") from None
        self._active = 0
        self._has_news = False

    def append(self, key: bytes, asked: Asked, completion: Completion, latency_s: float) -> None:
        """Write one completion through. Raises OutputError when the disk does not take it."""
        self.write(frame_of(key, asked, completion, latency_s))

    def write(self, frames: bytes) -> None:
        """Write frames through. Raises OutputError when the disk does not take them."""
        self._has_news = True
        left = memoryview(frames)
        while left:
            try:
                left = left[os.write(self._files[self._active], left) :]
            except OSError as error:
                if error.errno not in _FULL or self._room is None:
                    raise OutputError(f"the call log {self._folder} cannot be written: {error.strerror}") from None
                self._give_room()

    @property
    def is_full(self) -> bool:
        """Whether the disk is full and what is written now goes where room was kept: no call should be sent."""
        return self._room is None

    def _give_room(self) -> None:
        if self._room is not None:
            self._room.unlink(missing_ok=True)
            self._room = None

    def sync(self) -> None:
        """Bring what was written to the disk; a no-op when nothing is new. May run beside `append`.

        Raises OutputError.
        """
        if self._has_news:
            self._has_news = False
            written, self._active = self._active, 1 - self._active
            try:
                os.fsync(self._files[written])
            except OSError as error:
                raise OutputError(f"the call log {self._folder} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        self.sync()
        self._give_room()
        for file in self._files:
            os.close(file)


def frame_of(key: bytes, asked: Asked, completion: Completion, latency_s: float) -> bytes:
    """One completion as it stands in a segment."""
    content = key + orjson.dumps(
        (
            asked.step,
            asked.row.hex(),
            asked.ordinal,
            asked.sample,
            completion.text,
            completion.finish_reason,
            completion.usage.input_tokens,
            completion.usage.output_tokens,
            completion.model,
            time.time(),
            latency_s,
        )
    )
    return len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little") + content


def _kept_room(path: Path) -> Path:
    path.write_bytes(bytes(_ROOM_BYTES))
    return path


def _new_segment(path: Path) -> int:
    """A locked segment, which nobody sees before it is locked."""
    unseen = path.with_suffix(".new")
    file = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(file, HEADER)
    unseen.rename(path)
    return file


def read_segment(file: BinaryIO) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """Key and fields of each whole frame, up to the first that is cut or damaged."""
    for _, content in _frames(file):
        yield content[:_KEY_BYTES], tuple(orjson.loads(content[_KEY_BYTES:]))


def _frames(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each whole frame begins, and its content."""
    if file.read(len(HEADER)) != HEADER:
        return
    offset = len(HEADER)
    while (content := _frame(file)) is not None:
        yield offset, content
        offset += _FRAME_BYTES + len(content)


def _frame(file: BinaryIO) -> bytes | None:
    """The content of the frame that begins here; `None` where it is cut or damaged."""
    head = file.read(_FRAME_BYTES)
    size, crc = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
    content = file.read(size) if len(head) == _FRAME_BYTES else b""
    return content if content and len(content) == size and zlib.crc32(content) == crc else None


def compact(folder: Path, owner: str, wait_s: float = 30.0) -> None:
    """Turn the segments of ended writers into one Parquet file and remove them.

    Segments of `owner` whose writer still lives are waited for, those of other owners left alone.
    Raises OutputError when a writer of `owner` does not end in time.
    """
    deadline = time.monotonic() + wait_s
    with_locks: list[tuple[Path, BinaryIO]] = []
    try:
        for path in sorted(folder.glob("segment-*.calls")):
            file = _locked(path, deadline if path.name.startswith(f"segment-{owner}-") else 0.0)
            if file is not None:
                with_locks.append((path, file))
        if with_locks:
            _write_compacted(folder, [file for _, file in with_locks])
            for path, _ in with_locks:
                path.unlink()
                path.with_name(path.name.removesuffix(_SEGMENT)[: -len("-a")] + _ROOM).unlink(missing_ok=True)
    finally:
        for _, file in with_locks:
            file.close()


def _locked(path: Path, deadline: float) -> BinaryIO | None:
    """The file, held; `None` where its writer lives, or where another run over the same log was faster."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()
            return None
        except BlockingIOError:
            if not deadline:
                file.close()
                return None
            if time.monotonic() > deadline:
                file.close()
                problem = "a worker of an earlier run still writes to it; wait for it to end or stop it, then run again"
                raise OutputError(f"the call log {path}: {problem}") from None
            time.sleep(0.05)


def _write_compacted(folder: Path, files: Sequence[BinaryIO]) -> None:
    target = folder / f"calls-{time.time_ns():020d}-{uuid4().hex[:8]}.parquet"
    temporary = target.with_suffix(".tmp")
    count = 0
    with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        rows: list[tuple[Any, ...]] = []
        for file in files:
            for key, fields in read_segment(file):
                rows.append((key, *fields))
                if len(rows) == _ROW_GROUP:
                    writer.write_table(_as_table(rows), row_group_size=_ROW_GROUP)
                    count, rows = count + len(rows), []
        if rows:
            writer.write_table(_as_table(rows), row_group_size=_ROW_GROUP)
            count += len(rows)
    if count:
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(target)
    else:
        temporary.unlink()


def _as_table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


@dataclass(frozen=True)
class CallIndex:
    """Where each known call stands. Arrays have one entry a call, sorted by `high`.

    `high` and `low` are the two big-endian halves of the key (uint64), `file` the index in `files` (uint16), `row` the
    row in that file (uint32; where there are segments, which have no rows, their frames' offsets in bytes, uint64).
    """

    files: tuple[str, ...]
    high: np.ndarray[Any, Any]
    low: np.ndarray[Any, Any]
    file: np.ndarray[Any, Any]
    row: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.high)


def load_index(folder: Path, known: bool = True) -> CallIndex:
    """The index over all compacted calls in `folder`; an empty one unless `known`."""
    return _index(sorted(folder.glob("calls-*.parquet")) if known else [])


def index_with_segments(known: CallIndex, folder: Path, owner: str) -> CallIndex:
    """`known` and all that the workers of `owner` (`*`: of all) have written since, whether they still live or not."""
    segments = sorted(folder.glob(f"segment-{owner}-*.calls"), key=lambda path: path.stat().st_mtime)
    return _index([*map(Path, known.files), *segments])


def _index(paths: Sequence[Path]) -> CallIndex:
    pairs, numbers, rows = [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint16)], [np.empty(0, np.uint32)]
    for number, path in enumerate(paths):
        keys, places = _segment_keys(path) if path.suffix == _SEGMENT else _compacted_keys(path)
        pairs.append(np.frombuffer(keys, dtype=">u8").reshape(-1, 2).astype(np.uint64))
        numbers.append(np.full(len(places), number, np.uint16))
        rows.append(places)
    pair = np.concatenate(pairs)
    order = np.argsort(pair[:, 0], kind="stable")
    high, low = np.ascontiguousarray(pair[order, 0]), np.ascontiguousarray(pair[order, 1])
    number, row = np.concatenate(numbers)[order], np.concatenate(rows)[order]
    return CallIndex(tuple(map(str, paths)), high, low, number, row)


def _compacted_keys(path: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    column = pq.ParquetFile(path).read(["key"]).column("key").combine_chunks()
    return memoryview(column.buffers()[1])[: _KEY_BYTES * len(column)], np.arange(len(column), dtype=np.uint32)


def _segment_keys(path: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    with path.open("rb") as file:
        found = [(content[:_KEY_BYTES], offset) for offset, content in _frames(file)]
    return b"".join(key for key, _ in found), np.array([offset for _, offset in found], np.uint64)


class CallReader:
    """Finds completions through an index; keeps the row groups read last."""

    def __init__(self, index: CallIndex) -> None:
        self._index = index
        # An item of a memoryview costs a third of an item of the array.
        self._high, self._low = _view(index.high), _view(index.low)
        self._shift, self._starts = _buckets(index.high)
        self._several = frozenset(index.high[1:][index.high[1:] == index.high[:-1]].tolist())
        """Keys (their first halves) that may have been logged more than once."""
        self._file, self._row = _view(index.file), _view(index.row)
        self._files: dict[int, pq.ParquetFile] = {}
        self._groups: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        self._near: dict[bytes, tuple[Any, ...]] = {}
        """What the row groups at hand say, by key: calls that were logged together are asked for together."""

    def find(self, key: bytes) -> Completion | None:
        """The completion logged last under `key`, if there is one."""
        near = self._near.get(key)
        if near is not None:
            return _completion(near)
        high = int.from_bytes(key[:8], "big")
        bucket = high >> self._shift
        at = bisect.bisect_right(self._high, high, self._starts[bucket], self._starts[bucket + 1]) - 1
        if at < 0 or self._high[at] != high:
            return None
        low = int.from_bytes(key[8:], "big")
        while at >= 0 and self._high[at] == high:
            if self._low[at] == low:
                return self._read(self._file[at], self._row[at])
            at -= 1
        return None

    def _read(self, number: int, row: int) -> Completion:
        path = self._index.files[number]
        if path.endswith(_SEGMENT):
            with open(path, "rb") as file:
                file.seek(row)
                content = _frame(file)
            assert content is not None
            return _completion(orjson.loads(content[_KEY_BYTES:])[4:9])
        group, offset = divmod(row, _ROW_GROUP)
        return _completion(self._group(number, group)[offset])

    def _group(self, number: int, group: int) -> list[tuple[Any, ...]]:
        place = (number, group)
        rows = self._groups.pop(place, None)
        if rows is None:
            if number not in self._files:
                self._files[number] = pq.ParquetFile(self._index.files[number])
            names = ["text", "finish_reason", "input_tokens", "output_tokens", "model", "key"]
            columns = self._files[number].read_row_group(group, columns=names).select(names).columns
            rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
            self._near.update((row[-1], row) for row in rows if int.from_bytes(row[-1][:8]) not in self._several)
        self._groups[place] = rows
        if len(self._groups) > _CACHED_GROUPS:
            for row in self._groups.pop(next(iter(self._groups))):
                self._near.pop(row[-1], None)
        return rows


def _completion(row: Sequence[Any]) -> Completion:
    return Completion(row[0], row[1], Usage(row[2], row[3]), row[4])


def _buckets(high: np.ndarray[Any, Any]) -> tuple[int, Any]:
    """How far a key is shifted to give its bucket, and where each bucket begins: a search among eight, not among all.

    Keys are digests, so buckets are about equally full.
    """
    shift = 64 - max(1, len(high).bit_length() - 3)
    borders = np.arange(1, 1 << (64 - shift), dtype=np.uint64) << np.uint64(shift)
    inner = np.searchsorted(high, borders)
    return shift, _view(np.concatenate([[0], inner, [len(high)]]).astype(np.int64))


def _view(array: np.ndarray[Any, Any]) -> Any:
    return memoryview(array)  # pyright: ignore[reportArgumentType]
