"""Starts more workers of a pool while rows wait for it, and ends those that have had none for a while.

Knows nothing of what a worker is made of: pools start and end them. A pool that may have no worker gets its first one
as soon as a row waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raypipe.errors import RaypipeError
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.wire import Worker

_LOOK_EVERY_S = 0.5
GROW_AFTER_S = 1.0
"""Seconds for which rows wait and no worker has room, before one more is started."""
IDLE_S = 30.0
"""Seconds for which a worker has no rows and none wait, before it is ended."""
_REST_S = 60.0
"""Seconds until the next attempt after a worker could not be started, as long as others work."""


class ScalingPool(Protocol):
    """A pool whose workers may become more and fewer."""

    fewest: int
    most: int

    async def grow(self) -> Worker:
        """One more worker, ready. Raises RaypipeError when there can be none."""
        ...

    async def shrink(self, worker: Any) -> None:
        """End a worker."""
        ...


@dataclass
class _Seen:
    """Since when a pool is full or its workers are idle."""

    full_since: float | None = None
    not_before: float = 0.0
    is_growing: bool = False
    idle_since: dict[str, float] = field(default_factory=lambda: {})


@dataclass
class Scaler:
    """`begin` and `end` are called with workers that come and go; `start` runs in the background what takes long."""

    pools: Mapping[str, ScalingPool]
    queues: Mapping[str, StepQueue]
    slots: Sequence[WorkerSlot]
    begin: Callable[[str, Worker], None]
    end: Callable[[WorkerSlot], None]
    start: Callable[[Coroutine[None, None, None]], object]
    stop_for: Callable[[RaypipeError], None]
    _seen: dict[str, _Seen] = field(default_factory=lambda: {})

    @property
    def is_growing(self) -> bool:
        """Whether a worker is on its way."""
        return any(seen.is_growing for seen in self._seen.values())

    async def run(self) -> None:
        """Look again and again; returns at once where no pool may change."""
        while any(pool.fewest < pool.most for pool in self.pools.values()):
            self.look(time.monotonic())
            await asyncio.sleep(_LOOK_EVERY_S)

    def look(self, now: float) -> None:
        """Start and end workers as is right `now`, in seconds of any clock."""
        for name, pool in self.pools.items():
            if pool.fewest < pool.most:
                seen = self._seen.setdefault(name, _Seen())
                slots = [slot for slot in self.slots if slot.pool == name]
                waiting = any(queue.rows for queue in self.queues.values() if queue.pool == name)
                self._grow(name, pool, seen, (slots, waiting, now))
                self._shrink(pool, seen, (slots, waiting, now))

    def _grow(self, name: str, pool: ScalingPool, seen: _Seen, at: tuple[list[WorkerSlot], bool, float]) -> None:
        slots, waiting, now = at
        if not waiting or any(slot.has_room for slot in slots) or seen.is_growing or len(slots) >= pool.most:
            seen.full_since = None
            return
        seen.full_since = now if seen.full_since is None else seen.full_since
        if not slots or (now - seen.full_since >= GROW_AFTER_S and now >= seen.not_before):
            seen.is_growing = True
            self.start(self._grown(name, pool, seen))

    async def _grown(self, name: str, pool: ScalingPool, seen: _Seen) -> None:
        try:
            self.begin(name, await pool.grow())
        except RaypipeError as error:
            if not any(slot.pool == name for slot in self.slots):
                self.stop_for(error)
            seen.not_before = time.monotonic() + _REST_S
        finally:
            seen.is_growing = False

    def _shrink(self, pool: ScalingPool, seen: _Seen, at: tuple[list[WorkerSlot], bool, float]) -> None:
        slots, waiting, now = at
        idle = [] if waiting else [slot for slot in slots if not slot.window.rows and not slot.is_away]
        seen.idle_since = {slot.worker.name: seen.idle_since.get(slot.worker.name, now) for slot in idle}
        for slot in idle:
            if len(slots) > pool.fewest and now - seen.idle_since[slot.worker.name] >= IDLE_S:
                slots.remove(slot)
                self.end(slot)
                self.start(pool.shrink(slot.worker))
