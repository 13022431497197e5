"""Decides which steps are loaded together: the groups a user names, or as many steps as there is room for.

A stage whose steps are not all loaded at once has phases. In each, rows are carried as far as the loaded steps take
them; what waits for others is put away until those are loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from raypipe.errors import SpecError, Violation, nearest
from raypipe.graph.graph import Graph
from raypipe.graph.repeat import Until
from raypipe.plan.plan import KEPT, Plan, Stage

SEQUENTIAL = "sequential_step_execution"
LoadGroups = Sequence[Sequence[str]] | Literal["sequential_step_execution"]
"""Names of steps that are loaded together and by themselves, or one step after the other."""

ALL = frozenset[str]()
"""The only phase of a stage that has none."""


def in_groups(plan: Plan, groups: LoadGroups) -> Plan:
    """The plan with its steps loaded in groups, one after the other; a step in none is loaded as early as it can be.

    Raises SpecError for groups that cannot be loaded in their order.
    """
    if not groups:
        return plan
    if isinstance(groups, str):
        if groups != SEQUENTIAL:
            problem = f"got {groups!r}; allowed are lists of names of steps, or {SEQUENTIAL!r}"
            raise SpecError.of("load_groups", problem)
        groups = [[name] for name in plan.graph.order if name not in plan.graph.owners]
    turn = _turns(plan.graph, groups)
    stages: list[Stage] = []
    for stage in plan.stages:
        working = [name for name, planned in stage.steps.items() if planned.pool is not None]
        turns = sorted({turn[name] for name in working})
        phases = [[name for name in working if turn[name] == one] for one in turns]
        stages.append(replace(stage, phases=_undivided(stage, phases)))
    return replace(plan, stages=tuple(stages))


def fitted(plan: Plan, there: Mapping[str, float]) -> Plan:
    """The plan with as many steps loaded together as there is room for, of each kind in `KEPT`.

    Groups that a user named stay. A step whose workers alone have no room is a group of its own.
    """
    if any(stage.phases for stage in plan.stages) or _fits(plan, plan.pools, there):
        return plan
    return replace(plan, stages=tuple(replace(stage, phases=_fitting(plan, stage, there)) for stage in plan.stages))


def kept(plan: Plan) -> list[tuple[str, ...]]:
    """For each phase of each stage, in order, the pools whose workers stay for what comes after it."""
    used = _used(plan)
    is_grouped = any(stage.phases for stage in plan.stages)
    found: list[tuple[str, ...]] = []
    for at in range(1, len(used) + 1):
        before, after = set[str]().union(*used[:at]), set[str]().union(*used[at:])
        if is_grouped:
            # Workers without a model are made for the steps of one phase.
            before = {name for name in used[at - 1] if plan.pools[name].llm is not None}
            after = set(used[at]) if at < len(used) else set[str]()
        found.append(tuple(name for name in plan.pools if name in before & after))
    return found


def loaded(plan: Plan) -> list[tuple[str, ...]]:
    """For each phase of each stage, in order, the pools whose workers are there."""
    stay = [(), *kept(plan)]
    return [tuple(dict.fromkeys((*there, *used))) for there, used in zip(stay, _used(plan), strict=False)]


def load_stages(plan: Plan) -> tuple[list[list[str]], list[list[str]]]:
    """The steps that are at work together, group after group, and of each group those that none of it follows."""
    groups: list[list[str]] = []
    for stage in plan.stages:
        for number, phase in enumerate(stage.phases or (ALL,)):
            there = [name for name in stage.steps if not phase or name in phase or (name == stage.entry and not number)]
            if own := [name for name in there if name not in plan.graph.owners]:
                groups.append(own)
    after = plan.graph.contract(plan.graph.owners).successors
    return groups, [[name for name in group if not set(after[name]) & set(group)] for group in groups]


def _used(plan: Plan) -> list[tuple[str, ...]]:
    return [stage.pools_of(phase) for stage in plan.stages for phase in stage.phases or (ALL,)]


def _turns(graph: Graph, groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """When each step is loaded: those of a group together, others after the last group that they read from.

    What was put in for a step is loaded with it.
    """
    listed, problems = _listed(graph, groups)
    turn: dict[str, int] = {}
    for name in graph.order:
        own = listed.get(name, listed.get(graph.owner(name)))
        above = {one: turn[one] for one in graph.predecessors[name]}
        latest = max(above, key=above.__getitem__, default="")
        if own is None:
            turn[name] = above[latest] + above[latest] % 2 if latest else 0
            continue
        turn[name] = own
        if latest and above[latest] > own:
            reader, read = graph.owner(name), graph.owner(latest)
            problem = f"step {reader!r} reads from {read!r}, which is loaded later; put it into a group after that"
            problems.append(Violation(f"load_groups[{own // 2}]", problem))
    if problems:
        raise SpecError(violations=problems)
    return turn


def _listed(graph: Graph, groups: Sequence[Sequence[str]]) -> tuple[dict[str, int], list[Violation]]:
    """The turn of each step that is named in a group, and what is wrong with the names."""
    turn: dict[str, int] = {}
    problems: list[Violation] = []
    known = [name for name in graph.steps if name not in graph.owners]
    for number, group in enumerate(groups, 1):
        where = f"load_groups[{number - 1}]"
        for name in [group] if isinstance(group, str) else group:
            if name not in graph.steps:
                problems.append(Violation(where, f"there is no step {name!r}{nearest(name, known)}"))
            elif name in turn:
                problems.append(Violation(where, f"step {name!r} is in two groups; leave it in one"))
            else:
                turn[name] = 2 * number - 1
    return turn, problems


def _fitting(plan: Plan, stage: Stage, there: Mapping[str, float]) -> tuple[frozenset[str], ...]:
    phases: list[list[str]] = [[]]
    for name, planned in stage.steps.items():
        if planned.pool is None:
            continue
        together = {stage.steps[one].pool or "" for one in (*phases[-1], name)}
        if phases[-1] and not _fits(plan, together, there):
            phases.append([])
        phases[-1].append(name)
    found = _undivided(stage, phases)
    return found if len(found) > 1 else ()


def _undivided(stage: Stage, phases: Sequence[Sequence[str]]) -> tuple[frozenset[str], ...]:
    """The phases, those that one repeated part is spread over taken together: its rows come back to its first step."""
    found = [set(phase) for phase in phases]
    for planned in stage.steps.values():
        if not isinstance(planned.step, Until) or planned.gather is None:
            continue
        spread = [number for number, phase in enumerate(found) if phase & planned.gather.region]
        if len(spread) > 1:
            first, last = spread[0], spread[-1]
            found[first : last + 1] = [set[str]().union(*found[first : last + 1])]
    return tuple(map(frozenset, found))


def _fits(plan: Plan, pools: Collection[str], there: Mapping[str, float]) -> bool:
    wanted = {kind: sum(plan.pools[name].least * getattr(plan.pools[name], kind) for name in pools) for kind in KEPT}
    return all(wanted[kind] <= there.get(kind, 0.0) or not wanted[kind] for kind in KEPT)
