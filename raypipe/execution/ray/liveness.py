"""Says whether a process of Ray's works, from another process on its machine, and ends one that does not.

Knows nothing of what it works on. Ray itself notices only that a process is gone: one that is stopped, or whose threads
wait for each other, keeps its place for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.concurrency.deadlines import LOOK_EVERY_S, run_within

_WATCHED_S, _WORKS_FROM_S = 3.0, 0.1
"""For so long its CPU time is watched; a process that idles takes less of it, one that is starved takes more."""
_ANSWER_S = 25.0
SILENT_LOOKS, _LONGEST_LOOK_S = 8, 2.0
"""For how many looks of a run a process may report nothing, and what one look of who waits for it counts at most."""
_SAME_START_S = 5.0
"""The system's idea of when it was started moves with its clock."""


@dataclass(frozen=True)
class ProcessLocation:
    """Where a process is."""

    node: str
    pid: int


@dataclass(frozen=True)
class Reporter:
    """A process of this machine that says again and again that it lives; its start tells it from a later one."""

    pid: int
    started_at: float

    @classmethod
    def here(cls) -> Reporter:
        """The process that asks."""
        process = psutil.Process()
        return cls(process.pid, process.create_time())

    def kill(self) -> bool:
        """End it if it is still there."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started_at) < _SAME_START_S:
                process.kill()
                return True
        return False


@dataclass
class Reports:
    """Ends processes of this machine that report nothing any more and do not work either."""

    look_every_s: float = LOOK_EVERY_S
    _seen: dict[Reporter, tuple[int, float]] = field(default_factory=dict[Reporter, tuple[int, float]], init=False)
    """How often each had reported, and for how long that was all, in seconds of this process' own turning."""
    _looked_at: float = field(default_factory=time.monotonic, init=False)

    def look(self, reports: Mapping[Reporter, int]) -> None:
        """Another look, with how often each process has reported."""
        # A process that was stopped itself, or starved, has not looked meanwhile.
        passed_s, self._looked_at = min(time.monotonic() - self._looked_at, _LONGEST_LOOK_S), time.monotonic()
        bound_s = SILENT_LOOKS * self.look_every_s
        for reporter, count in reports.items():
            before, silent_s = self._seen.get(reporter, (0, 0.0))
            silent_s = silent_s + passed_s if before == count else 0.0
            if silent_s >= bound_s:
                silent_s = 0.0
                if not is_at_work(reporter.pid) and reporter.kill():
                    said = "its process said nothing for %.0f s; another goes on from the call log"
                    logging.getLogger("raypipe").warning(f"a conductor was frozen: {said}", bound_s)
            self._seen[reporter] = count, silent_s


async def locate_process(actor: Any) -> ProcessLocation | None:
    """Where the process of an actor is; none while it waits for its place, is being made, or nobody knows."""
    try:
        return await run_within(_ANSWER_S, asyncio.to_thread(_found, actor))
    except (RayError, TimeoutError):
        return None


def _found(actor: Any) -> ProcessLocation | None:
    from ray._private.state import actors  # no public way tells it without a dashboard

    told: Any = actors(actor._actor_id.hex())
    return ProcessLocation(told["Address"]["NodeID"], told["Pid"]) if told and told["State"] == "ALIVE" else None


async def is_working(home: ProcessLocation) -> bool:
    """Whether a process works. False, too, where its node says nothing within half a minute."""

    async def ask() -> bool:
        here = NodeAffinitySchedulingStrategy(home.node, soft=False)
        task = ray.remote(is_at_work).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        return await task.remote(home.pid)

    try:
        return await run_within(_ANSWER_S, ask())
    except (RayError, TimeoutError):
        return False


def is_at_work(pid: int) -> bool:
    """Whether a process of this machine takes CPU time or waits for a disk, watched for a few seconds.

    One that is gone, is stopped, or whose threads wait for each other does neither.
    """
    try:
        process = psutil.Process(pid)
        before = process.cpu_times()
        time.sleep(_WATCHED_S)
        after = process.cpu_times()
        took_s = after.user + after.system - before.user - before.system
        return took_s >= _WORKS_FROM_S or _waits_for_disk(pid)
    except psutil.Error:
        return False


def _waits_for_disk(pid: int) -> bool:
    """Whether a thread is in the state D of proc(5); unknown, so no, where there is no /proc."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] == "D":
                return True
    return False
