"""Decides which rows each worker of a stage is sent, and how long it may gather answers. Knows no executor.

Deeper steps come first, so that rows end early; rows that begin alike go to one worker of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.recovery import Recovery
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.wire import FED_FLUSH_S, FLUSH_S, Chunk, Worker
from raypipe.values.byte_bounds import Bounds


@dataclass
class Dispatcher:
    """The workers of one stage. `share`: of each worker's window, where several conductors feed the same workers."""

    queues: Mapping[str, StepQueue]
    router: Router
    recovery: Recovery
    share: float
    bounds: Bounds
    slots: list[WorkerSlot] = field(default_factory=list[WorkerSlot])

    def add(self, pool: str, worker: Worker) -> WorkerSlot:
        """A slot for one more worker; it takes the first shard that no other of its pool has."""
        queues = {name: queue for name, queue in reversed(list(self.queues.items())) if queue.pool == pool}
        taken = {slot.window.shard for slot in self.slots if slot.pool == pool}
        shard = next(number for number in count() if number not in taken)
        is_congested = self.router.is_congested
        window = InFlightWindow(queues, is_congested, worker.concurrency, self.share, shard, self.bounds)
        self.slots.append(WorkerSlot(worker, window, pool))
        return self.slots[-1]

    def chunks_for(self, slot: WorkerSlot, *, is_halted: bool) -> list[Chunk]:
        """What a worker should be sent now."""
        if not is_halted and self.recovery.tests(slot):
            return self.recovery.quarantined_for(slot)

        def can_wait(shard: int) -> bool:
            return any(one.has_room for one in self.slots if one.pool == slot.pool and one.window.shard == shard)

        return slot.window.fill(self.recovery.epoch, can_wait)

    def flush_s(self, slot: WorkerSlot) -> float:
        """How long a worker gathers answers: longer while every step behind those that work there is busy."""
        for behind in {after for step in slot.window.queues for after in self.router.behind[step]}:
            queue = self.queues[behind]
            if not queue.rows and not all(one.window.is_fed for one in self.slots if one.pool == queue.pool):
                return FLUSH_S
        return FED_FLUSH_S
