"""Holds what a conductor knows of one worker: the rows that are with it, and what it reported last."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from raypipe.errors import ReplicaLostError
from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.wire import Worker, WorkerStatus

_TWICE = 2


@dataclass(eq=False)
class WorkerSlot:
    """One worker, or the place of one that was lost, and a bell that rings when there may be more for it to do."""

    worker: Worker
    window: InFlightWindow
    pool: str
    stillborn: int = 0
    """Workers lost here, one after the other, before they reported anything."""
    is_away: bool = False
    """Whether a worker is being started in place of a lost one, which may take minutes."""
    serving: asyncio.Task[None] | None = None
    """What feeds the worker."""
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    status: WorkerStatus | None = None
    """What this worker reported last."""
    replies: int = 0
    """How often this worker has answered."""
    lost: ReplicaLostError | None = None
    """Why this worker is given up although Ray reports nothing."""
    held_up: str = ""
    """What keeps this worker from answering, or from being there; empty while it answers."""
    is_alone: bool = True
    """Whether no other exchange was under way when the last one began."""
    _missed: tuple[int, int] = (0, 0)
    """How often in a row it lacked rows, and how many rows had ended then."""

    @property
    def has_room(self) -> bool:
        """Whether its worker takes rows soon."""
        return not self.is_away and not self.window.is_full

    def describe(self, held_up: str) -> WorkerStatus | None:
        """The worker's state for progress; `held_up`: what keeps this process from hearing of any worker."""
        waits_for = self.held_up or held_up
        if not waits_for:
            return self.status and replace(self.status, pool=self.pool)
        return replace(self.status or WorkerStatus(held=self.window.rows), pool=self.pool, waits_for=waits_for)

    def note_reply(self, kept: int) -> int:
        """The worker has answered, and has `kept` rows; how many of the rows that were sent to it, it lacks.

        Its count is compared only when every row was sent in this exchange or an earlier one, and every earlier
        exchange was answered: time proves nothing, since a worker may be busy. It has to lack rows twice while no row
        ends.
        """
        self.replies += 1
        self.lost, self.held_up = None, ""
        missing = self.window.rows - kept
        if not self.is_alone or missing <= 0:
            self._missed = (0, 0)
            return 0
        times, ended = self._missed
        self._missed = (times + 1 if ended == self.window.ended_rows else 1, self.window.ended_rows)
        return missing if self._missed[0] >= _TWICE else 0

    def replace(self, worker: Worker) -> None:
        """Another worker is there in place of the lost one."""
        self.worker = worker
        self.replies, self.lost, self.held_up, self._missed = 0, None, "", (0, 0)
