"""I run the same plan in this process; what I return is by definition right.

The work is done by one event loop in a thread of its own, so a caller may have a loop already.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pyarrow as pa
import uvloop

from raypipe.errors import InfrastructureError, StoppedError
from raypipe.execution.batches import BatchResult
from raypipe.execution.collection import rare_collection
from raypipe.execution.conductor import Conductor, ConductorSetup
from raypipe.execution.replica import Replica
from raypipe.execution.scribe import Scribe
from raypipe.execution.setup import DRAIN_S, Outcome, RunSetup, Watch
from raypipe.execution.source import grouped_batches, source_batches
from raypipe.execution.stopping import ASKED, Stop
from raypipe.execution.wire import Worker
from raypipe.limits import Authority
from raypipe.plan import Stage, inbox
from raypipe.step import Aggregate, Source

_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 0.1
_LEAVE_S = 1.5


@dataclass
class LocalPool:
    """Replicas in this process; they cannot be lost."""

    workers: list[Replica] = field(default_factory=list[Replica])

    async def replace(self, lost: Worker) -> Worker:
        raise InfrastructureError(f"worker {lost.name!r} of this process is gone")


def execute(setup: RunSetup, watch: Watch, stop: Stop) -> Outcome:
    """Run all stages. Raises RaypipeError when the run cannot go on, StoppedError when it is to end at once."""
    run = _Run(setup)
    thread = threading.Thread(target=run.work, name="raypipe", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            _joined(thread, stop)
            if stop.is_at_once:
                run.cancel()
                thread.join(_LEAVE_S)
                raise StoppedError(ASKED)
            if stop.is_asked:
                run.halt(ASKED)
            if run.conductor is not None:
                watch([run.conductor.snapshot()])
    except BaseException:
        run.cancel()
        thread.join(_LEAVE_S)
        raise
    if run.error is not None:
        raise run.error
    return Outcome(run.results, run.halted_for)


def _joined(thread: threading.Thread, stop: Stop) -> None:
    """Wait for the thread, for the time between two looks or until the run is to be stopped."""
    asked = stop.is_asked
    for _ in range(round(_WATCH_EVERY_S / _LOOK_EVERY_S)):
        thread.join(_LOOK_EVERY_S)
        if not thread.is_alive() or stop.is_at_once or (stop.is_asked and not asked):
            return


class _Run:
    def __init__(self, setup: RunSetup) -> None:
        self._setup = setup
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.conductor: Conductor | None = None
        self.results: list[BatchResult] = []
        self.error: BaseException | None = None
        self.halted_for = ""

    def work(self) -> None:
        with ExitStack() as stack:
            stack.push(self._note_end)
            stack.enter_context(rare_collection())
            runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            runner.run(self._stages())

    def _note_end(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """What ends the stages is raised where they are awaited; in this thread nobody hears it."""
        self.error = InfrastructureError("the run was stopped") if isinstance(error, asyncio.CancelledError) else error
        return True

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
        pools: dict[str, LocalPool] = {}
        log = Scribe(self._setup.calls, self._setup.owner)
        authority = Authority(self._setup.caps, self._setup.spent)
        try:
            for stage in self._setup.plan.stages:
                if self.halted_for or self._is_forecast_until_here():
                    break
                for name, replicas in self._setup.replicas(stage).items():
                    if name not in pools:
                        pools[name] = LocalPool([Replica(one, self._setup.index, log, authority) for one in replicas])
                        for worker in pools[name].workers:
                            await worker.open()
                await self._stage(stage, {name: pools[name] for name in stage.pools})
        finally:
            for pool in pools.values():
                for worker in pool.workers:
                    await worker.close()
            log.close()

    def _is_forecast_until_here(self) -> bool:
        """What a barrier would see is not known while rows before it lack answers."""
        counts = (counts for result in self.results for counts in result.counts.values())
        return self._setup.unsent is not None and any(count.rows_unfinished for count in counts)

    async def _stage(self, stage: Stage, pools: dict[str, LocalPool]) -> None:
        setup = ConductorSetup("local", stage, self._setup.parts, self._setup.leaves, DRAIN_S)
        conductor = self.conductor = Conductor(setup, pools)
        conductor.open()
        if self.halted_for:
            conductor.halt(self.halted_for, DRAIN_S)
        batches = self._batches(stage)
        running: set[asyncio.Task[BatchResult]] = set()
        try:
            while not conductor.halted_for and (rows := await asyncio.to_thread(next, batches, None)) is not None:
                await conductor.room()
                running.add(asyncio.create_task(conductor.run_batch(rows)))
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

    def _keep(self, running: set[asyncio.Task[BatchResult]]) -> set[asyncio.Task[BatchResult]]:
        """Note the results of tasks that are done; the others."""
        self.results.extend(task.result() for task in running if task.done())
        return {task for task in running if not task.done()}

    def _batches(self, stage: Stage) -> Iterator[pa.Table]:
        entry = stage.steps[stage.entry].step
        if isinstance(entry, Source):
            return source_batches(entry, self._setup.source_rows, self._setup.only)
        assert isinstance(entry, Aggregate)
        return grouped_batches(paths_for(inbox(stage.entry), self.results), stage.entry, entry)


def paths_for(sink: str, results: Sequence[BatchResult]) -> list[str]:
    """The part files written for `sink`."""
    return [part.path for result in results for part in result.parts if part.sink == sink]
