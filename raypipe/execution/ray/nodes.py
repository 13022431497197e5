"""Says which nodes of a cluster have CPUs and which environment variables they lack, and asks for nodes.

A worker behind an endpoint keeps no CPU to itself: tasks that read may hold all there are, and wait for it. A cluster
that adds nodes on demand would add none for it. So where no node has a CPU, one is asked for for each worker until
they are there. Such a worker keeps its node from being released, and its end lets it go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.errors import InfrastructureError, SpecError, Violation
from raypipe.models.presets import PRESETS, key_env
from raypipe.plan.plan import Plan

_NODES_TIMEOUT_S, _STRAGGLERS_S, _LOOK_EVERY_S = 1800.0, 60.0, 0.5
_MOST_ASKED_FOR = 1000
_ANSWER_TIMEOUT_S = 120.0


def list_cpu_nodes() -> list[str]:
    """The nodes that have CPUs, by their ids."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def await_nodes(workers: int, is_stopped: Callable[[], bool]) -> None:
    """Where no node has a CPU, ask for one for each of so many workers, and wait for the first node and those near it.

    Nothing is asked for any more afterwards, nor when this process ends. Raises InfrastructureError when none comes.
    """
    if list_cpu_nodes() or not workers:
        return
    asked = [placement_group([{"CPU": 1}]) for _ in range(min(workers, _MOST_ASKED_FOR))]
    deadline, first = time.monotonic() + _NODES_TIMEOUT_S, float("inf")
    try:
        while not is_stopped() and time.monotonic() < min(deadline, first + _STRAGGLERS_S):
            if list_cpu_nodes():
                first = min(first, time.monotonic())
            if all(one.wait(0) for one in asked):
                return
            time.sleep(_LOOK_EVERY_S)
    finally:
        for one in asked:
            remove_placement_group(one)
    if not is_stopped() and not list_cpu_nodes():
        problem = f"the cluster has no node with a CPU, and none came within {_NODES_TIMEOUT_S / 60:.0f} minutes"
        raise InfrastructureError(f"{problem}; add a node, or see in `ray status` why it adds none")


def check_environment(plan: Plan, names: Sequence[str]) -> None:
    """Every node has the keys of the models that this process has, and these variables.

    Raises SpecError that says which nodes lack which; no value leaves a node. One that joins later is not asked.
    """
    keys = [key_env(llm) for llm in plan.models if llm.provider in PRESETS]
    wanted = list(dict.fromkeys([*names, *(name for name in keys if name and os.environ.get(name))]))
    if not wanted:
        return
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    asked: dict[Any, str] = {}
    for node in list_cpu_nodes():
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(_find_unset).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
        asked[task.remote(wanted)] = nodes[node]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_TIMEOUT_S) if asked else ([], [])
    where: dict[str, list[str]] = {}
    for one in answered:
        for name in ray.get(one, timeout=_ANSWER_TIMEOUT_S):
            where.setdefault(name, []).append(asked[one])
    way = "set it where `ray start` is called there (cluster.yaml shows how); a job takes no value along"
    if where:
        problems = [
            Violation(f"environment variable {name!r}", f"is not set on {', '.join(sorted(set(lacking)))}; {way}")
            for name, lacking in where.items()
        ]
        raise SpecError(violations=problems)


def _find_unset(names: Sequence[str]) -> list[str]:
    return [name for name in names if not os.environ.get(name)]
