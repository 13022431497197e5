"""Holds the rows that are with one worker, and decides how many it is given ahead.

Enough that it never runs dry between two exchanges and no more, since rows held ahead cannot go to another worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.execution.conductor.queues import LARGEST_CHUNK, StepQueue, without
from raypipe.execution.wire import Chunk
from raypipe.row import ATTEMPT
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import filter_rows, held_bytes, size_bytes, take_rows

_LARGEST_WINDOW = 16384
_AHEAD = 2.0
_FED = 0.75
"""Rows for each call in flight that a busy worker has at least, once every step of a pipeline has rows."""
_WELL_FED = 1.25
"""Rows for each call in flight from which on a worker waits for a larger chunk: many small ones cost more."""
_HELD_WINDOWS = 2
"""How many times the bytes that a worker may be sent its rows may keep here."""
_WORTH_SENDING = 1 / 8
"""Share of the window that makes a chunk large enough."""
_SHRUNK = 4
"""A chunk is made smaller when less than one row in this many is left."""


@dataclass
class _Held:
    step: str
    rows: pa.Table
    is_here: np.ndarray
    """True where the row has not ended."""
    left: int
    sent_bytes: float
    """Of each row, as the worker was sent it."""
    held_bytes: float
    """Memory that each row keeps here."""
    place: np.ndarray | None = None
    """Where each row of the chunk is now, once those that ended were left out."""

    def places(self, index: np.ndarray) -> np.ndarray:
        """Where rows of the chunk are."""
        return index if self.place is None else self.place[index]

    def shrink(self) -> None:
        """Leave out what has ended: taking some rows of a table costs as much as all of them."""
        if self.place is None:
            self.place = np.arange(len(self.is_here))
        moved = np.cumsum(self.is_here) - 1
        self.place = moved[self.place]
        self.rows = filter_rows(self.rows, self.is_here)
        self.is_here = np.ones(self.left, bool)


class InFlightWindow:
    """The rows of all steps of its pool that are with one worker."""

    def __init__(
        self,
        queues: Mapping[str, StepQueue],
        is_congested: Callable[[str], bool],
        concurrency: int,
        share: float,
        shard: int = 0,
        bounds: Bounds | None = None,
    ) -> None:
        self.queues = queues
        """Of the steps whose rows it takes."""
        self._bounds = bounds or Bounds()
        self.shard = shard
        """Of the rows that the worker should have rather than others of its pool."""
        self._is_congested = is_congested
        self._concurrency = concurrency * share
        self._held: dict[int, _Held] = {}
        self.rows = 0
        """Rows that have not ended."""
        self._sent_bytes = self._held_bytes = 0.0
        self._next = 0
        self.ended_rows = 0
        """Rows that have ended here, ever."""
        self._window = max(1, round(self._concurrency * _AHEAD))

    @property
    def is_fed(self) -> bool:
        """Whether the worker is about as busy as it can be."""
        return self.rows >= self._concurrency * _FED or self._is_heavy

    @property
    def is_full(self) -> bool:
        """Whether the worker has as many rows as it works on at once."""
        return self.rows >= self._concurrency or self._is_heavy

    @property
    def _is_heavy(self) -> bool:
        """Whether the rows that the worker has are as many bytes as it may have."""
        window = self._bounds.window_bytes
        return bool(self.rows) and (self._sent_bytes >= window or self._held_bytes >= _HELD_WINDOWS * window)

    def fill(self, epoch: int = 0, can_wait: Callable[[int], bool] | None = None) -> list[Chunk]:
        """What the worker should be sent now, the deepest step first; `epoch`: workers lost so far.

        `can_wait`: whether rows that another worker of the pool should have may wait for it.
        """
        chunks: list[Chunk] = []
        if self.rows > self._concurrency * _WELL_FED and self._window - self.rows < self._window * _WORTH_SENDING:
            return chunks
        for name, queue in self.queues.items():
            while queue.rows and self.rows < self._window and not self._is_heavy and not self._is_congested(name):
                most = min(self._window - self.rows, LARGEST_CHUNK)
                rows = queue.take(most, self.shard, can_wait, self._bounds.batch_bytes)
                if rows is None:
                    break
                chunks.append(self.hold(name, rows, queue.for_worker(rows), epoch))
        return chunks

    def hold(self, step: str, rows: pa.Table, sent: pa.Table, epoch: int) -> Chunk:
        """Take `rows` for the worker, which is given the columns `sent`."""
        number, self._next = self._next, self._next + 1
        count = rows.num_rows
        each = size_bytes(sent) / max(1, count), held_bytes(rows) / max(1, count)
        self._held[number] = _Held(step, rows, np.ones(count, bool), count, *each)
        self._add(count, *each)
        again = rows.column(ATTEMPT).to_numpy().any()
        return Chunk(number, step, sent, epoch if again else 0)

    def _add(self, rows: int, sent_bytes: float, held_bytes: float) -> None:
        """More rows, or fewer, of so many bytes each."""
        self.rows += rows
        self._sent_bytes += rows * sent_bytes
        self._held_bytes += rows * held_bytes

    def inputs(self, chunk: np.ndarray, index: np.ndarray, leave_out: Sequence[str] = ()) -> pa.Table:
        """The rows at these places, in this order, without some columns; they stay held."""
        if not len(chunk):
            return next(iter(self._held.values())).rows.slice(0, 0)
        held = {number: self._held[number] for number in np.unique(chunk).tolist()}
        tables = [without(one.rows, leave_out) for one in held.values()]
        if len(tables) == 1:
            [one] = held.values()
            return take_rows(tables[0], one.places(index))
        # One `take` of them all: one for each costs as much for two rows as for hundreds.
        places, start = np.empty(len(chunk), np.int64), 0
        for (number, one), table in zip(held.items(), tables, strict=True):
            here = chunk == number
            places[here] = start + one.places(index[here])
            start += table.num_rows
        return take_rows(concat(tables), places)

    def end(self, chunk: np.ndarray, index: np.ndarray) -> pa.Table:
        """The rows at these places; they are no longer with the worker."""
        rows = self.inputs(chunk, index)
        for number in np.unique(chunk).tolist():
            held, places = self._held[number], index[chunk == number]
            held.is_here[held.places(places)] = False
            held.left -= len(places)
            self._add(-len(places), held.sent_bytes, held.held_bytes)
        self.ended_rows += rows.num_rows
        # Room for two exchanges' worth of rows on top of those being worked on.
        wanted = max(self._concurrency * _AHEAD, self._concurrency + 2 * rows.num_rows)
        self._window = max(self._window, round(min(wanted, _LARGEST_WINDOW)))
        return rows

    def release(self) -> None:
        """Forget chunks that are through, and most of those that nearly are."""
        for number, held in list(self._held.items()):
            if held.left == 0:
                del self._held[number]
            elif held.left * _SHRUNK < held.rows.num_rows:
                held.shrink()

    def take_back(self) -> list[tuple[str, pa.Table]]:
        """All rows that are still with the worker, each table with its step; it holds nothing any more.

        There is a table for each chunk that was sent, so a step may come several times.
        """
        held, self._held = self._held, {}
        self.rows, self._sent_bytes, self._held_bytes = 0, 0.0, 0.0
        return [(one.step, filter_rows(one.rows, one.is_here)) for one in held.values() if one.left]
