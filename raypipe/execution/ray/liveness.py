"""Says whether a process of Ray's works, from another process on its machine, and ends one that does not.

Knows nothing of what it works on. Ray itself notices only that a process is gone: one that is stopped, or whose threads
wait for each other, keeps its place for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.execution.deadlines import within

_WATCHED_S, _WORKS_FROM_S = 3.0, 0.1
"""For so long its CPU time is watched; a process that idles takes less of it, one that is starved takes more."""
_ANSWER_S = 25.0


@dataclass(frozen=True)
class Home:
    """Where a process is."""

    node: str
    pid: int

    @classmethod
    def here(cls, pid: int) -> Home:
        """That of a process on this node."""
        return cls(ray.get_runtime_context().get_node_id(), pid)


async def works(home: Home) -> bool:
    """Whether a process takes CPU time. False, too, where its node says nothing within half a minute."""
    try:
        return await within(_ANSWER_S, _asked(takes_cpu_time, home))
    except (RayError, TimeoutError):
        return False


async def _asked(what: Any, home: Home) -> Any:
    place = NodeAffinitySchedulingStrategy(home.node, soft=False)
    return await ray.remote(what).options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(home.pid)


def takes_cpu_time(pid: int) -> bool:
    """Whether a process of this machine works, watched for a few seconds. One that is gone does not."""
    try:
        process = psutil.Process(pid)
        before = _cpu_s(process)
        time.sleep(_WATCHED_S)
        return _cpu_s(process) - before >= _WORKS_FROM_S
    except psutil.Error:
        return False


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
