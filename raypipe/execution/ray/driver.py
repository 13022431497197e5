"""I drive a plan stage by stage: start its pools, send its rows through Ray Data, collect references."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, cast
from uuid import uuid4

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError, RayTaskError

from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.batches import BatchResult
from raypipe.execution.conductor import ConductorSetup
from raypipe.execution.local import paths_for
from raypipe.execution.ray.actors import (
    BOARD_AFTER_S,
    READ_ERROR,
    ConductorUDF,
    RemotePool,
    RemoteWorker,
    board_of,
    results_of,
    start_replica,
    unwrapped,
)
from raypipe.execution.ray.shipping import ship_by_value
from raypipe.execution.setup import RunSetup, Watch
from raypipe.execution.source import group_of, identified
from raypipe.plan import Stage, inbox
from raypipe.step import Aggregate, Source, Unit

_WATCH_EVERY_S = 0.5
_CLOSE_TIMEOUT_S = 10.0
_BLOCKS_AT_ONCE = 4
_READERS_PER_CPU = 4
"""A reader has one unit after the other: more readers even out units of different sizes, but each is a task."""


def execute(setup: RunSetup, watch: Watch) -> list[BatchResult]:
    """Run all stages on the Ray that is up. Raises RaypipeError when the run cannot go on."""
    ship_by_value(setup.plan)
    return _Driver(setup).run(watch)


class Units(Datasource):
    """The units of a source for Ray Data to read, each in order and by one task."""

    def __init__(self, source: Source, units: Sequence[Unit], readers: int) -> None:
        super().__init__()
        self._source = source
        self._readers = readers
        self._units = list(enumerate(units))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        borders = [len(self._units) * reader // self._readers for reader in range(self._readers + 1)]
        shares = [self._units[start:end] for start, end in pairwise(borders)]
        return [ReadTask(_Read(self._source, share), nothing) for share in shares]


class _Read:
    """Reads some units; an error of the input is a row of its own, since Ray Data adds its words to what is raised."""

    def __init__(self, source: Source, units: Sequence[tuple[int, Unit]]) -> None:
        self._source = source
        self._units = units

    def __call__(self) -> Iterable[pa.Table]:
        try:
            for number, unit in self._units:
                yield from identified(self._source, unit, number)
        except RaypipeError as error:
            yield pa.table({READ_ERROR: [pickle.dumps(error)]})


class _Driver:
    def __init__(self, setup: RunSetup) -> None:
        self._setup = setup
        self._index = ray.put(setup.index)
        self._pools: dict[str, RemotePool] = {}
        self._run = uuid4().hex[:12]
        self._results: list[BatchResult] = []

    def run(self, watch: Watch) -> list[BatchResult]:
        stopped = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(watch, stopped), daemon=True)
        watcher.start()
        try:
            for stage in self._setup.plan.stages:
                self._open_pools(stage)
                self._run_stage(stage)
            self._close_pools()
        except RayTaskError as error:
            raise unwrapped(error) from None
        except RayError as error:
            raise InfrastructureError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from None
        finally:
            stopped.set()
            watcher.join(_CLOSE_TIMEOUT_S)
            self._kill_actors()
        return self._results

    def _watch(self, watch: Watch, stopped: threading.Event) -> None:
        if stopped.wait(BOARD_AFTER_S):
            return
        board = board_of(self._run)
        while not stopped.wait(_WATCH_EVERY_S):
            with suppress(RayError):
                watch(ray.get(board.snapshots.remote(), timeout=_CLOSE_TIMEOUT_S))
        ray.kill(board)

    def _open_pools(self, stage: Stage) -> None:
        for name, replicas in self._setup.replicas(stage).items():
            if name not in self._pools:
                workers = [
                    RemoteWorker(one.name, one.pool.concurrency, one, start_replica(one, self._index))
                    for one in replicas
                ]
                self._pools[name] = RemotePool(workers, self._index)
                for worker in workers:
                    worker.actor.open.remote()

    def _run_stage(self, stage: Stage) -> None:
        rows = self._rows(stage)
        if rows is None:
            return
        pools = {name: self._pools[name] for name in stage.pools}
        setup = ConductorSetup(f"stage{stage.index}", stage, self._setup.parts, self._setup.leaves)
        references = rows.map_batches(
            ConductorUDF,
            fn_constructor_args=(setup, pools, self._run),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(
                size=1,
                max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
                max_tasks_in_flight_per_actor=_BLOCKS_AT_ONCE,
            ),
        )
        for made in references.iter_batches(batch_size=None, batch_format="pyarrow"):
            self._results.extend(results_of(cast("pa.Table", made)))

    def _rows(self, stage: Stage) -> ray.data.Dataset | None:
        entry = stage.steps[stage.entry].step
        if isinstance(entry, Source):
            units = entry.units()
            if not units:
                return None
            readers = min(len(units), _READERS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))))
            return ray.data.read_datasource(Units(entry, units, readers), override_num_blocks=readers)
        assert isinstance(entry, Aggregate)
        paths = paths_for(inbox(stage.entry), self._results)
        if not paths:
            return None
        keys = list(entry.by) if isinstance(entry.by, list) else None
        name = stage.entry
        groups = (
            ray.data.read_parquet(paths)
            .groupby(keys)
            .map_groups(lambda rows: group_of(rows, name, entry), batch_format="pyarrow")
        )
        return groups.sort("_position") if keys else groups

    def _close_pools(self) -> None:
        closing = [worker.actor.close.remote() for pool in self._pools.values() for worker in pool.workers]
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S) if closing else None

    def _kill_actors(self) -> None:
        for pool in self._pools.values():
            for worker in pool.workers:
                with suppress(RayError):
                    ray.kill(worker.actor)
