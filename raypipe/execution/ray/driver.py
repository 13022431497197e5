"""I drive a plan stage by stage: start its pools, send its rows through Ray Data, collect references."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError, RayTaskError

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.threads import ThreadedIterator
from raypipe.contracts.step import Aggregate, Source, Unit
from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.conductor.batches import BatchResult
from raypipe.execution.conductor.spill import ended, spilled_in
from raypipe.execution.local import paths_for
from raypipe.execution.ray import blocks
from raypipe.execution.ray.conductors import (
    BOARD_AFTER_S,
    ConductorUDF,
    board_of,
    start_coordinator,
)
from raypipe.execution.ray.groups import groups_of
from raypipe.execution.ray.head import watched_head
from raypipe.execution.ray.liveness import Reports
from raypipe.execution.ray.nodes import await_nodes, check_environment
from raypipe.execution.ray.pickling import ship_by_value
from raypipe.execution.ray.pools import RemotePool, end_pools, started_pools, unwrapped
from raypipe.execution.ray.servers import kept_servers
from raypipe.execution.ray.session import leave_ray, session
from raypipe.execution.setup import Outcome, RunSetup, Watch, calls_in_flight
from raypipe.execution.source import identified
from raypipe.execution.stopping import ASKED, DRAIN_S, Phase, Stop
from raypipe.plan.load_groups import ALL, fitted, kept
from raypipe.plan.plan import Sink, Stage
from raypipe.plan.resources import beside_servers, made_fit, room_in
from raypipe.storage.paths import AnyPath

_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 0.1
_CLOSE_TIMEOUT_S, _LEAVE_S = 10.0, 2.0
_BLOCKS_AT_ONCE = 4
_SPILLED_A_BLOCK = 8
_READERS_PER_CPU = 4
"""A reader has one unit after the other: more readers even out units of different sizes, but each is a task."""


def execute(setup: RunSetup, address: str | None, watch: Watch, stop: Stop) -> Outcome:
    """Run all stages on Ray. Raises RaypipeError when the run cannot go on, StoppedError when it is to end at once."""
    with ExitStack() as stack:
        with stop.phase(Phase.START_RAY):
            stack.enter_context(stop.leaving(leave_ray))
            is_own_ray = stack.enter_context(session(address))
            ship_by_value(setup.plan)
        with watched_head(stop.fail):
            outcome = _Driver(setup, address, is_own_ray, stop).run(watch)
        with stop.phase(Phase.END_RAY):
            stack.close()
        return outcome


class Units(Datasource):
    """The units of a source for Ray Data to read, each in order and by one task."""

    def __init__(self, source: Source, units: Sequence[Unit], readers: int, setup: RunSetup) -> None:
        super().__init__()
        self._only = setup.only
        self._artifacts = setup.run.artifacts
        # Not in each task: rows that a program holds itself would travel with every one of them.
        self._source = ray.put(source)
        self._readers = readers
        self._units = list(enumerate(units))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        borders = [len(self._units) * reader // self._readers for reader in range(self._readers + 1)]
        shares = [self._units[start:end] for start, end in pairwise(borders)]
        return [ReadTask(_Read(self._source, share, self._only, self._artifacts), nothing) for share in shares]


class _Read:
    """Reads some units; an error of the input is a row of its own, since Ray Data adds its words to what is raised."""

    def __init__(
        self,
        source: ray.ObjectRef,
        units: Sequence[tuple[int, Unit]],
        only: frozenset[bytes] | None,
        artifacts: AnyPath,
    ) -> None:
        self._source = source
        self._only = only
        self._units = units
        self._artifacts = artifacts

    def __call__(self) -> Iterable[pa.Table]:
        source: Source = ray.get(self._source)
        try:
            for number, unit in self._units:
                source.keep_artifacts_in(self._artifacts)
                yield from map(blocks.of_rows, identified(source, unit, number, self._only))
        except RaypipeError as error:
            yield blocks.of_error(error)


def _spilled_rows(paths: Sequence[str]) -> ray.data.Dataset | None:
    """The files of batches that were put away, for a conductor to read."""
    if not paths:
        return None
    starts = range(0, len(paths), _SPILLED_A_BLOCK)
    return ray.data.from_arrow([blocks.of_spilled(paths[start : start + _SPILLED_A_BLOCK]) for start in starts])


def _most_readers() -> int:
    return _READERS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))


class _Driver:
    def __init__(self, setup: RunSetup, address: str | None, is_own_ray: bool, stop: Stop) -> None:
        self._setup = setup
        self._address = address
        self._is_own_ray = is_own_ray
        self._stop = stop
        self._index = ray.put(setup.index)
        self._coordinator: Any = None
        self._pools: dict[str, RemotePool] = {}
        self._run = uuid4().hex[:12]
        self._results: list[BatchResult] = []

    def run(self, watch: Watch) -> Outcome:
        """Stage after stage. Raises RaypipeError when the run cannot go on."""
        stopped = threading.Event()
        watcher = start_thread(partial(self._watch, watch, stopped), "raypipe-watch", self._stop.fail)
        try:
            with self._stop.phase(Phase.JOIN):
                self._join_cluster()
                self._make_fit(ray.cluster_resources())
                self._start_coordinator()
            self._run_beside_servers()
        except RayTaskError as error:
            raise unwrapped(error) from None
        except RayError as error:
            raise InfrastructureError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from None
        finally:
            stopped.set()
            watcher.join(_CLOSE_TIMEOUT_S)
            self._kill_actors()
        return Outcome(self._results, self._halted_for())

    def _run_beside_servers(self) -> None:
        models, own = self._setup.plan.models, self._is_own_ray
        with ExitStack() as stack:
            with self._stop.phase(Phase.SERVE):
                servers = stack.enter_context(kept_servers(models, self._run, own, lambda: self._stop.is_asked))
            self._setup = replace(self._setup, run=replace(self._setup.run, servers=servers))
            self._run_stages()
            with self._stop.phase(Phase.UNLOAD):
                stack.close()

    def _run_stages(self) -> None:
        stay = iter(kept(self._setup.plan))
        for stage in self._setup.plan.stages:
            if self._halted_for():
                break
            self._run_stage(stage, stay)

    def _join_cluster(self) -> None:
        """See that a cluster of somebody else's has nodes, and that they have what this machine has."""
        if self._address is None:
            return
        pools = self._setup.plan.pools.values()
        free = sum(pool.replicas for pool in pools if not (pool.cpus or pool.gpus or pool.memory))
        await_nodes(free, lambda: self._stop.is_asked)
        if not self._stop.is_asked:
            check_environment(self._setup.plan, self._setup.run.options.env)

    def _make_fit(self, there: Mapping[str, float]) -> None:
        """Load fewer steps together where there is no room for all.

        Raises InfrastructureError where one has no room by itself, unless the cluster is another's: that may grow.
        """
        plan = self._setup.plan
        left = room_in(beside_servers(plan, there))
        fits = made_fit(plan, there) if self._address is None else fitted(plan, left)
        self._setup = replace(self._setup, plan=fits)

    def _halted_for(self) -> str:
        found = next((result.halted_for for result in self._results if result.halted_for), "")
        return found or (ASKED if self._stop.is_asked else "")

    def _start_coordinator(self) -> None:
        """Where one worker alone asks an endpoint, it keeps the limits itself."""
        asking = [pool for pool in self._setup.plan.pools.values() if pool.llm is not None]
        caps = self._setup.run.options.caps
        if caps or sum(pool.most for pool in asking) > 1:
            self._coordinator = start_coordinator(self._run, caps, self._setup.spent)

    def _watch(self, watch: Watch, stopped: threading.Event) -> None:
        for _ in range(round(BOARD_AFTER_S / _WATCH_EVERY_S)):
            if self._is_over(stopped):
                return
        board, reports = board_of(self._run), Reports()
        while not self._is_over(stopped):
            with suppress(RayError):
                if self._stop.is_asked:
                    board.halt.remote(ASKED, 0.0 if self._stop.is_at_once else DRAIN_S)
                snapshots, is_heard = ray.get(board.snapshots.remote(), timeout=_CLOSE_TIMEOUT_S)
                if not is_heard:
                    self._stop.not_heard_yet()
                self._stop.calls_in_flight(calls_in_flight(self._setup.plan, snapshots, self._stop.is_overdue))
                watch(snapshots)
                if not self._stop.is_asked:
                    reports.look(ray.get(board.reports.remote(), timeout=_CLOSE_TIMEOUT_S))
        with suppress(RayError):
            watch(ray.get(board.snapshots.remote(), timeout=_CLOSE_TIMEOUT_S)[0])
            ray.kill(board)

    def _is_over(self, stopped: threading.Event) -> bool:
        """Wait until it is time for another look, less long once the run is to be stopped."""
        for _ in range(round(_WATCH_EVERY_S / _LOOK_EVERY_S)):
            if stopped.wait(_LOOK_EVERY_S) or self._stop.is_asked:
                break
        return stopped.is_set()

    def _run_stage(self, stage: Stage, stay: Iterator[Sequence[str]]) -> None:
        """Phase after phase; what one has put away is the next one's input."""
        rows, spilled = self._rows(stage), list[str]()
        for number, phase in enumerate(stage.phases or (ALL,)):
            if number:
                rows = _spilled_rows(spilled)
            if rows is not None:
                with self._stop.phase(Phase.LOAD):
                    self._open_pools(stage, phase)
                with self._stop.phase(Phase.RUN):
                    spilled = self._run_phase(stage, phase, rows)
            with self._stop.phase(Phase.UNLOAD):
                self._close_pools(next(stay))
            if reason := self._halted_for():
                self._results += [ended(path, self._setup.run.parts, reason) for path in spilled]
                return

    def _open_pools(self, stage: Stage, phase: frozenset[str]) -> None:
        made = {name: one for name, one in self._setup.replicas(stage, phase).items() if name not in self._pools}
        self._pools |= started_pools(made, self._index, self._coordinator)

    def _run_phase(self, stage: Stage, phase: frozenset[str], rows: ray.data.Dataset) -> list[str]:
        pools = {name: self._pools[name] for name in stage.pools_of(phase)}
        setup = self._setup.conductor(f"stage{stage.index}", stage, phase)
        references = rows.map_batches(
            ConductorUDF,
            fn_constructor_args=(setup, pools, self._run, self._setup.run.options.is_shared),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=0,
            # Beside the driver: a node that is lost takes workers along, but never what has their rows.
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
            compute=ray.data.ActorPoolStrategy(
                size=1,
                max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
                max_tasks_in_flight_per_actor=_BLOCKS_AT_ONCE,
            ),
        )
        began = len(self._results)
        made = references.iter_batches(batch_size=None, batch_format="pyarrow")
        for table in ThreadedIterator(made, "raypipe-stage").until(self._is_left):
            self._results.extend(blocks.results_of(cast("pa.Table", table)))
        return spilled_in(self._results[began:])

    def _is_left(self) -> bool:
        """Whether a stage is not waited for any more: all that its conductors had has ended, and a reader is blocked.

        Raises StoppedError.
        """
        self._stop.check()
        return self._stop.is_idle

    def _rows(self, stage: Stage) -> ray.data.Dataset | None:
        entry = stage.steps[stage.entry].step
        if isinstance(entry, Source):
            units = entry.units()
            if not units:
                return None
            readers = min(len(units), _most_readers())
            return ray.data.read_datasource(Units(entry, units, readers, self._setup), override_num_blocks=readers)
        assert isinstance(entry, Aggregate)
        paths = paths_for(Sink("barrier", stage.entry), self._results)
        return groups_of(paths, stage.entry, entry, _most_readers()) if paths else None

    def _close_pools(self, stay: Sequence[str]) -> None:
        timeout_s = _LEAVE_S if self._stop.is_asked else _CLOSE_TIMEOUT_S
        end_pools([pool for name, pool in self._pools.items() if name not in stay], timeout_s)
        self._pools = {name: pool for name, pool in self._pools.items() if name in stay}

    def _kill_actors(self) -> None:
        """What a run that broke has left; its workers get a moment to put away what their steps loaded."""
        with suppress(RayError):
            end_pools(self._pools.values(), _LEAVE_S)
        if self._coordinator is not None:
            with suppress(RayError):
                ray.kill(self._coordinator)
