"""Finds workers of a stage that are frozen or gone, and rows that no worker has. Knows nothing of Ray.

What is merely slow is never called lost: time is counted in looks, and a look during which this event loop was held up
does not count; a worker whose event loop is held up answers its pulse from another thread; and when one answers
nothing, others on its machine find out whether its process works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from raypipe.concurrency.background import TaskScope
from raypipe.concurrency.deadlines import LATE, LOOK_EVERY_S
from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.wire import Worker

_STANDING_LOOKS = 7
"""Looks in a row at which no worker had any rows, after which those that wait will never end."""
_QUIET_LOOKS = 1
"""A poll takes one look at most: a worker that has not answered for longer is asked for its pulse."""
_EXAMINED_AFTER, _FROZEN_AFTER = 2, 7
"""Looks at which a pulse was awaited: first its machine is asked, later the worker is given up if that saw nothing."""
_SILENT_LOOKS = 180
"""Looks without an answer to an exchange, after which a worker is given up though it lives.

It may run blocking code of a user's, load an engine, or wait for its place."""


@dataclass
class _Silence:
    """For how long a worker has not answered, and what was done about it."""

    worker: Worker
    replies: int = 0
    looks: int = 0
    unanswered: int = 0
    """Looks at which its pulse was awaited."""
    pulse: asyncio.Task[str] | None = None
    examination: asyncio.Task[str] | None = None


@dataclass
class Watchdog:
    """Marks a worker that is given up as `lost` and rings its bell; `stop_for` ends the run.

    `awaited`: the queues, by step, while there are rows that have not ended and that are not in quarantine.
    """

    slots: Sequence[WorkerSlot]
    awaited: Callable[[], Mapping[str, StepQueue] | None]
    stop_for: Callable[[RaypipeError], None]
    look_every_s: float = LOOK_EVERY_S
    _silences: WeakKeyDictionary[WorkerSlot, _Silence] = field(default_factory=WeakKeyDictionary[WorkerSlot, _Silence])
    _stood: int = 0
    """Looks in a row at which no worker had any row."""
    _ended_rows: int = -1

    async def run(self) -> None:
        """Look at every worker again and again, for as long as the conductor works."""
        async with TaskScope() as asked:
            while True:
                began = time.monotonic()
                await asyncio.sleep(self.look_every_s)
                if time.monotonic() - began > self.look_every_s * LATE:
                    continue
                self._look_for_rows()
                for slot in list(self.slots):
                    self._look_at(slot, asked)

    def _look_for_rows(self) -> None:
        """End the run when rows wait that no worker has, and none has ended for long."""
        ended = sum(slot.window.ended_rows for slot in self.slots)
        queues = self.awaited()
        is_standing = queues is not None and not any(slot.window.rows or slot.is_away for slot in self.slots)
        self._stood = self._stood + 1 if is_standing and ended == self._ended_rows else int(is_standing)
        self._ended_rows = ended
        if queues is not None and self._stood > _STANDING_LOOKS:
            waiting = {name: queue.rows for name, queue in queues.items() if queue.rows}
            where = ", ".join(f"{rows} before step {name!r}" for name, rows in waiting.items()) or "in no queue"
            problem = f"nothing moves any more: rows wait ({where}) and no worker has any"
            self.stop_for(InfrastructureError(f"{problem}; run the same command again to go on"))

    def _look_at(self, slot: WorkerSlot, asked: TaskScope) -> None:
        silence = self._silences.get(slot)
        if silence is None or silence.worker is not slot.worker:
            silence = self._silences[slot] = _Silence(slot.worker)
        if slot.is_away or slot.lost is not None:
            return
        if silence.replies == slot.replies:
            silence.looks += 1
            if silence.looks > _QUIET_LOOKS:
                self._look_closer(slot, silence, asked)
        else:
            self._silences[slot] = _Silence(slot.worker, slot.replies)

    def _look_closer(self, slot: WorkerSlot, silence: _Silence, asked: TaskScope) -> None:
        name, silent_s = slot.worker.name, silence.looks * self.look_every_s
        if silence.looks > _SILENT_LOOKS:
            why = f"; it waited for {slot.held_up}" if slot.held_up else ""
            self._give_up(slot, f"worker {name!r} gave no sign of life for {silent_s:.0f} s{why}")
        elif silence.pulse is None or silence.pulse.done():
            self._take_pulse(slot, silence)
            silence.pulse = asked.start(slot.worker.pulse())
        else:
            silence.unanswered += 1
            if silence.unanswered >= _EXAMINED_AFTER and silence.examination is None:
                silence.examination = asked.start(slot.worker.examine())
            self._judge(slot, silence, f"{name!r}, whose process has answered nothing for {silent_s:.0f} s")

    def _judge(self, slot: WorkerSlot, silence: _Silence, who: str) -> None:
        """Decide about a worker that has no pulse."""
        is_examined = silence.examination is not None and silence.examination.done()
        seen = silence.examination.result() if silence.examination is not None and is_examined else ""
        slot.held_up = seen or f"worker {who}"
        if seen:
            silence.unanswered, silence.examination = 0, None
        elif is_examined and silence.unanswered >= _FROZEN_AFTER:
            self._give_up(slot, f"worker {who}, is frozen")

    def _take_pulse(self, slot: WorkerSlot, silence: _Silence) -> None:
        """Take note of a pulse that was answered: whatever the worker does, it lives."""
        if silence.pulse is not None:
            try:
                slot.held_up = silence.pulse.result()
            except ReplicaLostError as error:
                self._give_up(slot, str(error))
            else:
                silence.unanswered, silence.examination = 0, None

    def _give_up(self, slot: WorkerSlot, problem: str) -> None:
        slot.lost = ReplicaLostError(problem)
        slot.bell.set()
