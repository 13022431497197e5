"""Finds calls in a call log: an index over all keys, and a reader that keeps what it read last.

An index has 16 bytes of key and 6 bytes of place for each call; its arrays can be shared between processes without
copying. Knows nothing of what a key stands for.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow.parquet as pq

from raypipe.calls.remote import segments
from raypipe.calls.segments import KEY_BYTES, ROW_GROUP, SEGMENT, frame_at, frames_in
from raypipe.concurrency.interruption import checkpoint
from raypipe.contracts.llm import Completion, Usage
from raypipe.storage.paths import AnyPath, RemotePath, open_parquet_at, parse_path

_CACHED_GROUPS = 16


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


def load_index(folder: AnyPath, known: bool = True) -> CallIndex:
    """The index over all compacted calls in `folder`; an empty one unless `known`."""
    return _index(sorted(folder.glob("calls-*.parquet")) if known else [])


def index_with_segments(known: CallIndex, folder: AnyPath, owner: str) -> CallIndex:
    """`known` and all that the workers of `owner` (`*`: of all) have written since, whether they still live or not."""
    return _index([*map(parse_path, known.files), *segments(folder, owner)])


def _index(paths: Sequence[AnyPath]) -> CallIndex:
    pairs, numbers, rows = [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint16)], [np.empty(0, np.uint32)]
    for number, path in enumerate(paths):
        checkpoint()
        keys, places = _segment_keys(path) if path.suffix == SEGMENT else _compacted_keys(path)
        pairs.append(np.frombuffer(keys, dtype=">u8").reshape(-1, 2).astype(np.uint64))
        numbers.append(np.full(len(places), number, np.uint16))
        rows.append(places)
    pair = np.concatenate(pairs)
    order = np.argsort(pair[:, 0], kind="stable")
    high, low = np.ascontiguousarray(pair[order, 0]), np.ascontiguousarray(pair[order, 1])
    number, row = np.concatenate(numbers)[order], np.concatenate(rows)[order]
    return CallIndex(tuple(map(str, paths)), high, low, number, row)


def _compacted_keys(path: AnyPath) -> tuple[Any, np.ndarray[Any, Any]]:
    column = open_parquet_at(path).read(["key"]).column("key").combine_chunks()
    return memoryview(column.buffers()[1])[: KEY_BYTES * len(column)], np.arange(len(column), dtype=np.uint32)


def _segment_keys(path: AnyPath) -> tuple[Any, np.ndarray[Any, Any]]:
    found: list[tuple[bytes, int]] = []
    with path.open("rb") as file:
        for offset, content in frames_in(file):
            found.append((content[:KEY_BYTES], offset))
            if not len(found) % ROW_GROUP:
                checkpoint()
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
        """The rows of the groups at hand, by key: calls that were logged together are asked for together."""

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
        if path.endswith(SEGMENT):
            with _open(path) as file:
                file.seek(row)
                content = frame_at(file)
            assert content is not None
            return _completion(orjson.loads(content[KEY_BYTES:])[4:9])
        group, offset = divmod(row, ROW_GROUP)
        return _completion(self._group(number, group)[offset])

    def _group(self, number: int, group: int) -> list[tuple[Any, ...]]:
        place = (number, group)
        rows = self._groups.pop(place, None)
        if rows is None:
            if number not in self._files:
                self._files[number] = open_parquet_at(self._index.files[number])
            names = ["text", "finish_reason", "input_tokens", "output_tokens", "model", "key"]
            columns = self._files[number].read_row_group(group, columns=names).select(names).columns
            values = [column.to_pylist() for column in columns]
            rows = list(zip(*values, strict=True))
            near = zip(values[-1], rows, strict=True)
            if self._several:
                near = ((key, row) for key, row in near if int.from_bytes(key[:8]) not in self._several)
            self._near.update(near)
        self._groups[place] = rows
        if len(self._groups) > _CACHED_GROUPS:
            for row in self._groups.pop(next(iter(self._groups))):
                self._near.pop(row[-1], None)
        return rows


class KnownCalls:
    """The completions that a worker of `owner` need not ask for: those in the call log when its run began, and those of
    this run, once rows are redone.

    `forgotten`: steps for which calls of earlier runs are not reused.
    """

    def __init__(self, index: CallIndex, folder: AnyPath, owner: str, forgotten: frozenset[str]) -> None:
        self._index, self._folder, self._owner, self._forgotten = index, folder, owner, forgotten
        self._all = CallReader(index)
        self._of_this_run: CallReader | None = None
        self.epoch = 0
        """How many workers had been lost when the log was last read."""

    def find(self, step: str, key: bytes) -> Completion | None:
        """The completion of a call of a step, if it is known."""
        reader = self._of_this_run if step in self._forgotten else self._all
        return reader.find(key) if reader is not None else None

    def look_back(self, epoch: int) -> None:
        """Rows are redone in this epoch: read what all workers of this run, lost ones too, have logged so far."""
        if epoch <= self.epoch:
            return
        self.epoch = epoch
        self._all = CallReader(index_with_segments(self._index, self._folder, self._owner))
        if self._forgotten:
            nothing = load_index(self._folder, known=False)
            self._of_this_run = CallReader(index_with_segments(nothing, self._folder, self._owner))


def _open(path: str) -> BinaryIO:
    return BytesIO(_fetch(path)) if isinstance(parse_path(path), RemotePath) else open(path, "rb")


@lru_cache(_CACHED_GROUPS)
def _fetch(path: str) -> bytes:
    """A piece of a log in a store; its frames are asked for together."""
    return parse_path(path).read_bytes()


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
