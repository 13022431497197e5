"""Gives the rows of lost workers to others, and starts a worker in place of each that is lost.

Knows pools by name only. Rows that two workers were lost with are tried apart from all others: one of them may be the
reason, and ends as a failure once it is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from raypipe.errors import InfrastructureError, ReplicaLostError
from raypipe.execution.conductor.quarantine import Suspects, parted, tried_again
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.wire import Chunk, Worker
from raypipe.row import ATTEMPT, Failure

_MOST_STILLBORN, _STILLBORN_PAUSE_S = 6, 1.0
"""Workers lost one after the other before they said anything; the first pause between two, which doubles."""


class Replaceable(Protocol):
    """A pool whose workers can be lost."""

    async def replace(self, lost: Any) -> Worker:
        """A new worker in place of a lost one, within a bound of the pool's own.

        Raises ReplicaLostError when it died at once, InfrastructureError when there can be none.
        """
        ...


@dataclass
class Recovery:
    """Of one stage. `wanted` is set while any row has not ended."""

    pools: Mapping[str, Replaceable]
    router: Router
    settle: Callable[[], None]
    wanted: asyncio.Event
    epoch: int = 0
    """Workers lost so far."""
    _suspects: dict[str, Suspects] = field(default_factory=dict[str, Suspects])
    _tester: dict[str, WorkerSlot] = field(default_factory=dict[str, WorkerSlot])

    @property
    def has_suspects(self) -> bool:
        return any(self._suspects.values())

    def tests(self, slot: WorkerSlot) -> bool:
        """Whether a slot has suspects to try, and no other rows meanwhile; one of a pool does at a time."""
        suspects, tester = self._suspects.get(slot.pool), self._tester.get(slot.pool)
        if tester is None and suspects:
            tester = self._tester[slot.pool] = slot
        if tester is slot and not suspects and not slot.window.rows:
            del self._tester[slot.pool]
            return False
        return tester is slot

    def suspects_for(self, slot: WorkerSlot) -> list[Chunk]:
        """The next suspects for the slot that tries them, once it has no other rows."""
        suspects = self._suspects.get(slot.pool)
        if slot.window.rows or not suspects:
            return []
        step, rows = suspects.take()
        return [slot.window.hold(step, rows, self.router.queues[step].for_worker(rows), self.epoch)]

    def leave_suspects(self) -> None:
        """Rows that would be tried apart are left as they are."""
        for suspects in self._suspects.values():
            while suspects:
                self.router.leave(*suspects.take())

    def leave(self, slot: WorkerSlot) -> None:
        """The rows of a worker are left as they are."""
        for step, rows in slot.window.take_back():
            self.router.leave(step, rows)

    def requeue(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """The rows of a lost worker go back to their queues; those that lost two are tried apart, one alone fails."""
        again = [(step, tried_again(rows)) for step, rows in slot.window.take_back()]
        sorted_out = [(step, *parted(rows)) for step, rows in again]
        is_one = sum(suspicious.num_rows for *_, suspicious in sorted_out) == 1
        for step, others, suspicious in sorted_out:
            self.router.queues[step].put_first(others)
            if is_one and suspicious.num_rows:
                said = f"{lost} (worker {suspicious.column(ATTEMPT)[0]} that was lost with this row)"
                self.router.fail(step, suspicious, Failure("worker_lost", said))
            else:
                self._suspects.setdefault(slot.pool, Suspects()).add(step, suspicious)
        self.settle()

    async def replace(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """A new worker for a slot, once rows want one; those that die while they start are replaced, for a while.

        Raises InfrastructureError when there can be none.
        """
        slot.stillborn = 0 if slot.replies else slot.stillborn + 1
        slot.is_away, slot.held_up = True, f"a worker in place of {slot.worker.name!r} ({lost})"
        try:
            # Without a bound: a row that comes, or the end of the stage, ends it.
            await self.wanted.wait()
            slot.begin_again(await self._started(slot, lost))
        finally:
            slot.is_away = False

    async def _started(self, slot: WorkerSlot, lost: ReplicaLostError) -> Worker:
        while slot.stillborn < _MOST_STILLBORN:
            if slot.stillborn:
                # Its node may be gone without anybody knowing yet.
                await asyncio.sleep(_STILLBORN_PAUSE_S * 2 ** (slot.stillborn - 1))
            try:
                return await self.pools[slot.pool].replace(slot.worker)
            except ReplicaLostError as error:
                lost, slot.stillborn = error, slot.stillborn + 1
        raise InfrastructureError(f"worker {slot.worker.name!r} cannot be started ({lost})")
