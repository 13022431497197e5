"""Gives the rows of lost workers to others, and starts new workers in their place. Knows pools by name only.

One of the rows that two workers were lost with may take every worker down that works on it, the others were only there.
So they are put into quarantine: tried apart from all other rows and in ever smaller groups. A row that is alone when
a third or fourth worker is lost is the one, and fails.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from raypipe.errors import InfrastructureError, ReplicaLostError
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.wire import Chunk, Worker
from raypipe.row import ATTEMPT, Failure
from raypipe.values.selection import filter_rows

_MOST_STILLBORN, _STILLBORN_PAUSE_S = 6, 1.0
"""Workers lost one after the other before they reported anything; the first pause between two, which doubles."""
_FEW = 8
_SUSPICIOUS = 2
"""Workers lost with a row before it is put into quarantine."""


class Replaceable(Protocol):
    """A pool whose workers can be lost."""

    async def replace(self, lost: Any) -> Worker:
        """A new worker in place of a lost one, within a bound of the pool's own.

        Raises ReplicaLostError when it died at once, InfrastructureError when there can be none.
        """
        ...


@dataclass
class Quarantine:
    """Groups of suspicious rows of one pool, each with its step, and the slot whose worker tries them."""

    groups: deque[tuple[str, pa.Table]] = field(default_factory=deque[tuple[str, pa.Table]])
    tester: WorkerSlot | None = None


@dataclass
class Recovery:
    """Of one stage. `wanted` is set while any row has not ended."""

    pools: Mapping[str, Replaceable]
    router: Router
    queues: Mapping[str, StepQueue]
    wanted: asyncio.Event
    epoch: int = 0
    """Workers lost so far."""
    _quarantines: dict[str, Quarantine] = field(default_factory=dict[str, Quarantine])
    """By pool."""

    @property
    def has_quarantined(self) -> bool:
        """Whether any row waits to be tried apart from the others."""
        return any(quarantine.groups for quarantine in self._quarantines.values())

    def tests(self, slot: WorkerSlot) -> bool:
        """Whether a worker tries rows in quarantine, and is sent no others meanwhile; one of a pool does at a time."""
        quarantine = self._quarantines.get(slot.pool)
        if quarantine is None:
            return False
        if quarantine.tester is None and quarantine.groups:
            quarantine.tester = slot
        if quarantine.tester is slot and not quarantine.groups and not slot.window.rows:
            quarantine.tester = None
        return quarantine.tester is slot

    def quarantined_for(self, slot: WorkerSlot) -> list[Chunk]:
        """The next rows in quarantine for the worker that tries them, once it has no others."""
        quarantine = self._quarantines[slot.pool]
        if slot.window.rows or not quarantine.groups:
            return []
        step, rows = quarantine.groups.popleft()
        return [slot.window.hold(step, rows, self.queues[step].for_worker(rows), self.epoch)]

    def leave_quarantined(self) -> None:
        """Rows in quarantine stay unfinished."""
        for quarantine in self._quarantines.values():
            while quarantine.groups:
                self.router.leave(*quarantine.groups.popleft())

    def requeue(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """Put the rows of a lost worker back into their queues, or into quarantine; a suspicious one alone fails."""
        sorted_out: list[tuple[str, pa.Table, pa.Table]] = []
        for step, held in slot.window.take_back():
            attempts = held.column(ATTEMPT).to_numpy() + 1
            column = pa.array(attempts, pa.int8())
            rows = held.set_column(held.column_names.index(ATTEMPT), ATTEMPT, column)
            is_suspicious = attempts >= _SUSPICIOUS
            sorted_out.append((step, filter_rows(rows, ~is_suspicious), filter_rows(rows, is_suspicious)))
        is_one = sum(suspicious.num_rows for *_, suspicious in sorted_out) == 1
        for step, others, suspicious in sorted_out:
            self.queues[step].put(others, is_first=True)
            if is_one and suspicious.num_rows:
                problem = f"{lost} (worker {suspicious.column(ATTEMPT)[0]} that was lost with this row)"
                self.router.fail(step, suspicious, Failure("worker_lost", problem))
                continue
            # About as many rows in a group as there are groups; few rows are tried one by one.
            size = 1 if suspicious.num_rows <= _FEW else math.isqrt(suspicious.num_rows)
            groups = self._quarantines.setdefault(slot.pool, Quarantine()).groups
            groups.extend((step, suspicious.slice(at, size)) for at in range(0, suspicious.num_rows, size))

    async def replace(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """Start a new worker for a slot, once rows want one; those that die while they start are replaced, for a while.

        Raises InfrastructureError when there can be none.
        """
        slot.stillborn = 0 if slot.replies else slot.stillborn + 1
        slot.is_away, slot.held_up = True, f"a worker in place of {slot.worker.name!r} ({lost})"
        try:
            # Without a bound: a row that comes, or the end of the stage, ends it.
            await self.wanted.wait()
            slot.replace(await self._start(slot, lost))
        finally:
            slot.is_away = False

    async def _start(self, slot: WorkerSlot, lost: ReplicaLostError) -> Worker:
        while slot.stillborn < _MOST_STILLBORN:
            if slot.stillborn:
                # Its node may be gone without Ray having noticed yet.
                await asyncio.sleep(_STILLBORN_PAUSE_S * 2 ** (slot.stillborn - 1))
            try:
                return await self.pools[slot.pool].replace(slot.worker)
            except ReplicaLostError as error:
                lost, slot.stillborn = error, slot.stillborn + 1
        raise InfrastructureError(f"worker {slot.worker.name!r} cannot be started ({lost})")
