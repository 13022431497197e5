"""Runs a plan in this process; other executors have to return the same rows. Knows nothing of Ray.

The work is done by one event loop in a thread of its own, so a caller may have a loop already.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import uvloop

from raypipe.calls.writer import CallLogWriter
from raypipe.concurrency.background import Caught, start_thread
from raypipe.concurrency.threads import DaemonThreads
from raypipe.contracts.step import Aggregate, Source
from raypipe.errors import InfrastructureError, InputError, StoppedError
from raypipe.execution.conductor.batches import BatchResult, paths_for
from raypipe.execution.conductor.conductor import Conductor, Snapshot
from raypipe.execution.conductor.spill import end_spilled
from raypipe.execution.gc_tuning import rare_collection
from raypipe.execution.setup import MOST_REPLACEMENTS, Outcome, PoolBase, RunSetup, Watch, count_calls_in_flight
from raypipe.execution.source import read_groups, read_source
from raypipe.execution.stopping import ASKED, DRAIN_S, Phase, Stop
from raypipe.execution.wire import WorkerStatus
from raypipe.execution.worker.replica import Replica, ReplicaSetup
from raypipe.limits import RateCoordinator
from raypipe.plan.load_groups import ALL, kept
from raypipe.plan.plan import SPILLED, Sink, Stage
from raypipe.plan.resources import made_fit, of_this_process

_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 0.1
_LEAVE_S = 1.5


@dataclass
class LocalPool(PoolBase):
    """Replicas in this process; one whose engine died is replaced a bounded number of times."""

    workers: list[Replica]
    make: Callable[[ReplicaSetup], Replica]
    replaced: int = 0

    async def grow(self) -> Replica:
        """One more worker, ready. Raises InfrastructureError."""
        worker = self.make(self.vacant())
        await worker.open()
        self.workers.append(worker)
        return worker

    async def replace(self, lost: Replica) -> Replica:
        self.replaced += 1
        if self.replaced > MOST_REPLACEMENTS:
            raise InfrastructureError(f"worker {lost.name!r} was lost {MOST_REPLACEMENTS} times; its rows cannot pass")
        await lost.close()
        worker = self.make(lost.setup)
        await worker.open()
        self.workers[self.workers.index(lost)] = worker
        return worker


def execute(setup: RunSetup, watch: Watch, stop: Stop) -> Outcome:
    """Run all stages. Raises RaypipeError when the run cannot go on, StoppedError when it is to end at once."""
    if any(llm.runs_here for llm in setup.plan.models):
        # Engines that do not fit on the GPUs here at once are loaded one after the other.
        setup = replace(setup, plan=made_fit(setup.plan, of_this_process()))
    run = _Run(setup, stop)
    run.halted_for = ASKED if stop.is_asked else ""  # before it began: nothing is sent
    thread = start_thread(run.work, "raypipe-loop", None)
    try:
        while thread.is_alive():
            _wait_for(thread, stop)
            stop.check()
            if stop.is_at_once:
                raise StoppedError(ASKED)
            if stop.is_asked:
                run.halt(ASKED)
            at_work = run.conductor
            if snapshots := [*run.before, *([] if at_work is None else [at_work.snapshot()])]:
                stop.note_calls_in_flight(count_calls_in_flight(setup.plan, snapshots, stop.is_overdue))
                watch(snapshots)
    except BaseException:
        run.cancel()
        thread.join(_LEAVE_S)
        raise
    if run.error is not None:
        raise run.error
    return Outcome(run.results, run.halted_for)


def _wait_for(thread: threading.Thread, stop: Stop) -> None:
    """Wait for the thread for a while, or until the run is to be stopped."""
    asked = stop.is_asked
    for _ in range(round(_WATCH_EVERY_S / _LOOK_EVERY_S)):
        thread.join(_LOOK_EVERY_S)
        if not thread.is_alive() or stop.is_at_once or (stop.is_asked and not asked):
            return


class _Run:
    def __init__(self, setup: RunSetup, stop: Stop) -> None:
        self._setup = setup
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.conductor: Conductor | None = None
        self.before: list[Snapshot] = []
        """What conductors saw that are through."""
        self.results: list[BatchResult] = []
        self.error: BaseException | None = None
        self.halted_for = ""

    def work(self) -> None:
        """Run all stages; what ends them is kept in `error`, for the thread that waits for this one to raise."""
        with Caught() as caught, rare_collection(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._stages())
        was_cancelled = isinstance(caught.error, asyncio.CancelledError)
        self.error = InfrastructureError("the run was stopped") if was_cancelled else caught.error

    def halt(self, reason: str) -> None:
        """Send no call any more and end soon; any thread may ask, more than once."""
        if self._loop is not None and not self.halted_for:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._halt, reason)

    def _halt(self, reason: str) -> None:
        self.halted_for = self.halted_for or reason
        if self.conductor is not None:
            self.conductor.halt(reason, DRAIN_S)

    def cancel(self) -> None:
        """End at once."""
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _stages(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._loop.set_default_executor(DaemonThreads())
        pools: dict[str, LocalPool] = {}
        log = CallLogWriter(self._setup.run.calls, self._setup.run.owner)
        coordinator = RateCoordinator(self._setup.run.options.caps, self._setup.run.ledger)
        # A worker in place of another finds in the call log what that one left.
        make = partial(Replica, index=self._setup.index, log=log, coordinator=coordinator)
        try:
            stay = iter(kept(self._setup.plan))
            for stage in self._setup.plan.stages:
                # Where calls are counted instead of sent, rows lack answers: what a barrier would take in is not known.
                counts = (counts for result in self.results for counts in result.counts.values())
                is_unknown = self._setup.run.unsent is not None and any(one.rows_unfinished for one in counts)
                if self.halted_for or is_unknown:
                    break
                spilled: list[str] | None = None
                for phase in stage.phases or (ALL,):
                    with self._stop.phase(Phase.LOAD):
                        await self._open_pools(pools, stage, phase, make)
                    with self._stop.phase(Phase.RUN):
                        spilled = await self._phase(stage, phase, pools, spilled)
                    with self._stop.phase(Phase.UNLOAD):
                        await self._close_pools(pools, next(stay))
                    if self.halted_for:
                        break
                parts = self._setup.run.parts
                self.results += [end_spilled(path, parts, self.halted_for) for path in spilled or ()]
        finally:
            await self._close_pools(pools, ())
            await coordinator.close()
            log.close()

    async def _open_pools(
        self,
        pools: dict[str, LocalPool],
        stage: Stage,
        phase: frozenset[str],
        make: Callable[[ReplicaSetup], Replica],
    ) -> None:
        for name, replicas in self._setup.replicas(stage, phase).items():
            if name not in pools:
                pool = pools[name] = LocalPool([], replicas, make)
                for _ in range(pool.fewest):
                    await pool.grow()

    async def _close_pools(self, pools: dict[str, LocalPool], stay: Sequence[str]) -> None:
        for name in [name for name in pools if name not in stay]:
            for worker in pools.pop(name).workers:
                await worker.close()

    async def _phase(
        self, stage: Stage, phase: frozenset[str], pools: dict[str, LocalPool], spilled: Sequence[str] | None
    ) -> list[str]:
        """Carry the batches of a stage, or those that the phase before spilled; the ones that are spilled now."""
        setup = self._setup.conductor("local", stage, phase)
        conductor = self.conductor = Conductor(setup, {name: pools[name] for name in stage.pools_of(phase)})
        await conductor.open()
        if self.halted_for:
            conductor.halt(self.halted_for, DRAIN_S)
        began = len(self.results)
        running: set[asyncio.Task[BatchResult]] = set()
        try:
            async for work in self._work(conductor, stage, spilled):
                running.add(asyncio.create_task(work))
                running = self._keep(running)
            while running:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running = self._keep(running)
            self.halted_for = self.halted_for or conductor.halted_for
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await conductor.close()
            seen, self.conductor = conductor.snapshot(), None
            engines = {
                name: WorkerStatus(output_tokens=one.output_tokens, engines=one.engines, pool=one.pool)
                for name, one in seen.workers.items()
            }
            self.before.append(
                replace(seen, queued={}, workers={name: one for name, one in engines.items() if one.engines})
            )
        return paths_for(SPILLED, self.results[began:])

    async def _work(
        self, conductor: Conductor, stage: Stage, spilled: Sequence[str] | None
    ) -> AsyncGenerator[Coroutine[Any, Any, BatchResult]]:
        """Batch after batch, each as soon as there is room for it."""
        if spilled is not None:
            for path in spilled:
                await conductor.wait_for_room()
                yield conductor.resume_batch(path)
            return
        batches = self._batches(stage)
        while not conductor.halted_for:
            try:
                rows = await self._read(batches, conductor)
            except InputError:
                await conductor.drain("the input cannot be read")
                raise
            if rows is None:
                return
            await conductor.wait_for_room()
            yield conductor.run_batch(rows)

    async def _read(self, batches: Iterator[pa.Table], conductor: Conductor) -> pa.Table | None:
        """The next batch; none at the end, and none once the run was halted: a loader may be blocked for long."""
        reading = asyncio.get_running_loop().run_in_executor(None, next, batches, None)
        while not reading.done():
            await asyncio.wait({reading}, timeout=_LOOK_EVERY_S)
            if conductor.halted_for and not reading.done():
                # Nobody awaits it any more; an error of it is dropped.
                reading.add_done_callback(lambda done: None if done.cancelled() else done.exception())
                return None
        return await reading

    def _keep(self, running: set[asyncio.Task[BatchResult]]) -> set[asyncio.Task[BatchResult]]:
        """Note the results of tasks that are done; the others."""
        self.results.extend(task.result() for task in running if task.done())
        return {task for task in running if not task.done()}

    def _batches(self, stage: Stage) -> Iterator[pa.Table]:
        entry, setup = stage.steps[stage.entry].step, self._setup
        if isinstance(entry, Source):
            options, artifacts = setup.run.options, setup.run.artifacts
            most_bytes, version = options.bounds.batch_bytes, setup.run.identity
            return read_source(entry, options.source_rows, setup.only, artifacts, most_bytes, version)
        assert isinstance(entry, Aggregate)
        return read_groups(paths_for(Sink("barrier", stage.entry), self.results), stage.entry, entry)
