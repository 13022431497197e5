"""The workers of one model as a conductor sees them, each an actor of Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raypipe.concurrency.deadlines import run_within
from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.ray.liveness import is_working, locate_process
from raypipe.execution.ray.nodes import list_cpu_nodes
from raypipe.execution.ray.replicas import (
    choose_places,
    has_reserved_room,
    new_name,
    place_with_room,
    pool_prefix,
    remove_groups,
    start_replica,
)
from raypipe.execution.setup import MOST_REPLACEMENTS, PoolBase
from raypipe.execution.wire import Chunk, Reply, Sender
from raypipe.execution.worker.replica import ReplicaSetup

_START_TIMEOUT_S = 1800.0
_CLOSE_TIMEOUT_S = 5.0


def start_pools(made: Mapping[str, list[ReplicaSetup]], index: Any, coordinator: Any) -> dict[str, RemotePool]:
    """The pools by name, each with the workers that it starts with; they are being opened."""
    first = {name: setups[: setups[0].pool.replicas] for name, setups in made.items()}
    places = iter(choose_places([one for setups in first.values() for one in setups]))
    pools: dict[str, RemotePool] = {}
    for name, setups in first.items():
        placed = [(one, next(places)) for one in setups]
        workers = [RemoteWorker(one, start_replica(one, index, coordinator, place), place) for one, place in placed]
        pools[name] = RemotePool(workers, made[name], index, coordinator)
        for worker in workers:
            worker.actor.open.remote()
    return pools


def end_pools(pools: Iterable[RemotePool], timeout_s: float) -> None:
    """End their workers, those too that a conductor has started since; they have so long to put away what they hold."""
    pools = list(pools)
    prefixes = {pool_prefix(pool.setups[0]) for pool in pools}
    actors = [worker.actor for pool in pools for worker in pool.workers]
    for name in ray.util.list_named_actors() if prefixes else ():
        if name.rpartition("-")[0] in prefixes:
            with suppress(ValueError):  # gone meanwhile
                actors.append(ray.get_actor(name))
    _end(actors, timeout_s)
    remove_groups(prefixes)


def _end(actors: Sequence[Any], timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
    """End them; one that lives, be it with a dead engine, has so long to put away what it holds."""
    closing = [actor.close.remote() for actor in actors]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=timeout_s)
    for actor in actors:
        ray.kill(actor)


def unwrap_error(error: RayTaskError) -> RaypipeError:
    """Our own error that came through Ray, or Ray's in one sentence."""
    cause: Any = error.cause
    if isinstance(cause, RaypipeError):
        return type(cause).__reduce__(cause)[0](*cause.__reduce__()[1])
    said = str(cause.args[0] if getattr(cause, "args", ()) else cause).splitlines()
    return InfrastructureError(f"a worker broke: {type(cause).__name__}: {said[0] if said else ''}")


@dataclass
class RemoteWorker:
    """A replica actor as a conductor sees it."""

    setup: ReplicaSetup
    actor: Any
    place: Any
    """The scheduling strategy that it was started with."""
    name: str = field(init=False)
    concurrency: int = field(init=False)
    node: str = field(init=False)
    """The node that it was started on; empty where Ray chose one."""

    def __post_init__(self) -> None:
        self.name, self.concurrency = self.setup.name, self.setup.pool.rows
        self.node = getattr(self.place, "node_id", "")

    async def open(self) -> None:
        """Wait until it is ready, however long it takes: the caller has a bound.

        Raises RayTaskError with what getting ready raised, another RayError when its process is gone.
        """
        await self.actor.open.remote()

    async def exchange(self, sender: Sender, chunks: list[Chunk], flush_s: float) -> Reply:
        """Without a bound: whoever feeds it takes its pulse while it is silent."""
        try:
            return await self.actor.exchange.remote(sender, chunks, flush_s)
        except RayTaskError as error:
            raise unwrap_error(error) from None
        except (RayActorError, ActorUnschedulableError) as error:
            said = str(error).strip().splitlines()[0]
            raise ReplicaLostError(f"worker {self.name!r} is gone: {said}") from None
        except RayError as error:
            raise InfrastructureError(f"worker {self.name!r} cannot be reached: {error}") from None

    async def halt(self, reason: str) -> None:
        with suppress(RayError):  # a worker that is gone sends nothing
            # Without a bound: it ends with the worker, or with the conductor.
            await self.actor.halt.remote(reason)

    async def pulse(self) -> str:
        try:
            return await self.actor.pulse.remote()
        except RayActorError as error:
            said = str(error).strip().splitlines()[0]
            raise ReplicaLostError(f"worker {self.name!r} is gone: {said}") from None
        except RayError:
            return ""  # its exchange tells why

    async def examine(self) -> str:
        home = await locate_process(self.actor)
        if home is None:
            return f"worker {self.name!r}, which waits for its place or is being made"
        is_busy = await is_working(home)
        return f"worker {self.name!r}, whose process works but lets none of its threads answer" if is_busy else ""

    async def close(self) -> None:
        """End it, and what is reserved for it; one that lives, be it with a dead engine, puts away what it holds."""
        await asyncio.to_thread(_end, [self.actor])
        if isinstance(self.place, PlacementGroupSchedulingStrategy):
            remove_placement_group(self.place.placement_group)


@dataclass
class RemotePool(PoolBase):
    """The replica actors of one pool; a lost one is replaced a bounded number of times."""

    workers: list[RemoteWorker]
    index: Any
    coordinator: Any = None
    replaced: int = 0

    async def grow(self) -> RemoteWorker:
        """One more worker, ready; it ends with whoever asked for it. Raises RaypipeError."""
        setup = self.vacant()
        worker = await self._started(setup, await self._place(setup))
        self.workers.append(worker)
        return worker

    async def _started(self, setup: ReplicaSetup, place: Any) -> RemoteWorker:
        """One that is ready, and named, so that the driver finds it, too."""
        actor = start_replica(setup, self.index, self.coordinator, place, new_name(setup))
        worker = RemoteWorker(setup, actor, place)
        try:
            await self._ready(worker)
        except RaypipeError:
            await worker.close()
            raise
        return worker

    async def replace(self, lost: RemoteWorker) -> RemoteWorker:
        await lost.close()
        self.replaced += 1
        if self.replaced > MOST_REPLACEMENTS:
            raise InfrastructureError(f"worker {lost.name!r} was lost {MOST_REPLACEMENTS} times; see its log for why")
        worker = await self._started(lost.setup, await self._place(lost.setup, lost))
        self.workers[self.workers.index(lost)] = worker
        return worker

    async def _ready(self, worker: RemoteWorker) -> None:
        try:
            await run_within(_START_TIMEOUT_S, worker.open())
        except RayTaskError as error:
            raise unwrap_error(error) from None
        except RayError as error:
            said = str(error).strip().splitlines()[0]
            raise ReplicaLostError(f"worker {worker.name!r} died while it started: {said}") from None
        except TimeoutError:
            problem = f"worker {worker.name!r} was not ready within {_START_TIMEOUT_S:.0f} s"
            raise InfrastructureError(problem) from None

    async def _place(self, setup: ReplicaSetup, lost: RemoteWorker | None = None) -> Any:
        """Where one more is to live: the node with the fewest of this pool, such as one that has joined.

        Not where the lost one was whose place it takes: a node is known to be gone only some time after its workers.
        """
        if has_reserved_room(setup):
            return await asyncio.to_thread(place_with_room, setup)
        nodes = await asyncio.to_thread(list_cpu_nodes)
        if not nodes:
            return "SPREAD"
        there = Counter(worker.node for worker in self.workers if worker is not lost)
        node = min(nodes, key=lambda node: (lost is not None and node == lost.node, there[node]))
        return NodeAffinitySchedulingStrategy(node, soft=False)
