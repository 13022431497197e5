"""Drives a plan stage by stage: starts its pools, sends its rows through Ray Data, collects references."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.threads import iterate_in_thread
from raypipe.contracts.step import Aggregate, Source
from raypipe.errors import InfrastructureError
from raypipe.execution.conductor.batches import BatchResult, paths_for
from raypipe.execution.conductor.spill import end_spilled
from raypipe.execution.ray import blocks
from raypipe.execution.ray.conductors import BOARD_AFTER_S, ConductorUDF, progress_board
from raypipe.execution.ray.head import watch_head
from raypipe.execution.ray.liveness import Reports
from raypipe.execution.ray.nodes import await_nodes, check_environment
from raypipe.execution.ray.pickling import ship_by_value
from raypipe.execution.ray.pools import RemotePool, end_pools, start_pools, unwrap_error
from raypipe.execution.ray.reading import read_groups, read_source, read_spilled
from raypipe.execution.ray.servers import hold_servers
from raypipe.execution.ray.session import leave_ray, session
from raypipe.execution.setup import Outcome, RunSetup, Watch, count_calls_in_flight
from raypipe.execution.stopping import ASKED, DRAIN_S, Phase, Stop
from raypipe.limits import RateCoordinator
from raypipe.plan.load_groups import ALL, fitted, kept
from raypipe.plan.plan import SPILLED, Sink, Stage
from raypipe.plan.resources import beside_servers, made_fit, room_in

_WATCH_EVERY_S = 0.5
_LOOK_EVERY_S = 0.1
_CLOSE_TIMEOUT_S, _LEAVE_S = 10.0, 2.0
_BLOCKS_AT_ONCE = 4


def execute(setup: RunSetup, address: str | None, watch: Watch, stop: Stop) -> Outcome:
    """Run all stages on Ray. Raises RaypipeError when the run cannot go on, StoppedError when it is to end at once."""
    with ExitStack() as stack:
        with stop.phase(Phase.START_RAY):
            stack.enter_context(stop.abandoning(leave_ray))
            is_own_ray = stack.enter_context(session(address))
            ship_by_value(setup.plan)
        with watch_head(stop.fail):
            outcome = _Driver(setup, address, is_own_ray, stop).run(watch)
        with stop.phase(Phase.END_RAY):
            stack.close()
        return outcome


class _Driver:
    """One run: its pools, the coordinator of its limits, and the results so far."""

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
            raise unwrap_error(error) from None
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
                servers = stack.enter_context(hold_servers(models, self._run, own, lambda: self._stop.is_asked))
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
            # On this node, whose end is the run's.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            options = {"name": f"raypipe-{self._run}-limits", "num_cpus": 0, "scheduling_strategy": here}
            actor: Any = ray.remote(RateCoordinator).options(**options)
            self._coordinator = actor.remote(caps, self._setup.run.ledger)

    def _watch(self, watch: Watch, stopped: threading.Event) -> None:
        for _ in range(round(BOARD_AFTER_S / _WATCH_EVERY_S)):
            if self._is_over(stopped):
                return
        board, reports = progress_board(self._run), Reports(self._setup.run.options.look_every_s)
        while not self._is_over(stopped):
            with suppress(RayError):
                if self._stop.is_asked:
                    board.halt.remote(ASKED, 0.0 if self._stop.is_at_once else DRAIN_S)
                snapshots, counts, is_heard = ray.get(board.read.remote(), timeout=_CLOSE_TIMEOUT_S)
                in_flight = count_calls_in_flight(self._setup.plan, snapshots, self._stop.is_overdue)
                self._stop.note_calls_in_flight(in_flight, is_known=is_heard)
                watch(snapshots)
                if not self._stop.is_asked:
                    reports.look(counts)
        with suppress(RayError):
            watch(ray.get(board.read.remote(), timeout=_CLOSE_TIMEOUT_S)[0])
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
                rows = read_spilled(spilled)
            if rows is not None:
                with self._stop.phase(Phase.LOAD):
                    made = self._setup.replicas(stage, phase).items()
                    new = {name: setups for name, setups in made if name not in self._pools}
                    self._pools |= start_pools(new, self._index, self._coordinator)
                with self._stop.phase(Phase.RUN):
                    spilled = self._run_phase(stage, phase, rows)
            with self._stop.phase(Phase.UNLOAD):
                staying, timeout_s = next(stay), _LEAVE_S if self._stop.is_asked else _CLOSE_TIMEOUT_S
                end_pools([pool for name, pool in self._pools.items() if name not in staying], timeout_s)
                self._pools = {name: pool for name, pool in self._pools.items() if name in staying}
            if reason := self._halted_for():
                self._results += [end_spilled(path, self._setup.run.parts, reason) for path in spilled]
                return

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
        for table in iterate_in_thread(made, "raypipe-stage", self._is_left):
            self._results.extend(blocks.unpack_results(cast("pa.Table", table)))
        return paths_for(SPILLED, self._results[began:])

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
            return read_source(entry, units, self._setup) if units else None
        assert isinstance(entry, Aggregate)
        paths = paths_for(Sink("barrier", stage.entry), self._results)
        return read_groups(paths, stage.entry, entry) if paths else None

    def _kill_actors(self) -> None:
        """What a run that broke has left; its workers get a moment to put away what their steps loaded."""
        with suppress(RayError):
            end_pools(self._pools.values(), _LEAVE_S)
        if self._coordinator is not None:
            with suppress(RayError):
                ray.get(self._coordinator.close.remote(), timeout=_CLOSE_TIMEOUT_S)
            with suppress(RayError):
                ray.kill(self._coordinator)
