"""Holds the rows that wait for a step. Knows nothing of what a worker has already."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from raypipe.plan.plan import PlannedStep, Stage
from raypipe.row import ROW_ID
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import count_fitting_rows, filter_rows, size_bytes, split

LONG_QUEUE = 4096
"""Rows; a step does not work ahead while this many wait behind it."""
LARGEST_CHUNK = 1024
"""Rows."""


class StepQueue:
    """Rows that wait for one step.

    Where a step's rows have `homes`, those that begin alike have the same: a worker is given rows of its own home, and
    of others' that may not wait for theirs.
    """

    def __init__(self, planned: PlannedStep, homes: int = 1, bounds: Bounds | None = None) -> None:
        assert planned.pool is not None
        self.name = planned.name
        self.pool = planned.pool
        self.rows = 0
        self._bytes = 0
        self._bounds = bounds or Bounds()
        begin = planned.step.begins_with() if homes > 1 else ()
        self._beginning = [planned.step.input_mappings.get(name, name) for name in begin]
        self._homes: list[deque[_Waiting]] = [deque() for _ in range(homes if begin else 1)]
        self._wire = planned.wire
        self._names = planned.step.input_mappings
        """The pipeline's name for a column that the step calls otherwise."""

    @property
    def is_long(self) -> bool:
        return self.rows >= LONG_QUEUE or self._bytes >= self._bounds.queue_bytes

    def put(self, rows: pa.Table) -> None:
        for home, part in self._at_home(rows):
            home.extend(self._noted(part))

    def put_first(self, rows: pa.Table) -> None:
        for home, part in self._at_home(rows):
            home.extendleft(reversed(list(self._noted(part))))

    def _noted(self, rows: pa.Table) -> Iterator[_Waiting]:
        for part in split(rows, LARGEST_CHUNK, self._bounds.batch_bytes):
            waiting = _Waiting(part, size_bytes(part))
            self.rows += part.num_rows
            self._bytes += waiting.size_bytes
            yield waiting

    def _at_home(self, rows: pa.Table) -> Iterator[tuple[deque[_Waiting], pa.Table]]:
        """The rows, by where those that begin alike wait."""
        if len(self._homes) == 1:
            if rows.num_rows:
                yield self._homes[0], rows
            return
        homes = _homes_of(rows, self._beginning, len(self._homes))
        for number in np.unique(homes).tolist():
            yield self._homes[number], filter_rows(rows, homes == number)

    def take(
        self,
        most: int,
        home: int | None = None,
        can_wait: Callable[[int], bool] | None = None,
        most_bytes: int | None = None,
    ) -> pa.Table | None:
        """Up to `most` rows, in order, of which a worker is sent no more than `most_bytes`; but one in any case.

        Of `home` first, then of those whose worker is loaded: not of one who `can_wait` for rows of its own.
        """
        taken: list[pa.Table] = []
        left, left_bytes = most, self._bounds.batch_bytes if most_bytes is None else most_bytes
        for waiting in self._turns(home, can_wait):
            while left and waiting and (table := self._next(waiting, left, left_bytes, must=not taken)) is not None:
                taken.append(table)
                left -= table.num_rows
                left_bytes -= size_bytes(self._sent(table))
        return concat(taken) if taken else None

    def _next(self, waiting: deque[_Waiting], most: int, most_bytes: int, must: bool) -> pa.Table | None:
        """The first rows that wait, if any of them are few enough; with `must`, at least one."""
        first = waiting.popleft()
        fits = count_fitting_rows(self._sent(first.rows), most, most_bytes)
        fits = max(1, fits) if must else fits
        taken, left = first, None
        if fits < first.rows.num_rows:
            left = first.after(fits)
            taken = _Waiting(first.rows.slice(0, fits), first.size_bytes - left.size_bytes)
            waiting.appendleft(left)
        if not fits:
            return None
        self.rows -= fits
        self._bytes -= taken.size_bytes
        return taken.rows

    def _turns(self, home: int | None, can_wait: Callable[[int], bool] | None) -> Iterator[deque[_Waiting]]:
        own = None if home is None or len(self._homes) == 1 else home % len(self._homes)
        if own is not None:
            yield self._homes[own]
        for number, waiting in enumerate(self._homes):
            if number != own and (own is None or can_wait is None or not can_wait(number)):
                yield waiting

    def _sent(self, rows: pa.Table) -> pa.Table:
        """The columns that a worker is sent, by whatever name."""
        if self._wire is None:
            return rows
        names = {ROW_ID, *(self._names.get(name, name) for name in self._wire)}
        return rows.select([name for name in rows.column_names if name in names])

    def for_worker(self, rows: pa.Table) -> pa.Table:
        """The columns that the step's method is given, and the row's identity."""
        if self._wire is None:
            hidden = [name for name in rows.column_names if name in _INTERNAL]
            own = [name for name in self._names if name not in self._names.values()]
            return _renamed(without(rows.drop_columns(hidden), own), self._names)
        wanted = {name: self._names.get(name, name) for name in self._wire}
        columns = {
            name: rows.column(column) if column in rows.column_names else pa.nulls(rows.num_rows)
            for name, column in wanted.items()
        }
        return pa.table({ROW_ID: rows.column(ROW_ID), **columns})


@dataclass(frozen=True)
class _Waiting:
    """Rows in a queue."""

    rows: pa.Table
    size_bytes: int

    def after(self, count: int) -> _Waiting:
        """All but the first rows."""
        left = self.rows.slice(count)
        return _Waiting(left, size_bytes(left) if count else self.size_bytes)


class _Counted(Protocol):
    @property
    def most(self) -> int: ...


def homes_of(stage: Stage, pools: Mapping[str, _Counted]) -> dict[str, int]:
    """In how many homes rows wait, by pool: those that begin alike should come to the same engine, which remembers it.

    There are as many as the most workers that a pool may have.
    """
    holding = {step.pool for step in stage.steps.values() if step.step.llm is not None and step.step.llm.runs_here}
    return {name: pool.most for name, pool in pools.items() if name in holding}


def _homes_of(rows: pa.Table, columns: Sequence[str], homes: int) -> np.ndarray:
    """A number below `homes` for each row, the same for rows with the same values in `columns`."""
    found = np.zeros(rows.num_rows, np.int64)
    for name in columns:
        if name in rows.column_names:
            found = found * 31 + np.concatenate(_digests(rows.column(name)))
    return np.abs(found) % homes


def _digests(column: pa.ChunkedArray) -> list[np.ndarray]:
    """A number for each value, by chunk: rows may share a chunk, and all values together may be too large for one."""
    known: dict[tuple[int, ...], np.ndarray] = {}
    found: list[np.ndarray] = []
    for chunk in column.chunks:
        place = (chunk.offset, len(chunk), *(0 if buffer is None else buffer.address for buffer in chunk.buffers()))
        if place not in known:
            encoded = chunk.dictionary_encode()
            digests = [zlib.crc32(repr(value).encode()) for value in encoded.dictionary.to_pylist()]
            known[place] = np.array([*digests, 0], np.int64)[encoded.indices.fill_null(len(digests)).to_numpy()]
        found.append(known[place])
    return found


def _renamed(rows: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The columns that a step calls otherwise, by the step's names."""
    if not names:
        return rows
    kept = {name: rows.column(name) for name in rows.column_names if name not in names.values()}
    return pa.table(kept | {name: rows.column(column) for name, column in names.items()})


def without(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    return rows.drop_columns([name for name in columns if name in rows.column_names]) if columns else rows


_INTERNAL = frozenset({"_ancestors", "_position", "_path", "_batch", "_attempt"})
