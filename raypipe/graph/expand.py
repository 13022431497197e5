"""Makes steps of their own of what is said of a step's two ends: `when`, `.aggregate()`, `.custom()`, routing.

Says to which step each of them belongs, since a user knows that one alone. Knows nothing of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from raypipe.contracts.imports import found_at
from raypipe.contracts.step import Aggregate, Runs, Step, collecting
from raypipe.errors import SpecError
from raypipe.graph.branching import Copies, Meet, Route, Routing
from raypipe.graph.callback import Callback, Collected
from raypipe.graph.graph import Edge

_OF_FAMILY = "~rows"
"""Column of the rows of a family; those of the row that is brought back stand beside it, and may have any name."""
Choice = tuple[str, Routing, tuple[str, ...]]
"""A step, its routing, and the steps behind it that it chooses among."""


@dataclass(frozen=True)
class Expanded:
    """All steps and edges."""

    steps: dict[str, Step]
    edges: tuple[Edge, ...]
    owners: dict[str, str]
    """For each step that was put in, the user's step that it belongs to."""
    fronts: dict[str, str]
    """For each step that was put in before another, that other one."""


def expanded(steps: Mapping[str, Step], edges: Sequence[Edge], choices: Sequence[Choice]) -> Expanded:
    """What is said of a step's two ends as steps of their own. Raises SpecError where a name is taken."""
    token = collecting.set(None)
    try:
        return _expanded(steps, edges, choices)
    finally:
        collecting.reset(token)


def _expanded(steps: Mapping[str, Step], edges: Sequence[Edge], choices: Sequence[Choice]) -> Expanded:
    nodes: dict[str, Step] = {}
    chains: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    fronts: dict[str, str] = {}
    for name, step in steps.items():
        before = _beginning(name, step, several=sum(b == name for _, b in edges) > 1)
        after = _ending(name, step)
        if f"{name}_broadcast" in after:
            step = step.model_copy(update={"copies": 1})
        nodes |= before | {name: step} | after
        chains[name] = [*before, name, *after]
        owners |= dict.fromkeys((*before, *after), name)
        fronts |= dict.fromkeys(before, name)
        if step.callback is not None:
            fronts[list(after)[-2]] = list(after)[-1]
    routes: dict[Edge, str] = {}
    inner = [pair for chain in chains.values() for pair in pairwise(chain)]
    for number, (name, routing, targets) in enumerate(choices):
        own = f"{name}_route" + (f"_{number}" if f"{name}_route" in nodes else "")
        nodes[own], owners[own] = Route(routing=routing, targets={one: chains[one][0] for one in targets}), name
        inner.append((chains[name][-1], own))
        routes |= {(name, target): own for target in targets}
    if taken := sorted(set(owners) & set(steps)):
        raise SpecError.of(f"step {taken[0]!r}", "has the name of a step put in by itself; rename it")
    joined = inner + [(routes.get((a, b), chains[a][-1]), chains[b][0]) for a, b in edges]
    return Expanded(nodes, tuple(joined), owners, fronts)


def _beginning(name: str, step: Step, several: bool) -> dict[str, Step]:
    added: dict[str, Step] = {}
    source = step.own_source()
    if source is not None:
        added[f"{name}_source"] = source
    if several and not isinstance(step, Meet):
        added[f"{name}_meet"] = Meet()
    if step.when is not None and step.runs is not Runs.SOURCE:
        added[f"{name}_when"] = found_at("raypipe.steps.columns.filter:Filter")(keep=step.when)
    if step.is_given_all:  # behind `when`, which is about each row
        required = [step.input_mappings.get(column, column) for column in step.required()]
        added[f"{name}_rows"] = Collected(by="all", as_rows="rows", columns=required or None)
    return added


def _ending(name: str, step: Step) -> dict[str, Step]:
    added: dict[str, Step] = {}
    if step.copies > 1 and step.runs in (Runs.SOURCE, Runs.GATHER):
        added[f"{name}_broadcast"] = Copies(broadcast=step.copies)
    if step.gathered is not None:
        added[f"{name}_aggregate"] = Aggregate(by=step.gathered)
    if step.callback is not None:
        added[f"{name}_custom_rows" if step.is_given_all else f"{name}_rows"] = Collected(as_rows=_OF_FAMILY)
        added[f"{name}_custom"] = Callback(function=step.callback, rows=_OF_FAMILY)
    return added
