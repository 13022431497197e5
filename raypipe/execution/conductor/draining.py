"""Waits for calls in flight once a run sends no more, and leaves the rows that have not ended unfinished.

Knows nothing of why the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.counts import StepCounts

_LOOK_EVERY_S, _GRACE_S = 0.05, 1.0


@dataclass
class Drain:
    """`asking`: the pools whose steps make calls; `totals`: what each step did so far."""

    router: Router
    totals: Mapping[str, StepCounts]
    slots: Sequence[WorkerSlot]
    asking: Set[str | None]

    async def wait_for_calls(self, most_s: float) -> None:
        """Wait for calls in flight, and a moment for the steps behind them; at most `most_s`."""
        loop = asyncio.get_running_loop()
        deadline, seen, moved = loop.time() + most_s, -1, loop.time()
        while loop.time() < deadline and any(slot.window.rows for slot in self.slots):
            ended = sum(counts.rows_done + counts.rows_unfinished for counts in self.totals.values())
            if ended != seen:
                seen, moved = ended, loop.time()
            asking = [slot.status for slot in self.slots if slot.status is not None and slot.pool in self.asking]
            if not any(status.in_flight for status in asking) and loop.time() > moved + _GRACE_S:
                break
            await asyncio.sleep(_LOOK_EVERY_S)

    def leave_all(self) -> None:
        """Rows that have not ended, wherever they are, stay unfinished."""
        for slot in self.slots:
            for step, rows in slot.window.take_back():
                self.router.leave(step, rows)
        self.router.leave_waiting()
