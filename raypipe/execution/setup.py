"""Defines what an executor is given and what it gives back. Knows nothing of how it runs a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.calls.index import CallIndex
from raypipe.execution.conductor.batches import BatchResult
from raypipe.execution.conductor.conductor import ConductorSetup, Snapshot
from raypipe.execution.context import RunContext
from raypipe.execution.stopping import DRAIN_S
from raypipe.execution.worker.replica import ReplicaSetup
from raypipe.plan.plan import Plan, Stage

Watch = Callable[[Sequence[Snapshot]], None]
"""Called about twice a second with what each conductor sees."""


def count_calls_in_flight(plan: Plan, snapshots: Sequence[Snapshot], is_overdue: bool) -> int:
    """Calls that have been sent to models and not been answered yet, as far as conductors see.

    With `is_overdue`, workers that do not know of a stop yet are left out: a step blocks them.
    """
    asking = {name for name, pool in plan.pools.items() if pool.llm is not None}
    workers = [one for snapshot in snapshots for one in snapshot.workers.values() if one.pool in asking]
    return sum(status.in_flight for status in workers if status.halted_for or not is_overdue)


MOST_REPLACEMENTS = 20
"""Workers of one pool that are lost before it is given up."""


@dataclass(frozen=True)
class Outcome:
    """What an executor gives back."""

    results: Sequence[BatchResult]
    halted_for: str = ""
    """Why not all rows were carried to their ends; empty when they were."""


@dataclass
class PoolBase:
    """The workers of a pool, out of all that there may be. A worker has a `name`, and `close` ends it."""

    workers: list[Any]
    setups: list[ReplicaSetup]
    """Of all workers that there may be."""
    fewest: int = field(init=False)
    most: int = field(init=False)

    def __post_init__(self) -> None:
        self.fewest, self.most = self.setups[0].pool.replicas, len(self.setups)

    def vacant(self) -> ReplicaSetup:
        """The setup of a worker that is not there."""
        there = {worker.name for worker in self.workers}
        return next(setup for setup in self.setups if setup.name not in there)

    async def shrink(self, worker: Any) -> None:
        """End a worker that is fed no more."""
        self.workers.remove(worker)
        await worker.close()


@dataclass(frozen=True)
class RunSetup:
    """One run of a plan."""

    run: RunContext
    plan: Plan
    index: CallIndex
    only: frozenset[bytes] | None = None
    """Work only on source rows with these identities."""

    def conductor(self, name: str, stage: Stage, phase: frozenset[str]) -> ConductorSetup:
        """What a conductor of a stage, or of one of its phases, is made from."""
        options = self.run.options
        bounds, look_every_s = options.bounds, options.look_every_s
        return ConductorSetup(
            name,
            stage,
            self.run.parts,
            DRAIN_S,
            phase=phase,
            bounds=bounds,
            look_every_s=look_every_s,
            max_failure_rate=options.max_failure_rate,
        )

    def replicas(self, stage: Stage, phase: frozenset[str] = frozenset()) -> dict[str, list[ReplicaSetup]]:
        """The workers that a stage, or one of its phases, may have, by pool; the first `Pool.replicas` are started."""
        pools, names = self.plan.pools, stage.pools_of(phase)
        return {name: [self._replica(name, number, phase) for number in range(pools[name].most)] for name in names}

    def _replica(self, pool: str, number: int, phase: frozenset[str]) -> ReplicaSetup:
        """Workers with a model serve every step that names it; others are loaded anew in each phase."""
        some = phase if self.plan.pools[pool].llm is None else frozenset[str]()
        steps = {
            planned.name: planned.step
            for stage in reversed(self.plan.stages)
            for planned in reversed(list(stage.steps.values()))
            if planned.pool == pool and (planned.name in some or not some)
        }
        return ReplicaSetup(f"{pool}:{number}", self.plan.pools[pool], steps, self.run)
