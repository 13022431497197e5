"""I hold the rows that wait for a step, and the rows that are with one worker.

I decide how many rows a worker is given ahead: enough that it never runs dry between two exchanges,
no more, since rows held ahead cannot go to another worker.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from raypipe.execution.wire import Chunk
from raypipe.plan import PlannedStep, Stage
from raypipe.row import ATTEMPT, ROW_ID
from raypipe.tables import concat

LONG_QUEUE = 4096
"""Rows; a step does not work ahead while this many wait behind it."""
_LARGEST_CHUNK = 1024
_LARGEST_WINDOW = 16384
_AHEAD = 2.0
_FED = 0.75
"""Rows for each call in flight that a worker has once a pipeline has filled, though it hands them on at once."""
_WELL_FED = 1.25
"""Rows for each call in flight with which a worker can wait for a larger chunk: many small ones cost more."""
_WORTH_SENDING = 1 / 8
"""Share of the window that makes such a chunk."""


class StepQueue:
    """Rows that wait for one step.

    Where a step's rows have `homes`, those that begin alike have the same: a worker is given rows of its own home, and
    of others' that may not wait for theirs.
    """

    def __init__(self, planned: PlannedStep, homes: int = 1) -> None:
        assert planned.pool is not None
        self.name = planned.name
        self.pool = planned.pool
        self.rows = 0
        begin = planned.step.begins_with() if homes > 1 else ()
        self._beginning = [planned.step.input_mappings.get(name, name) for name in begin]
        self._homes: list[deque[pa.Table]] = [deque() for _ in range(homes if begin else 1)]
        self._wire = planned.wire
        self._names = planned.step.input_mappings
        """The pipeline's name for a column that the step calls otherwise."""

    @property
    def is_long(self) -> bool:
        return self.rows >= LONG_QUEUE

    def put(self, rows: pa.Table) -> None:
        for home, part in self._at_home(rows):
            home.append(part)
        self.rows += rows.num_rows

    def put_first(self, rows: pa.Table) -> None:
        for home, part in self._at_home(rows):
            home.appendleft(part)
        self.rows += rows.num_rows

    def _at_home(self, rows: pa.Table) -> Iterator[tuple[deque[pa.Table], pa.Table]]:
        """The rows, by where those that begin alike wait."""
        if len(self._homes) == 1:
            if rows.num_rows:
                yield self._homes[0], rows
            return
        homes = _homes_of(rows, self._beginning, len(self._homes))
        for number in np.unique(homes).tolist():
            yield self._homes[number], rows.filter(pa.array(homes == number))

    def take(
        self, most: int, home: int | None = None, can_wait: Callable[[int], bool] | None = None
    ) -> pa.Table | None:
        """Up to `most` rows, in order.

        Of `home` first, then of those whose worker is loaded: not of one who `can_wait` for rows of its own.
        """
        taken: list[pa.Table] = []
        left = most
        for tables in self._turns(home, can_wait):
            while left and tables:
                table = tables.popleft()
                if table.num_rows > left:
                    tables.appendleft(table.slice(left))
                    table = table.slice(0, left)
                taken.append(table)
                left -= table.num_rows
        self.rows -= most - left
        return concat(taken) if taken else None

    def _turns(self, home: int | None, can_wait: Callable[[int], bool] | None) -> Iterator[deque[pa.Table]]:
        own = None if home is None or len(self._homes) == 1 else home % len(self._homes)
        if own is not None:
            yield self._homes[own]
        for number, tables in enumerate(self._homes):
            if number != own and (own is None or can_wait is None or not can_wait(number)):
                yield tables

    def for_worker(self, rows: pa.Table) -> pa.Table:
        """The columns that the step's method is given, and the row's identity."""
        if self._wire is None:
            hidden = [name for name in rows.column_names if name in _INTERNAL]
            own = [name for name in self._names if name not in self._names.values()]
            return _renamed(_without(rows.drop_columns(hidden), own), self._names)
        wanted = {name: self._names.get(name, name) for name in self._wire}
        columns = {
            name: rows.column(column) if column in rows.column_names else pa.nulls(rows.num_rows)
            for name, column in wanted.items()
        }
        return pa.table({ROW_ID: rows.column(ROW_ID), **columns})


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
            encoded = rows.column(name).combine_chunks().dictionary_encode()
            digests = [zlib.crc32(repr(value).encode()) for value in encoded.dictionary.to_pylist()]
            numbers = encoded.indices.fill_null(len(digests)).to_numpy()
            found = found * 31 + np.array([*digests, 0], np.int64)[numbers]
    return np.abs(found) % homes


def _renamed(rows: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The columns that a step calls otherwise, by the step's names."""
    if not names:
        return rows
    kept = {name: rows.column(name) for name in rows.column_names if name not in names.values()}
    return pa.table(kept | {name: rows.column(column) for name, column in names.items()})


def _without(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    return rows.drop_columns([name for name in columns if name in rows.column_names]) if columns else rows


_INTERNAL = frozenset({"_ancestors", "_position", "_path", "_batch", "_attempt"})


_SHRUNK = 4
"""A chunk of which less than one in so many rows is left is made smaller."""


@dataclass
class _Held:
    step: str
    rows: pa.Table
    is_here: np.ndarray
    """True where the row has not ended."""
    left: int
    place: np.ndarray | None = None
    """Where each row of the chunk is now, once those that ended have been left out."""

    def places(self, index: np.ndarray) -> np.ndarray:
        """Where rows of the chunk are."""
        return index if self.place is None else self.place[index]

    def end(self, places: np.ndarray) -> None:
        self.is_here[places] = False
        self.left -= len(places)

    def shrink(self) -> None:
        """Leave out what has ended: who takes some rows of a table pays for all of it."""
        if self.place is None:
            self.place = np.arange(len(self.is_here))
        moved = np.cumsum(self.is_here) - 1
        self.place = moved[self.place]
        self.rows = self.rows.filter(pa.array(self.is_here))
        self.is_here = np.ones(self.left, bool)


class Outbox:
    """Rows with one worker."""

    def __init__(
        self,
        queues: Mapping[str, StepQueue],
        is_congested: Callable[[str], bool],
        concurrency: int,
        share: float,
        home: int = 0,
    ) -> None:
        self._queues = queues
        self.home = home
        """Its place among the workers of its pool."""
        self._is_congested = is_congested
        self._concurrency = concurrency * share
        self._held: dict[int, _Held] = {}
        self._rows = 0
        self._next = 0
        self.ended_rows = 0
        """Rows that have ended here, ever."""
        self._window = max(1, round(self._concurrency * _AHEAD))

    @property
    def rows(self) -> int:
        """Rows that have not ended."""
        return self._rows

    @property
    def steps(self) -> Iterable[str]:
        """The steps whose rows it takes."""
        return self._queues

    @property
    def is_fed(self) -> bool:
        """Whether the worker is about as busy as it can be."""
        return self._rows >= self._concurrency * _FED

    @property
    def is_full(self) -> bool:
        """Whether the worker has as many rows as it works on at once."""
        return self._rows >= self._concurrency

    def fill(self, losses: int = 0, can_wait: Callable[[int], bool] | None = None) -> list[Chunk]:
        """What the worker should be sent now, the deepest step first; `losses`: workers lost so far.

        `can_wait`: whether rows that another worker of the pool should have may wait for it.
        """
        chunks: list[Chunk] = []
        if self._rows > self._concurrency * _WELL_FED and self._window - self._rows < self._window * _WORTH_SENDING:
            return chunks
        for name, queue in self._queues.items():
            while self._rows < self._window and queue.rows and not self._is_congested(name):
                rows = queue.take(min(self._window - self._rows, _LARGEST_CHUNK), self.home, can_wait)
                if rows is None:
                    break
                chunks.append(self.hold(name, rows, queue.for_worker(rows), losses))
        return chunks

    def hold(self, step: str, rows: pa.Table, sent: pa.Table, losses: int) -> Chunk:
        """Take `rows` for the worker, which is given the columns `sent`."""
        number, self._next = self._next, self._next + 1
        self._held[number] = _Held(step, rows, np.ones(rows.num_rows, bool), rows.num_rows)
        self._rows += rows.num_rows
        again = rows.column(ATTEMPT).to_numpy().any()
        return Chunk(number, step, sent, losses if again else 0)

    def inputs(self, chunk: np.ndarray, index: np.ndarray, without: Sequence[str] = ()) -> pa.Table:
        """The rows at these places, in this order, without some columns; they stay held."""
        if not len(chunk):
            held = next(iter(self._held.values()))
            return held.rows.slice(0, 0)
        held = {number: self._held[number] for number in np.unique(chunk).tolist()}
        tables = [_without(one.rows, without) for one in held.values()]
        if len(tables) == 1:
            [one] = held.values()
            return tables[0].take(pa.array(one.places(index)))
        # One `take` of them all: one for each costs as much for two rows as for hundreds.
        places, start = np.empty(len(chunk), np.int64), 0
        for (number, one), table in zip(held.items(), tables, strict=True):
            here = chunk == number
            places[here] = start + one.places(index[here])
            start += table.num_rows
        return concat(tables).take(pa.array(places))

    def ended(self, chunk: np.ndarray, index: np.ndarray) -> pa.Table:
        """The rows at these places; they are no longer with the worker."""
        rows = self.inputs(chunk, index)
        for number in np.unique(chunk).tolist():
            held = self._held[number]
            held.end(held.places(index[chunk == number]))
        self._rows -= rows.num_rows
        self.ended_rows += rows.num_rows
        self._widen(rows.num_rows)
        return rows

    def release(self) -> None:
        """Forget chunks that are through, and most of those that nearly are."""
        for number, held in list(self._held.items()):
            if held.left == 0:
                del self._held[number]
            elif held.left * _SHRUNK < held.rows.num_rows:
                held.shrink()

    def _widen(self, ended: int) -> None:
        """Room for two exchanges' worth of rows on top of those being worked on."""
        wanted = max(self._concurrency * _AHEAD, self._concurrency + 2 * ended)
        self._window = max(self._window, round(min(wanted, _LARGEST_WINDOW)))

    def take_back(self) -> list[tuple[str, pa.Table]]:
        """All rows that are still with the worker, by step; it holds nothing any more."""
        held, self._held, self._rows = self._held, {}, 0
        return [(one.step, one.rows.filter(pa.array(one.is_here))) for one in held.values() if one.left]
