"""Keeps every model call in files, so that none is paid twice.

Each worker appends every completion to a segment file of its own before the row moves on: one
`write` per call, so a killed process loses nothing it completed; `sync` adds protection against
power loss. A segment is a header and frames of length, CRC-32 and content; reading stops at the
first frame that is cut or damaged. Segments are compacted to Parquet, in row groups of `ROW_GROUP` calls.

Knows nothing of what a key stands for, nor of endpoints.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.concurrency.interruption import checkpoint, pause
from raypipe.contracts.llm import Completion
from raypipe.errors import OutputError

HEADER = b"raypipe calls 1\n"
_FRAME_BYTES = 8
KEY_BYTES = 16
SEGMENT = ".calls"
_ROOM = ".room"
_ROOM_BYTES = 1 << 20
"""Kept for the answers of calls that are in flight when the disk is full."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
ROW_GROUP = 1024
WAIT_S = 30.0
"""How long workers of an earlier run have to end."""

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
    ]
)
"""Columns of a compacted call log; `ended_at` is seconds since 1970 in UTC."""


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """What a call was made for: step, row identity, ordinal within the row, sample index."""

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
        self.stem = folder / name
        """The path that the names of both segments begin with."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = [_new_segment(path) for path in segment_paths(self.stem)]
            self._room: Path | None = folder / f"{name}{_ROOM}"
            self._room.write_bytes(bytes(_ROOM_BYTES))
        except OSError as error:
            raise OutputError(f"the call log {folder} cannot be written: {error.strerror}") from None
        self._active = 0
        self._has_news = False

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
        """Whether the disk is full: what is written now goes into the room that was kept; send no call."""
        return self._room is None

    def _give_room(self) -> None:
        if self._room is not None:
            self._room.unlink(missing_ok=True)
            self._room = None

    def sync(self) -> None:
        """Sync what was written to the disk; a no-op when nothing is new. May run beside `write`.

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


def make_frame(key: bytes, origin: CallOrigin, completion: Completion, latency_s: float) -> bytes:
    """One completion as it stands in a segment."""
    content = key + orjson.dumps(
        (
            origin.step,
            origin.row.hex(),
            origin.ordinal,
            origin.sample,
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


def _new_segment(path: Path) -> int:
    """A new segment, which has its name only once it is locked."""
    unseen = path.with_suffix(".new")
    file = os.open(unseen, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.write(file, HEADER)
    unseen.rename(path)
    return file


def read_segment(file: BinaryIO) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """Key and fields of each whole frame, up to the first that is cut or damaged."""
    for _, content in frames_in(file):
        yield content[:KEY_BYTES], tuple(orjson.loads(content[KEY_BYTES:]))


def frames_in(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each whole frame begins, and its content."""
    if file.read(len(HEADER)) != HEADER:
        return
    offset = len(HEADER)
    while (content := frame_at(file)) is not None:
        yield offset, content
        offset += _FRAME_BYTES + len(content)


def segment_paths(stem: Path) -> list[Path]:
    """The two segments of one writer."""
    return [stem.with_name(f"{stem.name}-{side}{SEGMENT}") for side in "ab"]


def stem_of(path: Path) -> Path:
    """The path that the names of both segments of a writer begin with."""
    return path.with_name(path.name.removesuffix(SEGMENT)[: -len("-a")])


def read_frames(path: Path, offset: int) -> bytes:
    """The content of a segment from `offset` on, without a cut frame at its end; its writer may live."""
    with path.open("rb") as file:
        file.seek(max(offset, len(HEADER)))
        content = file.read()
    end = 0
    while (size := int.from_bytes(content[end : end + 4], "little")) and end + _FRAME_BYTES + size <= len(content):
        end += _FRAME_BYTES + size
    return content[:end]


def frame_at(file: BinaryIO) -> bytes | None:
    """The content of the frame that begins here; `None` where it is cut or damaged."""
    head = file.read(_FRAME_BYTES)
    size, crc = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
    content = file.read(size) if len(head) == _FRAME_BYTES else b""
    return content if content and len(content) == size and zlib.crc32(content) == crc else None


def compact(folder: Path, owner: str, wait_s: float = WAIT_S) -> None:
    """Turn the segments of ended writers into one Parquet file and remove them.

    Segments of `owner` whose writer still lives are waited for, those of other owners left alone.
    Raises OutputError when a writer of `owner` does not end in time.
    """
    deadline = time.monotonic() + wait_s
    with_locks: list[tuple[Path, BinaryIO]] = []
    try:
        for path in sorted(folder.glob("segment-*.calls")):
            file = open_locked(path, deadline if path.name.startswith(f"segment-{owner}-") else 0.0)
            if file is not None:
                with_locks.append((path, file))
        if with_locks:
            write_parquet(folder, (file for _, file in with_locks))
            for path, _ in with_locks:
                path.unlink()
                path.with_name(stem_of(path).name + _ROOM).unlink(missing_ok=True)
    finally:
        for _, file in with_locks:
            file.close()


def open_locked(path: Path, deadline: float) -> BinaryIO | None:
    """The file, locked; `None` where its writer lives, or where another run over the same log was faster.

    With a `deadline` (`time.monotonic`), a writer that lives is waited for. Raises OutputError when it does not end.
    """
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
            pause(0.05)


def write_parquet(folder: Path, files: Iterable[BinaryIO]) -> Path | None:
    """Write all calls in segments as one Parquet file into `folder`; `None` where there is no call."""
    target = folder / f"calls-{time.time_ns():020d}-{uuid4().hex[:8]}.parquet"
    temporary = target.with_suffix(".tmp")
    try:
        if not _write_calls(temporary, files):
            return None
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.rename(target)
        return target
    finally:
        temporary.unlink(missing_ok=True)


def _write_calls(target: Path, files: Iterable[BinaryIO]) -> int:
    """Write the calls of segments as Parquet; gives their number."""
    count = 0
    with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        rows: list[tuple[Any, ...]] = []
        for file in files:
            for key, fields in read_segment(file):
                rows.append((key, *fields))
                if len(rows) == ROW_GROUP:
                    checkpoint()
                    writer.write_table(_as_table(rows), row_group_size=ROW_GROUP)
                    count, rows = count + len(rows), []
        if rows:
            writer.write_table(_as_table(rows), row_group_size=ROW_GROUP)
            count += len(rows)
    return count


def _as_table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
