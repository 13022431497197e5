"""I put replicas, conductors and the progress board into Ray's actors."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
import uvloop
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.callindex import CallIndex, index_with_segments
from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.batches import BatchResult
from raypipe.execution.collection import collect_rarely
from raypipe.execution.conductor import Conductor, ConductorSetup, Snapshot
from raypipe.execution.parking import PARKED
from raypipe.execution.ray.gauges import Gauges
from raypipe.execution.ray.nodes import nodes_at_work
from raypipe.execution.replica import Replica, ReplicaSetup
from raypipe.execution.scribe import Scribe
from raypipe.execution.setup import MOST_REPLACEMENTS
from raypipe.execution.source import sliced
from raypipe.execution.wire import Chunk, Reply, Vitals
from raypipe.limits import Amount, Authority, Caps, Lease, Report

_BOARD_EVERY_S = 0.5
_START_TIMEOUT_S = 1800.0
_LOADING_POLL_S = 5.0
_CLOSE_TIMEOUT_S = 5.0
_LEASE_TIMEOUT_S = 120.0
_LOOK_FOR_NODE_S, _OUTLIVE_S = 2.0, 20.0


def end_with_node() -> None:
    """Watch, in a thread, the process that started this one: a worker never outlives its node for long.

    Ray ends workers whose node is gone; one that it missed has the time to log the calls in flight.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_FOR_NODE_S)
        time.sleep(_OUTLIVE_S)
        os._exit(1)

    threading.Thread(target=watch, name="node", daemon=True).start()


class ReplicaActor:
    """A replica in an actor of its own."""

    def __init__(self, setup: ReplicaSetup, index: CallIndex, authority: Any, is_substitute: bool = False) -> None:
        end_with_node()
        collect_rarely()
        # The first array imports pandas, where that is installed: 0.3 s in which no answer would be heard later.
        pa.array([""])
        if is_substitute:
            # Its rows may have been answered before: by the worker that was lost, or for a conductor that was.
            index = index_with_segments(index, setup.calls, setup.owner)
        self._log = Scribe(setup.calls, setup.owner)
        grants = Authority(Caps()) if authority is None else RemoteGrants(authority)
        self._replica = Replica(setup, index, self._log, grants)
        self._opening: asyncio.Task[None] | None = None
        self._waiting: dict[str, list[Chunk]] = {}
        """Rows that came before it was ready, by sender."""
        self._gauges = Gauges(setup.name) if setup.pool.llm is not None else None

    async def open(self) -> None:
        """Get ready, once; whoever asks waits for it."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._replica.open())
        await asyncio.shield(self._opening)

    async def exchange(self, sender: str, chunks: list[Chunk], flush_s: float) -> Reply:
        """As `Replica.exchange`; while it gets ready, which takes an engine minutes, it says that it lives."""
        waiting = self._waiting.setdefault(sender, [])
        waiting.extend(chunks)
        opening = asyncio.ensure_future(self.open())
        await asyncio.wait({opening}, timeout=_LOADING_POLL_S)
        if not opening.done():
            opening.cancel()
            return Reply([], Vitals(held=sum(chunk.table.num_rows for chunk in waiting)))
        await opening
        taken = self._waiting.pop(sender, [])
        reply = await self._replica.exchange(sender, taken, flush_s)
        if self._gauges is not None:
            self._gauges.show(reply.vitals)
        return reply

    async def halt(self, reason: str) -> None:
        await self._replica.halt(reason)

    async def close(self) -> None:
        await self._replica.close()
        self._log.close()


@dataclass
class RemoteGrants:
    """The authority of the run, in an actor of its own."""

    actor: Any

    async def lease(self, report: Report) -> Lease:
        try:
            async with asyncio.timeout(_LEASE_TIMEOUT_S):
                return await self.actor.lease.remote(report)
        except (RayError, TimeoutError) as error:
            said = (str(error).strip() or "it gave no answer").splitlines()[0]
            raise InfrastructureError(f"the worker that keeps the run's limits is gone: {said}") from None


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


def spread(setups: Sequence[ReplicaSetup]) -> list[Any]:
    """Where each replica is to live.

    Ray places actors that keep no room of their own at random, so that a node may get them all; these are
    dealt out in turn. Ray spreads the others.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = sorted(nodes_at_work() or [own], key=lambda node: (node != own, node))
    turns = (NodeAffinitySchedulingStrategy(node, soft=False) for node in cycle(nodes))
    return ["SPREAD" if is_kept(one) else next(turns) for one in setups]


def is_kept(setup: ReplicaSetup) -> bool:
    """Whether a replica has room to itself."""
    return any((setup.pool.cpus, setup.pool.gpus, setup.pool.memory))


def start_replica(setup: ReplicaSetup, index: Any, authority: Any, place: Any = "SPREAD", **fields: Any) -> Any:
    """A new replica actor; it is not opened yet. `index` is a reference to a `CallIndex`."""
    ours = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 64, "scheduling_strategy": place}
    kept = {"num_cpus": setup.pool.cpus, "num_gpus": setup.pool.gpus, "memory": setup.pool.memory or None}
    return ray.remote(ReplicaActor).options(**kept, **ours).remote(setup, index, authority, **fields)


def unwrapped(error: RayTaskError) -> RaypipeError:
    """Our own error that came through Ray, or Ray's in one sentence."""
    cause: Any = error.cause
    if isinstance(cause, RaypipeError):
        return type(cause).__reduce__(cause)[0](*cause.__reduce__()[1])
    said = str(cause.args[0] if getattr(cause, "args", ()) else cause).splitlines()
    return InfrastructureError(f"a worker broke: {type(cause).__name__}: {said[0] if said else ''}")


@dataclass
class RemoteWorker:
    """A replica actor as a conductor sees it."""

    name: str
    concurrency: int
    setup: ReplicaSetup
    actor: Any
    place: Any = "SPREAD"
    """Where it was told to live."""

    @property
    def node(self) -> str:
        """The node that it was told to live on; empty where it was told none."""
        return getattr(self.place, "node_id", "")

    async def exchange(self, sender: str, chunks: list[Chunk], flush_s: float) -> Reply:
        try:
            return await self.actor.exchange.remote(sender, chunks, flush_s)
        except RayTaskError as error:
            raise unwrapped(error) from None
        except (RayActorError, ActorUnschedulableError) as error:
            said = str(error).strip().splitlines()[0]
            raise ReplicaLostError(f"worker {self.name!r} is gone: {said}") from None
        except RayError as error:
            raise InfrastructureError(f"worker {self.name!r} cannot be reached: {error}") from None

    async def halt(self, reason: str) -> None:
        with suppress(RayError):  # a worker that is gone sends nothing
            await self.actor.halt.remote(reason)


@dataclass
class RemotePool:
    """The replica actors of one pool; a lost one is replaced a bounded number of times."""

    workers: list[RemoteWorker]
    setups: list[ReplicaSetup]
    """Of all workers that there may be."""
    index: Any
    authority: Any = None
    replaced: int = 0

    @property
    def fewest(self) -> int:
        return self.setups[0].pool.replicas

    @property
    def most(self) -> int:
        return len(self.setups)

    async def grow(self) -> RemoteWorker:
        """One more worker, ready; it ends with whoever asked for it. Raises RaypipeError."""
        there = {worker.name for worker in self.workers}
        setup = next(setup for setup in self.setups if setup.name not in there)
        actor = start_replica(setup, self.index, self.authority, is_substitute=True)
        worker = RemoteWorker(setup.name, setup.pool.rows, setup, actor)
        try:
            await self._ready(worker)
        except RaypipeError:
            ray.kill(actor)
            raise
        self.workers.append(worker)
        return worker

    async def shrink(self, worker: RemoteWorker) -> None:
        self.workers.remove(worker)
        await self._end(worker)

    async def _end(self, worker: RemoteWorker) -> None:
        """One that lives, be it with a dead engine, puts away what it holds."""
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await worker.actor.close.remote()
        ray.kill(worker.actor)

    async def replace(self, lost: RemoteWorker) -> RemoteWorker:
        await self._end(lost)
        self.replaced += 1
        if self.replaced > MOST_REPLACEMENTS:
            raise InfrastructureError(f"worker {lost.name!r} was lost {MOST_REPLACEMENTS} times; see its log for why")
        place = await self._place(lost)
        actor = start_replica(lost.setup, self.index, self.authority, place, is_substitute=True)
        worker = replace(lost, actor=actor, place=place)
        await self._ready(worker)
        self.workers[self.workers.index(lost)] = worker
        return worker

    async def _ready(self, worker: RemoteWorker) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await worker.actor.open.remote()
        except RayTaskError as error:
            raise unwrapped(error) from None
        except RayError as error:
            said = str(error).strip().splitlines()[0]
            raise ReplicaLostError(f"worker {worker.name!r} died while it started: {said}") from None
        except TimeoutError:
            problem = f"worker {worker.name!r} was not ready within {_START_TIMEOUT_S:.0f} s"
            raise InfrastructureError(problem) from None

    async def _place(self, lost: RemoteWorker) -> Any:
        """Where one takes the place of another: the node with the fewest of this pool, such as one that has joined.

        Not where the lost one was, since a node is known to be gone only some time after its workers.
        """
        nodes = await asyncio.to_thread(nodes_at_work)
        if is_kept(lost.setup) or not nodes:
            return "SPREAD"
        there = Counter(worker.node for worker in self.workers if worker is not lost)
        node = min(nodes, key=lambda node: (node == lost.node, there[node]))
        return NodeAffinitySchedulingStrategy(node, soft=False)


class ConductorUDF:
    """A conductor inside Ray Data's `map_batches`: blocks of rows in, references to part files out.

    Its event loop runs in a thread of its own, since a slow consumer freezes the loop of an async UDF.
    It never raises: an error is a value in its one output column.
    """

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, RemotePool], run: str) -> None:
        setup = replace(setup, name=f"{setup.name}-{uuid4().hex[:8]}")
        end_with_node()
        collect_rarely()
        self._drain_s = setup.drain_s
        self._name, self._run_id = setup.name, run
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="conductor", daemon=True).start()
        self._conductor = Conductor(setup, pools)
        self._loop.call_soon_threadsafe(self._conductor.open)
        asyncio.run_coroutine_threadsafe(self._report(setup.name, run), self._loop)

    async def _report(self, name: str, run: str) -> None:
        await asyncio.sleep(BOARD_AFTER_S)
        board = await asyncio.to_thread(board_of, run)
        while True:
            reason = await board.put.remote(name, self._conductor.snapshot())
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
