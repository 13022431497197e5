"""I am named steps and edges, and I know whether I am sound.

A graph is a value: running it is a function on a higher floor. `build` names the steps, turns the
endings of steps (`.aggregate()`, `.custom()`), conditions, routings and meeting branches into steps of their own
and refuses an unsound graph with every violation at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from raypipe.branching import Meet, Route, Routing
from raypipe.errors import SpecError, Violation
from raypipe.row import RESERVED
from raypipe.step import Aggregate, Callback, Columns, Runs, Shape, Step, collecting, imported, snake_case

Edge = tuple[str, str]
Choice = tuple[str, Routing, tuple[str, ...]]
"""A step, its routing, and the steps behind it that it chooses among."""


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

    @cached_property
    def predecessors(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in self.steps}
        for upstream, downstream in self.edges:
            found[downstream].append(upstream)
        return found

    @cached_property
    def successors(self) -> dict[str, list[str]]:
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
        return [name for name in self.steps if not self.successors[name]]

    @property
    def roots(self) -> list[str]:
        return [name for name in self.steps if not self.predecessors[name]]

    def opener(self, gather: str) -> str:
        """The step whose rows an aggregate brings back together, or behind which the branches of a meeting part."""
        step = self.steps[gather]
        if isinstance(step, Meet):
            return self._parting(gather)
        assert isinstance(step, Aggregate)
        before = self.flows[self.predecessors[gather][0]].open_scatters
        if step.by == "scatter":
            return before[-1]
        return self.source_of(gather)

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
            for above in () if self._is_entry(current) else self.predecessors[current]:
                if above != name and above not in reached:
                    reached.add(above)
                    ahead.append(above)
        return not any(self._is_entry(one) for one in reached)

    def ancestors(self, name: str) -> frozenset[str]:
        """All steps before a step, back to the source or the barrier aggregate that its rows come from."""
        found, ahead = set[str](), [name]
        while ahead:
            current = ahead.pop()
            if current != name and self._is_entry(current):
                continue
            for above in self.predecessors[current]:
                if above not in found:
                    found.add(above)
                    ahead.append(above)
        return frozenset(found)

    def _is_entry(self, name: str) -> bool:
        step = self.steps[name]
        return not self.predecessors[name] or (isinstance(step, Aggregate) and step.is_barrier)

    def between(self, opener: str, gather: str) -> frozenset[str]:
        """The steps on the ways from `opener` to `gather`, which is among them."""
        return frozenset({gather} | {name for name in self.ancestors(gather) if opener in self.ancestors(name)})

    def source_of_rows(self, name: str) -> str:
        """The source, or the barrier aggregate, that the rows of a step come from."""
        return name if self._is_entry(name) else self.source_of(name)

    def source_of(self, name: str) -> str:
        """The source, or the barrier aggregate, that the rows before a step come from."""
        above = self.predecessors[name][0]
        while not self._is_entry(above):
            above = self.predecessors[above][0]
        return above


def build(
    steps: Sequence[Step],
    edges: Sequence[tuple[Step, Step]],
    routes: Sequence[tuple[Step | None, Routing, Sequence[Step]]] = (),
) -> Graph:
    """The sound graph of `steps`; `routes` as in `Collector`. Raises SpecError with all violations."""
    names, problems = name_steps(steps)
    known = {id(step) for step in steps}
    pairs = [(names[id(a)], names[id(b)]) for a, b in edges if id(a) in known and id(b) in known]
    strangers = {id(end): end for edge in edges for end in edge if id(end) not in known}
    for end in strangers.values():
        problems.append(Violation(repr(end.name), "is joined here but was made outside this pipeline block"))
    for pair in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        problems.append(Violation(f"edge {pair[0]!r} >> {pair[1]!r}", "is written twice; remove one"))
    named = {names[id(step)]: step for step in steps}
    choices: list[Choice] = []
    for upstream, routing, targets in routes:
        if upstream is None:
            problem = "has no step before it; put one, or run the pipeline with dataset=…"
            problems.append(Violation(f"routing to {', '.join(repr(names[id(step)]) for step in targets)}", problem))
        elif id(upstream) in known:
            choices.append((names[id(upstream)], routing, tuple(names[id(step)] for step in targets)))
    if problems:
        raise SpecError(violations=problems)
    return _sound(*_expanded(named, pairs, choices), named)


def name_steps(steps: Sequence[Step]) -> tuple[dict[int, str], list[Violation]]:
    """A name for each step (by `id`), and the names given twice."""
    problems: list[Violation] = []
    taken: set[str] = set()
    for step in steps:
        if step.name is not None and step.name in taken:
            problems.append(Violation(f"step {step.name!r}", "two steps have this name; rename one"))
        taken.add(step.name or "")
    names: dict[int, str] = {}
    for step in steps:
        name = step.name
        if name is None:
            stem = snake_case(type(step).__name__)
            name = next(f"{stem}_{number}" for number in range(len(steps)) if f"{stem}_{number}" not in taken)
            taken.add(name)
        names[id(step)] = name
    return names, problems


def _expanded(
    steps: dict[str, Step], edges: list[Edge], choices: Sequence[Choice]
) -> tuple[dict[str, Step], list[Edge]]:
    """What is said of a step's two ends as steps of their own."""
    token = collecting.set(None)
    try:
        nodes: dict[str, Step] = {}
        chains: dict[str, list[str]] = {}
        for name, step in steps.items():
            before = _beginning(name, step, several=sum(b == name for _, b in edges) > 1)
            after = _ending(name, step)
            nodes |= before | {name: step} | after
            chains[name] = [*before, name, *after]
        routes: dict[Edge, str] = {}
        inner = [pair for chain in chains.values() for pair in pairwise(chain)]
        for number, (name, routing, targets) in enumerate(choices):
            own = f"{name}_route" + (f"_{number}" if f"{name}_route" in nodes else "")
            nodes[own] = Route(routing=routing, targets={target: chains[target][0] for target in targets})
            inner.append((chains[name][-1], own))
            routes |= {(name, target): own for target in targets}
    finally:
        collecting.reset(token)
    return nodes, inner + [(routes.get((a, b), chains[a][-1]), chains[b][0]) for a, b in edges]


def _beginning(name: str, step: Step, several: bool) -> dict[str, Step]:
    added: dict[str, Step] = {}
    if several and not isinstance(step, Meet):
        added[f"{name}_meet"] = Meet()
    if step.when is not None:
        added[f"{name}_when"] = imported("raypipe.steps.filtering:Filter")(keep=step.when)
    return added


def _ending(name: str, step: Step) -> dict[str, Step]:
    added: dict[str, Step] = {}
    if step.gathered is not None:
        added[f"{name}_aggregate"] = Aggregate(by=step.gathered)
    if step.callback is not None:
        added[f"{name}_rows"] = Aggregate(as_rows="rows")
        added[f"{name}_custom"] = Callback(function=step.callback)
    return added


def _sound(steps: dict[str, Step], edges: list[Edge], own: Collection[str]) -> Graph:
    graph = Graph(steps, tuple(edges))
    problems = [*_shape_violations(graph)]
    try:
        order = graph.order
    except CycleError as error:
        path = " >> ".join(repr(name) for name in _own(error.args[1][::-1], own))
        problems.append(Violation("edges", f"form a cycle: {path}; remove one edge"))
        order = []
    flows: dict[str, Flow] = {}
    for name in order:
        flows[name] = _flow(graph, flows, name, problems)
    graph = Graph(steps, graph.edges, flows)
    for name, step in steps.items():
        problems.extend(Violation(f"step {name!r}", problem) for problem in [*step.problems(), *_on_error(step)])
    if problems:
        raise SpecError(violations=problems)
    return graph


def _own(cycle: Sequence[str], own: Collection[str]) -> list[str]:
    """A cycle without the steps that were put in by themselves."""
    kept = [name for name in cycle if name in own]
    return kept if len(kept) > 1 and kept[0] == kept[-1] else [*kept, kept[0]]


def _shape_violations(graph: Graph) -> list[Violation]:
    problems: list[Violation] = []
    if not graph.steps:
        problems.append(Violation("pipeline", "has no steps; add a loader such as LoadDataFromDicts and a step"))
    for name, step in graph.steps.items():
        above = graph.predecessors[name]
        where = f"step {name!r}"
        if step.runs is Runs.SOURCE and above:
            problems.append(Violation(where, f"reads its own rows and cannot come after {above[0]!r}"))
        if step.runs is not Runs.SOURCE and not above:
            hint = "join it behind one with `>>` or `after:`"
            problems.append(Violation(where, f"has no step before it and is no loader; {hint}"))
        if isinstance(step, Meet) and step.when is not None:
            problems.append(Violation(where, "brings branches together and takes no `when`; put it on a branch"))
    return problems


def _flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    step, above = graph.steps[name], graph.predecessors[name]
    before = _flow_before(flows, step, above)
    where = f"step {name!r}"
    if above:
        problems.extend(_missing_columns(where, step, above[0], before.columns))
    for column in sorted(RESERVED & set(step.writes())):
        problems.append(Violation(where, f"writes column {column!r}, a name kept for lineage; rename it"))
    columns = step.columns_after(before.columns)
    if step.copies > 1 and columns is not None:
        columns = tuple(dict.fromkeys((*columns, "sample")))
    if isinstance(step, Meet) and above:
        return _meeting_flow(graph, flows, name, problems)
    if isinstance(step, Aggregate) and above:
        return _aggregate_flow(graph, flows, name, problems)
    if step.shape is Shape.SCATTER or step.copies > 1:
        return Flow(columns, (*before.open_scatters, name))
    return Flow(columns, before.open_scatters)


def _flow_before(flows: dict[str, Flow], step: Step, above: Sequence[str]) -> Flow:
    """The rows that come to a step; their columns are unknown where its place is unsound."""
    if not above:
        return Flow(() if step.runs is Runs.SOURCE else None)
    columns = Meet.columns_of(Meet.model_construct(), [flows[one].columns for one in above])
    return Flow(columns, flows[above[0]].open_scatters)


def _missing_columns(where: str, step: Step, above: str, available: Columns) -> list[Violation]:
    if available is None:
        return []
    listed = ", ".join(repr(column) for column in sorted(available))
    return [
        Violation(
            where,
            f"reads column {column!r}, which no step before it writes (available after {above!r}: {listed}); "
            "add the step that writes it or rename the column",
        )
        for column in step.reads()
        if column not in available
    ]


def _meeting_flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    """Branches can meet when a row has one row in each."""
    step, above = graph.steps[name], graph.predecessors[name]
    assert isinstance(step, Meet)
    where = f"step {name.removesuffix('_meet')!r}"
    sources = {one: graph.source_of_rows(one) for one in above}
    if len(set(sources.values())) > 1:
        listed = ", ".join(f"{one!r} (rows of {source!r})" for one, source in sources.items())
        hint = "branches meet by row identity; give each source a step of its own"
        problems.append(Violation(where, f"comes after steps with rows of different origin: {listed}; {hint}"))
    scatters = {one: flows[one].open_scatters for one in above}
    if len(set(scatters.values())) > 1:
        listed = ", ".join(f"{one!r} ({' in '.join(map(repr, found)) or 'no'} open)" for one, found in scatters.items())
        problem = f"comes after branches with different open scatters: {listed}; aggregate before the branches meet"
        problems.append(Violation(where, problem))
    return Flow(step.columns_of([flows[one].columns for one in above]), scatters[above[0]])


def _aggregate_flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    step, above = graph.steps[name], graph.predecessors[name][0]
    assert isinstance(step, Aggregate)
    before = flows[above]
    if step.is_barrier:
        return Flow(_collected(step, step.by if isinstance(step.by, list) else [], before.columns))
    if step.by == "scatter" and not before.open_scatters:
        if step.as_rows is None:
            hint = 'put a scatter before it, or use by="root", by="all" or by=[columns]'
            problems.append(Violation(f"step {name!r}", f"closes the nearest scatter, but none is open here; {hint}"))
            return before
        step.by = "root"
    opener = before.open_scatters[-1] if step.by == "scatter" else graph.source_of(name)
    scattered_from = graph.predecessors[opener]
    inside = step.by == "scatter" and scattered_from
    parent = flows[scattered_from[0]] if inside else Flow(flows[opener].columns)
    return Flow(_collected(step, parent.columns, before.columns), parent.open_scatters)


def _collected(step: Aggregate, kept: Sequence[str] | None, available: Columns) -> Columns:
    if kept is None:
        return None
    if step.as_rows is not None:
        return tuple(dict.fromkeys([*kept, step.as_rows]))
    if step.columns is not None:
        return tuple(dict.fromkeys([*kept, *step.columns]))
    return None if available is None else tuple(dict.fromkeys([*kept, *available]))


def _on_error(step: Step) -> Iterator[str]:
    """Why a step's `on_error` has no meaning."""
    if step.on_error != "fail_row" and step.runs not in (Runs.ROW, Runs.THREAD):
        yield f"has on_error={step.on_error!r}, but no row can fail here; leave it out"
    if step.on_error == "null" and step.shape is Shape.FILTER:
        yield "has on_error='null', but a filter writes no column; use 'fail_row' or 'stop'"
