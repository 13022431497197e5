"""Sorted keys of calls and where each stands: in memory, or in a file that all processes of a machine map.

A file of an index is made of the compacted files that it names and can be made again at any time; it is checked when a
run begins. Knows nothing of what stands at a place.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import orjson

from raypipe.calls.segment_files import TEMPORARY, create_locked
from raypipe.concurrency.interruption import checkpoint
from raypipe.concurrency.threads import DaemonThreads

INDEX = ".index"
_MAGIC = b"raypipe index 1\n"
_TAIL = Struct("<II16s")
_ALIGNED = 64
_BORDERS = np.arange(64, dtype=np.uint64) << np.uint64(58)
"""Where each range of keys begins; parts are merged range after range."""
_CHECKED_BYTES = 16 << 20
Array = np.ndarray[Any, Any]
_COLUMNS: dict[str, Any] = {"high": np.uint64, "low": np.uint64, "row": np.uint32, "file": np.uint16}


@dataclass(frozen=True)
class IndexPart:
    """Where the calls of some files stand. `high`, `low`, `file` and `row` have one entry a call, sorted by `high`.

    `high` and `low` are the two big-endian halves of the key (uint64), `file` the index in `files`, `row` the row in
    that file (where there are segments, which have no rows, their frames' offsets in bytes, uint64). Of equal keys, the
    one that was logged last comes last.
    """

    files: tuple[str, ...]
    """Their names."""
    high: Array
    low: Array
    row: Array
    file: Array
    starts: Array
    """Where each bucket of keys begins: a search among eight, not among all, as keys are digests."""
    repeated: Array
    """First halves of keys that may stand there more than once."""
    path: Path | None = None
    """Where it is mapped from."""

    def __len__(self) -> int:
        return len(self.high)


def shift_for(count: int) -> int:
    """How far a key's first half is shifted to give its bucket, among so many calls."""
    return 64 - max(1, count.bit_length() - 3)


def sorted_part(files: Sequence[str], keys: bytes, row: Array, file: Array) -> IndexPart:
    """A part in memory, from keys in the order in which they were logged."""
    pair = np.frombuffer(keys, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    order = np.argsort(pair[:, 0], kind="stable")
    high, low = np.ascontiguousarray(pair[order, 0]), np.ascontiguousarray(pair[order, 1])
    return IndexPart(tuple(files), high, low, row[order], file[order], _starts(high), _repeated(high))


def joined_part(files: Sequence[str], parts: Sequence[IndexPart]) -> IndexPart:
    """One part of several, in memory. `files`: all names, those logged last at the end."""
    place = {name: number for number, name in enumerate(files)}
    kind = np.uint16 if len(files) <= np.iinfo(np.uint16).max else np.uint32
    numbers = [np.array([place[name] for name in part.files], kind) for part in parts]
    found = _merge_ranges(parts, numbers, [slice(None)] * len(parts))
    high = found["high"]
    again = np.unique(np.concatenate([_repeated(high), *(part.repeated for part in parts)]))
    return IndexPart(tuple(files), high, found["low"], found["row"], found["file"], _starts(high), again)


def _starts(high: Array) -> Array:
    shift = shift_for(len(high))
    borders = np.arange(1, 1 << (64 - shift), dtype=np.uint64) << np.uint64(shift)
    return np.concatenate([[0], np.searchsorted(high, borders), [len(high)]]).astype(np.uint32)


def _repeated(high: Array) -> Array:
    return np.unique(high[1:][high[1:] == high[:-1]])


def merged_part(folder: Path, files: Sequence[str], parts: Sequence[IndexPart]) -> IndexPart | None:
    """One part of several, in a file in `folder`. `files`: all names, those logged last at the end. Raises OSError."""
    count = sum(map(len, parts))
    place = {name: number for number, name in enumerate(files)}
    numbers = [np.array([place[name] for name in part.files], np.uint16) for part in parts]
    borders = [[*np.searchsorted(part.high, _BORDERS).tolist(), len(part)] for part in parts]
    repeated = [part.repeated for part in parts]
    temporary = folder / f"_index-{uuid4().hex}{TEMPORARY}"
    lock = create_locked(temporary)
    try:
        with temporary.open("r+b") as file:
            file.truncate(sum(np.dtype(kind).itemsize * count + _ALIGNED for kind in _COLUMNS.values()))
            columns = {name: _mapped(file, name, count) for name in _COLUMNS}
            at = 0
            for number in range(len(_BORDERS)):
                checkpoint()
                ranges = [slice(border[number], border[number + 1]) for border in borders]
                piece = _merge_ranges(parts, numbers, ranges)
                for name, values in piece.items():
                    columns[name][at : at + len(values)] = values
                repeated.append(_repeated(piece["high"]))
                at += len(piece["high"])
            starts, again = _starts(columns["high"]), np.unique(np.concatenate(repeated))
            file.seek(_offset("starts", count))
            file.write(starts.tobytes() + again.tobytes())
            size = file.tell()
            file.flush()
            about = {"files": files, "calls": count, "again": len(again), "crc": _checksum(temporary, size)}
            head = orjson.dumps(about)
            file.write(head + _TAIL.pack(len(head), zlib.crc32(head), _MAGIC))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"_index-{uuid4().hex}{INDEX}"
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)
    return open_part(path, is_checked=False)


def _merge_ranges(parts: Sequence[IndexPart], numbers: Sequence[Array], ranges: Sequence[slice]) -> dict[str, Array]:
    """The entries of several parts in a range of keys, sorted; of equal keys those of later files last."""
    whole = {
        name: np.concatenate([getattr(part, name)[here] for part, here in zip(parts, ranges, strict=True)])
        for name in ("high", "low", "row")
    }
    file = np.concatenate([own[part.file[here]] for part, own, here in zip(parts, numbers, ranges, strict=True)])
    order = np.lexsort((file, whole["high"]))  # stable: rows of one file stay in order
    return {name: values[order] for name, values in (whole | {"file": file}).items()}


def _mapped(file: BinaryIO, name: str, count: int) -> Array:
    kind = _COLUMNS[name]
    return np.memmap(file, kind, "r+", _offset(name, count), (count,)) if count else np.empty(0, kind)


def _offset(column: str, count: int) -> int:
    """Where a column begins in a file of so many calls; any other name: where what follows them does."""
    offset = 0
    for name, kind in _COLUMNS.items():
        if name == column:
            break
        offset += -(-np.dtype(kind).itemsize * count // _ALIGNED) * _ALIGNED
    return offset


def open_part(path: Path, *, is_checked: bool = True) -> IndexPart | None:
    """The part in a file, mapped; `None` where it is damaged or gone."""
    with suppress(OSError, ValueError, TypeError, KeyError, struct_error):
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        end = len(mapped) - _TAIL.size
        size, crc, magic = _TAIL.unpack(mapped[max(0, end) :])
        if magic != _MAGIC or size > end or zlib.crc32(mapped[end - size : end]) != crc:
            return None
        head = orjson.loads(mapped[end - size : end])
        count, again, at = head["calls"], head["again"], _offset("starts", head["calls"])
        buckets = (1 << (64 - shift_for(count))) + 1
        if at + 4 * buckets + 8 * again != end - size or (is_checked and _checksum(path, end - size) != head["crc"]):
            return None
        columns = {name: np.frombuffer(mapped, kind, count, _offset(name, count)) for name, kind in _COLUMNS.items()}
        starts = np.frombuffer(mapped, np.uint32, buckets, at)
        repeated = np.frombuffer(mapped[at + 4 * buckets :], np.uint64, again)
        return IndexPart(tuple(head["files"]), **columns, starts=starts, repeated=repeated, path=path)
    return None


def _checksum(path: Path, size: int) -> list[int]:
    """Of so many bytes of a file, piece by piece, on several cores."""

    def check(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(min(_CHECKED_BYTES, size - start)))

    with DaemonThreads(os.cpu_count() or 1) as threads:
        found: list[int] = []
        for one in threads.map(check, range(0, size, _CHECKED_BYTES)):
            checkpoint()
            found.append(one)
        return found


def kept_parts(
    folder: Path, names: Sequence[str], *, is_checked: bool = True, removes_damaged: bool = False
) -> list[IndexPart]:
    """The parts in `folder` over files that are all among `names`, the largest first; no two have a file in common."""
    there = set(names)
    found: list[IndexPart] = []
    kept: list[IndexPart] = []
    for path in folder.glob(f"*{INDEX}"):
        part = open_part(path, is_checked=is_checked)
        if part is not None:
            found.append(part)
        elif removes_damaged:
            path.unlink(missing_ok=True)
    for part in sorted(found, key=len, reverse=True):
        if there.issuperset(part.files):
            kept.append(part)
            there.difference_update(part.files)
    return kept


def remove_unused(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of parts in `folder` that are of no use for files of these names. Raises OSError."""
    used = {part.path for part in kept_parts(folder, names, is_checked=False)}
    for path in folder.glob(f"*{INDEX}"):
        if path not in used:
            path.unlink(missing_ok=True)
