"""Puts replicas into actors of Ray, each on a node or, where an engine is larger than one, over several."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raypipe.calls.index import CallIndex, index_with_segments
from raypipe.calls.writer import CallLogWriter
from raypipe.concurrency.background import TaskOwner, TaskScope, start_thread
from raypipe.concurrency.loop_lag import LoopLag
from raypipe.contracts.model_pool import first_of
from raypipe.errors import InfrastructureError
from raypipe.execution.gc_tuning import collect_rarely
from raypipe.execution.ray.gauges import Gauges
from raypipe.execution.ray.nodes import list_cpu_nodes
from raypipe.execution.wire import Chunk, Reply, Sender, WorkerStatus
from raypipe.execution.worker.replica import Replica, ReplicaSetup
from raypipe.limits import Caps, Lease, RateCoordinator, Report
from raypipe.models import SPREAD_ENGINE, takes_gpus_from_ray
from raypipe.security.file_modes import keep_private

_LOADING_POLL_S = 5.0
_PULSE = "pulse"
"""Ray gives each such group of an actor's methods an event loop of its own."""
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

    start_thread(watch, "node", None)


class ReplicaActor:
    """A replica in an actor of its own."""

    def __init__(self, setup: ReplicaSetup, index: CallIndex, coordinator: Any, is_substitute: bool = False) -> None:
        end_with_node()
        keep_private(setup.run.options.is_shared)
        collect_rarely()
        # The first array imports pandas, where that is installed: 0.3 s in which no answer would be heard later.
        pa.array([""])
        if is_substitute:
            # Its rows may have been answered before: by the worker that was lost, or for a conductor that was.
            index = index_with_segments(index, setup.run.calls, setup.run.owner)
        self._log = CallLogWriter(setup.run.calls, setup.run.owner)
        self._own_coordinator = RateCoordinator(Caps(), setup.run.ledger) if coordinator is None else None
        self._replica = Replica(setup, index, self._log, self._own_coordinator or RemoteCoordinator(coordinator))
        self._opens = TaskScope()
        self._opening: asyncio.Task[None] | None = None
        self._waiting: dict[Sender, list[Chunk]] = {}
        """Rows that came before it was ready, by sender."""
        self._gauges = Gauges(setup.name) if setup.pool.llm is not None else None
        self._lag = LoopLag()
        self._tasks = TaskOwner(self._replica.runner.stop_for)

    @ray.method(concurrency_group=_PULSE)
    async def pulse(self) -> str:
        """What holds its event loop up; a loop of its own, in another thread, answers."""
        return self._lag.described(f"worker {self._replica.name!r}")

    async def open(self) -> None:
        """Get ready, once; whoever asks waits for it."""
        if self._opening is None:
            self._tasks.start(self._lag.run(), "the watch over the event loop", is_endless=True)
            self._opening = self._opens.start(self._replica.open())
        await asyncio.shield(self._opening)

    async def exchange(self, sender: Sender, chunks: list[Chunk], flush_s: float) -> Reply:
        """As `Replica.exchange`; until it is ready, which takes an engine minutes, empty replies say that it lives."""
        waiting = self._waiting.setdefault(sender, [])
        waiting.extend(chunks)
        opening = self._opens.start(self.open())
        await asyncio.wait({opening}, timeout=_LOADING_POLL_S)
        if not opening.done():
            opening.cancel()
            held = sum(chunk.table.num_rows for chunk in waiting)
            return Reply([], WorkerStatus(held=held), held)
        await opening
        taken = self._waiting.pop(sender, [])
        reply = await self._replica.exchange(sender, taken, flush_s)
        if self._gauges is not None:
            self._gauges.show(reply.status)
        return reply

    async def halt(self, reason: str) -> None:
        await self._replica.halt(reason)

    async def close(self) -> None:
        await self._tasks.close()
        await self._replica.close()
        if self._own_coordinator is not None:
            await self._own_coordinator.close()
        self._log.close()


@dataclass
class RemoteCoordinator:
    """The coordinator of the run, in an actor of its own."""

    actor: Any

    async def lease(self, report: Report) -> Lease:
        """What it answers; the limiter waits no longer than it should. Raises InfrastructureError when it is gone."""
        try:
            return await self.actor.lease.remote(report)
        except RayError as error:
            said = (str(error).strip() or "it gave no answer").splitlines()[0]
            problem = f"the worker that keeps the run's limits is gone: {said}"
            raise InfrastructureError(f"{problem}; run the same command again to go on") from None


def choose_places(setups: Sequence[ReplicaSetup]) -> list[Any]:
    """Where each replica is to live: scheduling strategies of Ray's.

    Ray places actors that keep no room of their own at random, so that a node may get them all; these are
    dealt out in turn. Ray spreads the others. A replica with more GPUs than any node has, or whose engine is told to
    use Ray, gets a placement group of one GPU each, on as few nodes as can be.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = sorted(list_cpu_nodes() or [own], key=lambda node: (node != own, node))
    turns = (NodeAffinitySchedulingStrategy(node, soft=False) for node in cycle(nodes))
    return [place_with_room(one) if has_reserved_room(one) else next(turns) for one in setups]


def has_reserved_room(setup: ReplicaSetup) -> bool:
    """Whether a replica has room to itself."""
    return any((setup.pool.cpus, setup.pool.gpus, setup.pool.memory))


def place_with_room(setup: ReplicaSetup) -> Any:
    """Where a replica is to live that has room to itself; its group, where its engine is spread over GPUs, is new.

    The replica lives with the first GPU; what its engine starts in turn gets the others.
    """
    pool, llm = setup.pool, setup.pool.llm
    if llm is None or not first_of(llm).runs_here or pool.gpus < 1:
        return "SPREAD"
    largest = max((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if not takes_gpus_from_ray(first_of(llm)) and not 0 < largest < pool.gpus:
        return "SPREAD"
    bundles = [{"GPU": 1.0} for _ in range(math.ceil(pool.gpus))]
    bundles[0] |= {name: amount for name, amount in (("CPU", pool.cpus), ("memory", pool.memory)) if amount}
    group = placement_group(bundles, strategy="PACK", name=new_name(setup))
    return PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )


def new_name(setup: ReplicaSetup) -> str:
    """A new name for what Ray keeps for a replica: the driver finds by it what a conductor made."""
    return f"{pool_prefix(setup)}-{uuid4().hex[:8]}"


def pool_prefix(setup: ReplicaSetup) -> str:
    """What all names of a replica's pool begin with."""
    return f"raypipe-{setup.run.owner}-{setup.pool.name}"


def remove_groups(prefixes: Set[str]) -> None:
    """Release what all groups reserve whose names begin so."""
    names = [one["name"] for one in placement_group_table().values() if one["state"] != "REMOVED"]
    for name in names:
        if name.rpartition("-")[0] in prefixes:
            remove_placement_group(get_placement_group(name))


def start_replica(setup: ReplicaSetup, index: Any, coordinator: Any, place: Any, name: str = "") -> Any:
    """A new replica actor; it is not opened yet. `index` is a reference to a `CallIndex`.

    One that takes the place of another, or comes later, has a name.
    """
    ours = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 64, "scheduling_strategy": place}
    kept = {"num_cpus": setup.pool.cpus, "num_gpus": setup.pool.gpus, "memory": setup.pool.memory or None}
    if isinstance(place, PlacementGroupSchedulingStrategy):
        ours |= {"runtime_env": {"env_vars": {SPREAD_ENGINE: "1"}}}
        kept["num_gpus"] = 0
    ours |= {"name": name} if name else {}
    grouped: Any = {"concurrency_groups": {_PULSE: 1}}
    actor: Any = ray.remote(**grouped)(ReplicaActor)
    return actor.options(**kept, **ours).remote(setup, index, coordinator, is_substitute=bool(name))
