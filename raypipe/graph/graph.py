"""Named steps and edges, and what leads where.

A graph is a value: making a sound one of what a user wrote, and running it, are for higher floors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter

from raypipe.contracts.step import Aggregate, Columns, Step
from raypipe.graph.branching import Meet
from raypipe.graph.repeat import Until

Edge = tuple[str, str]


@dataclass(frozen=True)
class Flow:
    """What is known, before any row, about the rows that leave a step."""

    columns: Columns
    open_scatters: tuple[str, ...] = ()
    """Steps whose scatter no aggregate has closed yet, outermost first."""


@dataclass(frozen=True)
class Graph:
    """Steps by name, and edges between them, in the order they were written."""

    steps: Mapping[str, Step]
    edges: tuple[Edge, ...] = ()
    flows: Mapping[str, Flow] = field(default_factory=dict[str, Flow])
    """For each step, the rows that leave it."""
    owners: Mapping[str, str] = field(default_factory=dict[str, str])
    """For each step that was put in by itself, the step of the user's that it belongs to."""
    fronts: Mapping[str, str] = field(default_factory=dict[str, str])
    """For each step that was put in before another (`when`, a meeting, the rows that it is given), that other one."""

    def owner(self, name: str) -> str:
        """The step of the user's that a step belongs to: itself, unless it was put in."""
        return self.owners.get(name, name)

    def shown(self, name: str) -> str:
        """The step as part of which a step is shown and counted: what was put in before another is part of that."""
        return self.fronts.get(name, name)

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """The steps that are shown, in order, and of each the steps that it stands for, itself the last of them."""
        found: dict[str, list[str]] = {}
        for name in self.order:
            found.setdefault(self.shown(name), []).append(name)
        return {name: found[name] for name in self.order if name in found}

    @cached_property
    def as_shown(self) -> Graph:
        """The graph of the steps that are shown."""
        return self.contract(self.fronts)

    def contract(self, into: Mapping[str, str]) -> Graph:
        """The graph without the steps in `into`; their edges are those of the steps that it names for them.

        With `owners` it is the graph of the steps that the user wrote.
        """
        edges = dict.fromkeys((into.get(above, above), into.get(below, below)) for above, below in self.edges)
        return Graph(
            {name: step for name, step in self.steps.items() if name not in into},
            tuple((above, below) for above, below in edges if above != below),
            {name: flow for name, flow in self.flows.items() if name not in into},
        )

    @cached_property
    def predecessors(self) -> dict[str, list[str]]:
        """For each step those before it, in the order in which their edges were written: that of its branches."""
        found: dict[str, list[str]] = {name: [] for name in self.steps}
        for upstream, downstream in self.edges:
            found[downstream].append(upstream)
        return found

    @cached_property
    def successors(self) -> dict[str, list[str]]:
        """For each step those behind it, in the order in which their edges were written."""
        found: dict[str, list[str]] = {name: [] for name in self.steps}
        for upstream, downstream in self.edges:
            found[upstream].append(downstream)
        return found

    @cached_property
    def order(self) -> list[str]:
        """Step names, each after its predecessors; raises graphlib.CycleError."""
        rank = {name: position for position, name in enumerate(self.steps)}
        sorter = TopologicalSorter(self.predecessors)
        sorter.prepare()
        ordered: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=rank.__getitem__)
            ordered.extend(ready)
            sorter.done(*ready)
        return ordered

    @property
    def leaves(self) -> list[str]:
        """The steps that none follows, in the order in which they were written; each has a dataset of the result."""
        return [name for name in self.steps if not self.successors[name]]

    def opener(self, gather: str) -> str:
        """The step whose rows an aggregate brings back together, or behind which the branches of a meeting part.

        Of an `Until`, the `Candidates` that it ends.
        """
        step = self.steps[gather]
        if isinstance(step, Meet):
            return self._parting(gather)
        assert isinstance(step, Aggregate | Until)
        before = self.flows[self.predecessors[gather][0]].open_scatters
        if isinstance(step, Until) or step.by == "scatter":
            return before[-1]
        return self.source_of(gather)

    def parent_columns(self, gather: str) -> Columns:
        """The columns of the rows that an aggregate inside a stage brings back."""
        opener, step = self.opener(gather), self.steps[gather]
        above = self.predecessors[opener]
        is_inside = isinstance(step, Aggregate) and step.by == "scatter" and above
        return self.flows[above[0] if is_inside and self.flows[opener].open_scatters else opener].columns

    def _parting(self, meet: str) -> str:
        """The last step that every branch of a meeting comes from, at the same depth of scatters."""
        depth = self.flows[self.predecessors[meet][0]].open_scatters
        above = set.intersection(*({one, *self.ancestors(one)} for one in self.predecessors[meet]))
        shared = [name for name in self.order if name in above and self.flows[name].open_scatters == depth]
        return next(name for name in reversed(shared) if self._is_passed(name, meet))

    def _is_passed(self, name: str, meet: str) -> bool:
        """Whether no way to a meeting leads around a step."""
        reached, ahead = set[str](), [meet]
        while ahead:
            current = ahead.pop()
            for above in () if self.is_entry(current) else self.predecessors[current]:
                if above != name and above not in reached:
                    reached.add(above)
                    ahead.append(above)
        return not any(self.is_entry(one) for one in reached)

    def all_before(self, name: str) -> frozenset[str]:
        """All steps that lead to a step."""
        found, ahead = set[str](), [name]
        while ahead:
            ahead += [above for above in self.predecessors[ahead.pop()] if not (above in found or found.add(above))]
        return frozenset(found)

    def ancestors(self, name: str) -> frozenset[str]:
        """All steps before a step, back to the source or the barrier aggregate that its rows come from."""
        found, ahead = set[str](), [name]
        while ahead:
            current = ahead.pop()
            if current != name and self.is_entry(current):
                continue
            for above in self.predecessors[current]:
                if above not in found:
                    found.add(above)
                    ahead.append(above)
        return frozenset(found)

    def is_entry(self, name: str) -> bool:
        """Whether rows begin at a step: at a source, or at an aggregate that gives its first row after the last came.

        A stage of the plan begins there too.
        """
        step = self.steps[name]
        return not self.predecessors[name] or (isinstance(step, Aggregate) and step.is_barrier)

    def between(self, opener: str, gather: str) -> frozenset[str]:
        """The steps on the ways from `opener` to `gather`, which is among them."""
        return frozenset({gather} | {name for name in self.ancestors(gather) if opener in self.ancestors(name)})

    def source_of(self, name: str) -> str:
        """The source, or the barrier aggregate, that the rows before a step come from."""
        above = self.predecessors[name][0]
        while not self.is_entry(above):
            above = self.predecessors[above][0]
        return above
