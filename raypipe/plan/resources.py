"""Checks beforehand whether the workers of a plan have room: Ray lets one that has none wait forever."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import psutil

from raypipe.errors import InfrastructureError
from raypipe.models import engine_gpus, gpus_here
from raypipe.plan.load_groups import fitted, loaded
from raypipe.plan.plan import Plan, Pool

_KINDS = {"cpus": ("CPU", "CPUs", 1.0), "gpus": ("GPU", "GPUs", 0.0), "memory": ("memory", "bytes of memory", 0.0)}
"""By what pools call it: Ray's name, ours, and how much is left to the tasks that read and group."""

_ADVICE = "lower `resources` of these steps, or `replicas` and `engine` of these models, or use a larger cluster"


def of_this_machine() -> dict[str, float]:
    """What a Ray of one's own finds here, by Ray's names."""
    there = {"CPU": float(psutil.cpu_count() or 1), "memory": 0.7 * psutil.virtual_memory().available}
    return there | ({"GPU": float(gpus)} if (gpus := gpus_here()) else {})


def of_this_process() -> dict[str, float]:
    """What the `local` engine has: the GPUs that are here; of the rest it keeps nothing for anybody."""
    return {"CPU": math.inf, "memory": math.inf, "GPU": float(gpus_here())}


def made_fit(plan: Plan, there: Mapping[str, float]) -> Plan:
    """The plan with fewer steps loaded together where there is no room for all.

    Raises InfrastructureError where some that must be loaded together have no room, and where servers have none.
    """
    wanted, gpus = _gpus_of_servers(plan), there.get("GPU", 0.0)
    if wanted > gpus:
        raise InfrastructureError(f"the servers want {wanted:g} GPUs and there are {gpus:g}; {_ADVICE}")
    there = beside_servers(plan, there)
    plan = fitted(plan, room_in(there))
    for pools in loaded(plan):
        check_room([plan.pools[name] for name in pools], there)
    return plan


def beside_servers(plan: Plan, there: Mapping[str, float]) -> dict[str, float]:
    """What is left of what is `there`, by Ray's names, where the models have their servers."""
    return {**there, "GPU": max(0.0, there.get("GPU", 0.0) - _gpus_of_servers(plan))}


def _gpus_of_servers(plan: Plan) -> float:
    return sum({llm.server_key: engine_gpus(llm) for llm in plan.models if llm.serve}.values())


def room_in(there: Mapping[str, float]) -> dict[str, float]:
    """What workers may keep to themselves, of what is `there` by Ray's names."""
    return {share: max(0.0, there.get(kind, 0.0) - left) for share, (kind, _, left) in _KINDS.items()}


def check_room(pools: Iterable[Pool], there: Mapping[str, float]) -> None:
    """Raises InfrastructureError when all workers together want more than is `there`, by Ray's names."""
    pools = list(pools)
    room = room_in(there)
    for share, (_, unit, left) in _KINDS.items():
        wanted = {pool.name: pool.least * getattr(pool, share) for pool in pools if getattr(pool, share)}
        if sum(wanted.values()) > room[share]:
            each = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
            beside = f" beside the {left:g} that reads" if left else ""
            problem = f"the workers want {sum(wanted.values()):g} {unit} and there are {room[share]:g}{beside} ({each})"
            raise InfrastructureError(f"{problem}; {_ADVICE}")
