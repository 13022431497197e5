"""Waits for calls in flight once a run was told to send no more, and leaves the rows that have not ended.

Knows nothing of why the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from dataclasses import dataclass

from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.worker_slots import WorkerSlot

_LOOK_EVERY_S, _GRACE_S = 0.05, 1.0


@dataclass
class Drain:
    """`asking`: the pools whose steps make calls."""

    router: Router
    slots: Sequence[WorkerSlot]
    asking: Set[str | None]

    async def calls(self, most_s: float) -> None:
        """Wait for calls in flight, and a moment for the steps behind them; at most so long."""
        loop = asyncio.get_running_loop()
        deadline, seen, moved = loop.time() + most_s, -1, loop.time()
        while loop.time() < deadline and any(slot.window.rows for slot in self.slots):
            ended = sum(counts.rows_done + counts.rows_unfinished for counts in self.router.totals.values())
            if ended != seen:
                seen, moved = ended, loop.time()
            if not self._calls_in_flight() and loop.time() > moved + _GRACE_S:
                break
            await asyncio.sleep(_LOOK_EVERY_S)

    def _calls_in_flight(self) -> int:
        return sum(slot.status.in_flight for slot in self.slots if slot.status is not None and slot.pool in self.asking)

    def leave_all(self) -> None:
        """Rows that have not ended, wherever they are, are left as they are."""
        for slot in self.slots:
            for step, rows in slot.window.take_back():
                self.router.leave(step, rows)
        while waiting := [queue for queue in self.router.queues.values() if queue.rows]:
            for queue in waiting:
                rows = queue.take(queue.rows)
                if rows is not None:
                    self.router.leave(queue.name, rows)
        self.router.leave_held()
