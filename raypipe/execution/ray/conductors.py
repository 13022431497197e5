"""Puts conductors, the run's limits and its progress board into actors of Ray."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
import uvloop
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.concurrency.background import TaskScope, start_thread, submit
from raypipe.errors import RaypipeError
from raypipe.execution.conductor.batches import BatchResult
from raypipe.execution.conductor.conductor import Conductor, ConductorSetup, Snapshot
from raypipe.execution.gc_tuning import collect_rarely
from raypipe.execution.ray import blocks
from raypipe.execution.ray.liveness import Reporter
from raypipe.execution.ray.pools import RemotePool
from raypipe.execution.ray.replicas import end_with_node
from raypipe.execution.source import cut_batches
from raypipe.security.file_modes import keep_private

_BOARD_EVERY_S, _BOARD_TIMEOUT_S = 0.5, 10.0
_BOARD_RESTARTS = 3
_OPEN_TIMEOUT_S = 60.0
"""The loop is new and opening starts nothing that waits: it takes longer only where the process is starved."""


@dataclass(eq=False, repr=False)
class ProgressBoard:
    """Where conductors put what they see for the driver to read, and learn that the run is to end."""

    _snapshots: dict[str, Snapshot] = field(default_factory=dict[str, Snapshot], init=False)
    _reports: dict[Reporter, int] = field(default_factory=dict[Reporter, int], init=False)
    _halted_for: str = field(default="", init=False)
    _drain_s: float = field(default=0.0, init=False)
    _is_heard: bool = field(default=False, init=False)

    def put(self, name: str, snapshot: Snapshot, reporter: Reporter) -> tuple[str, float]:
        """Why the run is to end, empty while it goes on, and how long calls in flight are waited for."""
        self._snapshots[name] = snapshot
        self._reports[reporter] = self._reports.get(reporter, 0) + 1
        self._is_heard = bool(self._halted_for)
        return self._halted_for, self._drain_s

    def halt(self, reason: str, drain_s: float) -> None:
        """The run is to end; conductors learn it when they next report.

        `drain_s`: seconds for which calls in flight are waited for. A later call takes the place of an earlier one.
        """
        self._halted_for, self._drain_s = reason, drain_s

    def read(self) -> tuple[list[Snapshot], dict[Reporter, int], bool]:
        """What conductors saw last, how often each has reported, and whether one has heard that the run is to end."""
        return list(self._snapshots.values()), dict(self._reports), self._is_heard


BOARD_AFTER_S = 2.0
"""A run that ends sooner has no board: the worker it lives in would be a tenth of such a run."""


def progress_board(run: str) -> Any:
    """The board of a run, started by whoever asks first, on its own node: Ray may not know yet that another is lost.

    It is started again elsewhere where that node is lost.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"name": f"raypipe-{run}", "get_if_exists": True, "num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(ProgressBoard).options(max_restarts=_BOARD_RESTARTS, **options).remote()


class ConductorUDF:
    """A conductor inside Ray Data's `map_batches`: blocks of rows in, references to part files out.

    Its event loop runs in a thread of its own, since a slow consumer freezes the loop of an async UDF.
    It never raises: an error is a value in its one output column.
    """

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, RemotePool], run: str, is_shared: bool) -> None:
        setup = replace(setup, name=f"{setup.name}-{uuid4().hex[:8]}")
        end_with_node()
        keep_private(is_shared)
        collect_rarely()
        self._batch_bytes = setup.bounds.batch_bytes
        self._name, self._run_id = setup.name, run
        self._loop = uvloop.new_event_loop()
        self._conductor = Conductor(setup, pools)
        start_thread(self._loop.run_forever, "the conductor's event loop", _end_process)
        submit(self._conductor.open(), self._loop).result(_OPEN_TIMEOUT_S)
        self._reporter = Reporter.here()
        # Without a report nobody hears that the run is to end. A run that is through has no board any more.
        stop_for = partial(self._loop.call_soon_threadsafe, self._conductor.stop_for)
        start_thread(self._report, "what tells a conductor's progress", stop_for)

    def _report(self) -> None:
        """In a thread of its own: a function of the user's may hold the event loop up, which is to be seen then."""
        for _ in range(round(BOARD_AFTER_S / _BOARD_EVERY_S)):
            time.sleep(_BOARD_EVERY_S)
            with suppress(ValueError):  # there is none yet
                ray.get_actor(f"raypipe-{self._run_id}")
                break  # the run is to end soon after its beginning
        board = progress_board(self._run_id)
        while True:
            # A board that is gone raises, which is the end of this; one that cannot be reached may be again.
            with suppress(GetTimeoutError, ActorUnavailableError):
                told = board.put.remote(self._name, self._conductor.snapshot(), self._reporter)
                reason, drain_s = ray.get(told, timeout=_BOARD_TIMEOUT_S)
                if reason:
                    self._loop.call_soon_threadsafe(self._conductor.halt, reason, drain_s)
            time.sleep(_BOARD_EVERY_S)

    async def _report_engines(self) -> None:
        """What engines did last is in the manifest, too, though the run ends now."""
        snapshot = self._conductor.snapshot()
        if any(status.engines for status in snapshot.workers.values()):
            with suppress(RayError):
                await progress_board(self._run_id).put.remote(self._name, snapshot, self._reporter)

    def __call__(self, block: pa.Table) -> pa.Table:
        error = blocks.find_error(block)
        if error is not None:
            submit(self._conductor.drain("the input cannot be read"), self._loop).result()
            return blocks.pack_failure(error)
        work = submit(self._run(block), self._loop)
        broken = work.exception()
        return blocks.pack_results(work.result()) if broken is None else blocks.pack_failure(broken)

    async def _run(self, block: pa.Table) -> list[BatchResult]:
        running: list[asyncio.Task[BatchResult]] = []
        async with TaskScope() as scope:
            for content in blocks.unpack(block):
                for rows in [content] if isinstance(content, str) else cut_batches(content, self._batch_bytes):
                    if self._conductor.halted_for and not isinstance(rows, str):
                        break
                    await self._conductor.wait_for_room()
                    is_spilled = isinstance(rows, str)
                    begun = self._conductor.resume_batch(rows) if is_spilled else self._conductor.run_batch(rows)
                    running.append(scope.start(begun))
            results = list(await asyncio.gather(*running))
        await self._report_engines()
        if self._conductor.halted_for:
            results.append(BatchResult((), {}, self._conductor.halted_for))
        return results


def _end_process(error: RaypipeError) -> None:
    """Without its loop the conductor hears nothing; one that is gone is noticed."""
    print(f"raypipe: {error}", file=sys.stderr, flush=True)
    os._exit(1)
