"""Holds the rows that wait for a step, by affinity shard. Knows nothing of what a worker has already.

Rows whose prompts begin alike wait in one shard and are given to one worker, whose engine remembers the beginning.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from raypipe.contracts.model_pool import first_of
from raypipe.plan.plan import PlannedStep, Stage
from raypipe.row import ANCESTORS, ATTEMPT, BATCH, PATH, POSITION, ROW_ID
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import count_fitting_rows, filter_rows, size_bytes, split

LONG_QUEUE = 4096
"""Rows; a step does not work ahead while this many wait behind it."""
LARGEST_CHUNK = 1024
"""Rows."""
_INTERNAL = frozenset({ANCESTORS, POSITION, PATH, BATCH, ATTEMPT})


@dataclass(frozen=True)
class _Waiting:
    """Rows in a queue."""

    rows: pa.Table
    size_bytes: int


class StepQueue:
    """Rows that wait for one step.

    A worker is given rows of its own shard, and rows of others' shards that cannot wait for their worker.
    """

    def __init__(self, planned: PlannedStep, shards: int = 1, bounds: Bounds | None = None) -> None:
        assert planned.pool is not None
        self.name = planned.name
        self.pool = planned.pool
        self.rows = 0
        self._bytes = 0
        self._bounds = bounds or Bounds()
        begin = planned.step.begins_with() if shards > 1 else ()
        self._affinity_columns = [planned.step.input_mappings.get(name, name) for name in begin]
        self._shards: list[deque[_Waiting]] = [deque() for _ in range(shards if begin else 1)]
        self._wire = planned.step.needs()
        self._names = planned.step.input_mappings
        """The pipeline's name for a column that the step calls otherwise."""

    @property
    def is_long(self) -> bool:
        """Whether so many rows wait that no step before it should add to them."""
        return self.rows >= LONG_QUEUE or self._bytes >= self._bounds.queue_bytes

    def put(self, rows: pa.Table, *, is_first: bool = False) -> None:
        """Let rows wait, last in their shards or, where they come back, first."""
        if not rows.num_rows:
            return
        parts = [(0, rows)]
        if len(self._shards) > 1:
            shards = _shards_of(rows, self._affinity_columns, len(self._shards))
            parts = [(number, filter_rows(rows, shards == number)) for number in np.unique(shards).tolist()]
        for number, part in parts:
            pieces = split(part, LARGEST_CHUNK, self._bounds.batch_bytes)
            waiting = [_Waiting(piece, size_bytes(piece)) for piece in pieces]
            self._bytes += sum(one.size_bytes for one in waiting)
            if is_first:
                self._shards[number].extendleft(reversed(waiting))
            else:
                self._shards[number].extend(waiting)
        self.rows += rows.num_rows

    def take(
        self,
        most: int,
        shard: int | None = None,
        can_wait: Callable[[int], bool] | None = None,
        most_bytes: int | None = None,
    ) -> pa.Table | None:
        """Up to `most` rows, in order, of which a worker is sent at most `most_bytes`; at least one row if any waits.

        Of `shard` first, then of those whose worker is loaded: not of one that `can_wait` for rows of its own.
        """
        taken: list[pa.Table] = []
        left, left_bytes = most, self._bounds.batch_bytes if most_bytes is None else most_bytes
        for waiting in self._in_turn(shard, can_wait):
            while left and waiting and (table := self._next(waiting, left, left_bytes, must=not taken)) is not None:
                taken.append(table)
                left -= table.num_rows
                left_bytes -= size_bytes(self._sent(table))
        return concat(taken) if taken else None

    def _in_turn(self, shard: int | None, can_wait: Callable[[int], bool] | None) -> Iterator[deque[_Waiting]]:
        own = None if shard is None or len(self._shards) == 1 else shard % len(self._shards)
        if own is not None:
            yield self._shards[own]
        for number, waiting in enumerate(self._shards):
            if number != own and (own is None or can_wait is None or not can_wait(number)):
                yield waiting

    def _next(self, waiting: deque[_Waiting], most: int, most_bytes: int, must: bool) -> pa.Table | None:
        """The first rows that wait, if any of them are few enough; with `must`, at least one."""
        first = waiting.popleft()
        fits = count_fitting_rows(self._sent(first.rows), most, most_bytes)
        fits = max(1, fits) if must else fits
        taken = first
        if fits < first.rows.num_rows:
            rest = first.rows.slice(fits)
            left = _Waiting(rest, size_bytes(rest) if fits else first.size_bytes)
            taken = _Waiting(first.rows.slice(0, fits), first.size_bytes - left.size_bytes)
            waiting.appendleft(left)
        if not fits:
            return None
        self.rows -= fits
        self._bytes -= taken.size_bytes
        return taken.rows

    def _sent(self, rows: pa.Table) -> pa.Table:
        """The columns that a worker is sent, by their names in the pipeline."""
        if self._wire is None:
            return rows
        names = {ROW_ID, *(self._names.get(name, name) for name in self._wire)}
        return rows.select([name for name in rows.column_names if name in names])

    def for_worker(self, rows: pa.Table) -> pa.Table:
        """The columns that the step's method is given, by the step's names, and the row's identity."""
        if self._wire is None:
            hidden = [name for name in rows.column_names if name in _INTERNAL]
            own = [name for name in self._names if name not in self._names.values()]
            shown = without(rows.drop_columns(hidden), own)
            if not self._names:
                return shown
            kept = {name: shown.column(name) for name in shown.column_names if name not in self._names.values()}
            return pa.table(kept | {name: shown.column(column) for name, column in self._names.items()})
        wanted = {name: self._names.get(name, name) for name in self._wire}
        columns = {
            name: rows.column(column) if column in rows.column_names else pa.nulls(rows.num_rows)
            for name, column in wanted.items()
        }
        return pa.table({ROW_ID: rows.column(ROW_ID), **columns})


class _Sized(Protocol):
    most: int


def open_queues(
    stage: Stage, phase: frozenset[str], pools: Mapping[str, _Sized], bounds: Bounds
) -> dict[str, StepQueue]:
    """A queue for each step of a phase that works in a pool, or of the whole stage where `phase` is empty.

    Rows for an engine of this run have as many shards as the most workers that its pool may have.
    """
    queues: dict[str, StepQueue] = {}
    for name, planned in stage.steps.items():
        if planned.pool is not None and (name in phase or not phase):
            remembers = any(
                one.step.llm is not None and first_of(one.step.llm).runs_here and one.pool == planned.pool
                for one in stage.steps.values()
            )
            queues[name] = StepQueue(planned, pools[planned.pool].most if remembers else 1, bounds)
    return queues


def _shards_of(rows: pa.Table, columns: Sequence[str], shards: int) -> np.ndarray:
    """A number below `shards` for each row, the same for rows with the same values in `columns`."""
    found = np.zeros(rows.num_rows, np.int64)
    for name in columns:
        if name in rows.column_names:
            found = found * 31 + np.concatenate(_digests(rows.column(name)))
    return np.abs(found) % shards


def _digests(column: pa.ChunkedArray) -> list[np.ndarray]:
    """A number for each value, by chunk: rows may share a chunk, and all values together may be too large for one."""
    known: dict[tuple[int, ...], np.ndarray] = {}
    found: list[np.ndarray] = []
    for chunk in column.chunks:
        buffers = (0 if buffer is None else buffer.address for buffer in chunk.buffers())
        key = (chunk.offset, len(chunk), *buffers)
        if key not in known:
            encoded = chunk.dictionary_encode()
            digests = [zlib.crc32(repr(value).encode()) for value in encoded.dictionary.to_pylist()]
            known[key] = np.array([*digests, 0], np.int64)[encoded.indices.fill_null(len(digests)).to_numpy()]
        found.append(known[key])
    return found


def without(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The rows without the columns of these names that they have."""
    return rows.drop_columns([name for name in columns if name in rows.column_names]) if columns else rows
