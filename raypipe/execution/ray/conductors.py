"""I put conductors, the run's limits and its progress board into Ray's actors."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
import uvloop
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.batches import BatchResult
from raypipe.execution.collection import collect_rarely
from raypipe.execution.conductor import Conductor, ConductorSetup, Snapshot
from raypipe.execution.parking import PARKED
from raypipe.execution.ray.pools import RemotePool
from raypipe.execution.ray.replicas import end_with_node
from raypipe.execution.source import sliced
from raypipe.limits import Amount, Authority, Caps
from raypipe.modes import keep_private

_BOARD_EVERY_S = 0.5


class Board:
    """Where conductors put what they see for the driver to read, and learn that the run is to end."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        self._halted_for = ""

    def put(self, name: str, snapshot: Snapshot) -> str:
        """Why the run is to end; empty while it goes on."""
        self._snapshots[name] = snapshot
        return self._halted_for

    def halt(self, reason: str) -> None:
        self._halted_for = reason

    def snapshots(self) -> list[Snapshot]:
        return list(self._snapshots.values())


READ_ERROR = "~error"
"""Column of a block that is no rows but an error of the input, pickled."""

BOARD_AFTER_S = 2.0
"""A run that ends sooner has no board: the worker it lives in would be a tenth of such a run."""


def board_of(run: str) -> Any:
    """The board of a run, started by whoever asks first."""
    return ray.remote(Board).options(name=f"raypipe-{run}", get_if_exists=True, num_cpus=0).remote()


def start_authority(run: str, caps: Caps, spent: Amount) -> Any:
    """The one authority of a run, on this node, whose end is the run's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": f"raypipe-{run}-limits", "num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(Authority).options(**options).remote(caps, spent)


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
        self._drain_s = setup.drain_s
        self._name, self._run_id = setup.name, run
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="conductor", daemon=True).start()
        self._conductor = Conductor(setup, pools)
        self._loop.call_soon_threadsafe(self._conductor.open)
        asyncio.run_coroutine_threadsafe(self._report(), self._loop)

    async def _report(self) -> None:
        await asyncio.sleep(BOARD_AFTER_S)
        board = await asyncio.to_thread(board_of, self._run_id)
        while True:
            reason = await board.put.remote(self._name, self._conductor.snapshot())
            if reason:
                self._conductor.halt(reason, self._drain_s)
            await asyncio.sleep(_BOARD_EVERY_S)

    async def _report_engines(self) -> None:
        """What engines did last is in the manifest, too, though the run ends now."""
        snapshot = self._conductor.snapshot()
        if any(vitals.engines for vitals in snapshot.vitals.values()):
            with suppress(RayError):
                await board_of(self._run_id).put.remote(self._name, snapshot)

    def __call__(self, block: pa.Table) -> pa.Table:
        if READ_ERROR in block.column_names:
            asyncio.run_coroutine_threadsafe(self._conductor.drained("the input cannot be read"), self._loop).result()
            return _output([(None, block.column(READ_ERROR).drop_null()[0].as_py())])
        work: Future[list[BatchResult]] = asyncio.run_coroutine_threadsafe(self._run(block), self._loop)
        error = work.exception()
        if error is None:
            made = [(result.to_json(), None) for result in work.result()]
        else:
            made = [(None, pickle.dumps(_own(error)))]
        return _output(made)

    async def _run(self, block: pa.Table) -> list[BatchResult]:
        running: list[asyncio.Task[BatchResult]] = []
        if PARKED in block.column_names:
            for path in block.column(PARKED).to_pylist():
                await self._conductor.room()
                running.append(asyncio.create_task(self._conductor.resume_batch(path)))
            block = block.slice(0, 0)
        for rows in sliced(block):
            if self._conductor.halted_for:
                break
            await self._conductor.room()
            running.append(asyncio.create_task(self._conductor.run_batch(rows)))
        results = list(await asyncio.gather(*running))
        await self._report_engines()
        if self._conductor.halted_for:
            results.append(BatchResult((), {}, self._conductor.halted_for))
        return results


def _output(made: Sequence[tuple[bytes | None, bytes | None]]) -> pa.Table:
    results, errors = zip(*made, strict=True) if made else ((), ())
    return pa.table({"result": pa.array(results, pa.binary()), "error": pa.array(errors, pa.binary())})


def _own(error: BaseException) -> RaypipeError:
    if isinstance(error, RaypipeError):
        return error
    return InfrastructureError(f"the conductor broke: {type(error).__name__}: {error}")


def results_of(made: pa.Table) -> list[BatchResult]:
    """What a conductor's output stands for; raises the error it holds."""
    for error in made.column("error").to_pylist():
        if error is not None:
            raise pickle.loads(error)
    return [BatchResult.from_json(result) for result in made.column("result").to_pylist()]
