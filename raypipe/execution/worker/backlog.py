"""Holds the rows of a worker that have not ended: those that wait, by step, and those that are worked on.

Knows nothing of how a row is worked on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from raypipe.contracts.step import Step
from raypipe.execution.wire import Chunk
from raypipe.row import ROW_ID, Values
from raypipe.values.arrays import to_rows


@dataclass(slots=True, eq=False)
class Item:
    """A row of one step, and the conductor that sent it."""

    sender: str
    step: str
    place: tuple[int, int]
    row_id: bytes
    row: Values


class Backlog:
    """The rows of one worker. The first of its steps are the deepest."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = steps
        self._queues: dict[str, deque[Item]] = {name: deque() for name in steps}
        self.begun: dict[Item, float] = {}
        """When each row that is worked on was begun, the oldest first; whoever ends a row takes it out."""
        self.with_batch: set[str] = set()
        """Steps that work on a batch: they get one at a time, so that they need not be safe for threads."""

    def add(self, sender: str, chunk: Chunk) -> None:
        """Take in more rows of one step."""
        queue = self._queues[chunk.step]
        ids = chunk.table.column(ROW_ID).to_numpy().tolist()  # `to_pylist` takes twenty times as long
        table = chunk.table if self._steps[chunk.step].is_told_identity else chunk.table.drop_columns([ROW_ID])
        rows = to_rows(table) if table.num_columns else [{} for _ in ids]
        for index, (row_id, row) in enumerate(zip(ids, rows, strict=True)):
            queue.append(Item(sender, chunk.step, (chunk.number, index), row_id, row))

    def clear(self) -> None:
        """Forget the rows that wait."""
        for queue in self._queues.values():
            queue.clear()

    def next_step(self) -> str:
        """The deepest step for which rows wait and that can take them; empty when there is none."""
        for name, queue in self._queues.items():
            if queue and name not in self.with_batch:
                return name
        return ""

    def waiting(self, step: str) -> int:
        """How many rows wait for a step."""
        return len(self._queues[step])

    def begin_one(self, step: str) -> Item:
        """Take one row of a step to work on it."""
        item = self._queues[step].popleft()
        self.begun[item] = time.monotonic()
        return item

    def begin(self, step: str, most: int) -> list[Item]:
        """Take up to `most` rows of a step to work on them."""
        queue, now = self._queues[step], time.monotonic()
        items = [queue.popleft() for _ in range(min(most, len(queue)))]
        self.begun.update(dict.fromkeys(items, now))
        return items

    def count(self, sender: str | None = None) -> int:
        """How many rows have not ended; with a `sender`, of its rows."""
        if sender is None:
            return len(self.begun) + sum(map(len, self._queues.values()))
        items: Iterator[Item] = chain(self.begun, *self._queues.values())
        return sum(item.sender == sender for item in items)

    def oldest(self) -> tuple[float, str]:
        """For how long the oldest row has been worked on, in seconds, and by which step."""
        item = next(iter(self.begun), None)
        return (time.monotonic() - self.begun[item], item.step) if item is not None else (0.0, "")
