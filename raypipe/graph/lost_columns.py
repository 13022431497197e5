"""Finds columns that would be lost where rows come together: in an aggregate, or where branches meet.

A row that overwrites its own column is the user's word. Here two rows become one, and of two values under one name
only one would be left; so the name has to be told apart, or it has to be said which one is wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from raypipe.contracts.step import Aggregate, Runs, Shape, Step
from raypipe.errors import Violation
from raypipe.graph.branching import Meet, Route
from raypipe.graph.graph import Graph
from raypipe.graph.repeat import CANDIDATE
from raypipe.row import METADATA, MODEL_NAME

_NOTES = frozenset({CANDIDATE, MODEL_NAME, METADATA})
"""Columns that steps write by themselves, about their answers; of two the parent's is kept, or both are merged."""


def lost_columns(graph: Graph) -> Iterator[Violation]:
    """Where a column would be lost, and what to write instead."""
    for name in graph.order:
        step = graph.steps[name]
        if isinstance(step, Aggregate):
            yield from _lost_in_aggregate(graph, name, step)
        elif isinstance(step, Meet):
            yield from _lost_at_meeting(graph, name, step)


def new_in_family(graph: Graph, gather: str) -> dict[str, str]:
    """The columns that are written anew to the members of a family, and the last step that writes each.

    Not those that a step makes of the value that is there, which comes back: items of a list, a text in other letters.
    What a model answers is always new.
    """
    opener = graph.opener(gather)
    step = graph.steps[gather]
    region = graph.between(opener, gather) - {gather}
    if isinstance(step, Aggregate) and step.by == "scatter":
        region |= {opener}
    return {
        column: name
        for column, name in _writings(graph, graph.predecessors[gather], region)
        if graph.steps[name].llm is not None or column not in graph.steps[name].takes() or _is_explicit(graph, name)
    }


def _writings(graph: Graph, lasts: Sequence[str], region: Collection[str]) -> Iterator[tuple[str, str]]:
    """The columns that steps of a region write to rows as they leave it behind `lasts`, and these steps, in order."""
    seen, ahead = set[str](), list(lasts)
    while ahead:
        name = ahead.pop()
        if name in region and name not in seen:
            seen.add(name)
            # Of the members of an inner family only the columns that are named come out of it.
            ahead += graph.predecessors[graph.opener(name) if _is_explicit(graph, name) else name]
    for name in graph.order:
        if name in seen:
            step = graph.steps[name]
            named = step.columns or () if isinstance(step, Aggregate) else step.gives()
            yield from ((column, name) for column in named if column not in _NOTES)


def _is_explicit(graph: Graph, name: str) -> bool:
    """Whether a step is an aggregate that says what it collects."""
    step = graph.steps[name]
    return isinstance(step, Aggregate) and (step.columns is not None or step.as_rows is not None)


def _lost_in_aggregate(graph: Graph, name: str, step: Aggregate) -> Iterator[Violation]:
    if step.is_barrier or step.columns is not None or step.as_rows is not None:
        return
    parent, available = graph.parent_columns(name), graph.flows[graph.predecessors[name][0]].columns
    for column, writer in new_in_family(graph, name).items():
        if parent is not None and column in parent and (available is None or column in available):
            problem = (
                f"brings back rows that have the column {column!r} already, and step {graph.owner(writer)!r} writes "
                f"it to the rows that are brought together: those values would be lost; "
                f"{_renaming(graph, writer, column)}, or bring them together with "
                f"Aggregate(by={step.by!r}, columns=[…]), where {column!r} among the columns puts their list in the "
                f"place of the value that is there"
            )
            yield Violation(f"step {graph.owner(name)!r}", problem)


def _lost_at_meeting(graph: Graph, name: str, step: Meet) -> Iterator[Violation]:
    opener, lasts = graph.opener(name), graph.predecessors[name]
    region = graph.between(opener, name)
    branches = {last: region & (graph.ancestors(last) | {last}) for last in lasts}
    written = {last: dict(_writings(graph, [last], branch)) for last, branch in branches.items()}
    parting = {opener} if isinstance(graph.steps[opener], Route) else frozenset[str]()
    certain: list[str] = []
    for last in lasts:
        filters = [one for one in map(graph.steps.__getitem__, branches[last] | parting) if one.shape is Shape.FILTER]
        # Where rows may take another branch instead, each has one value, and none is lost.
        if all(isinstance(one, Route) and (one.routing.sample or 1) > 1 for one in filters):
            certain.append(last)
    said = set(step.reads())
    for one, other in combinations(certain, 2):
        for column, writer in written[one].items():
            again = written[other].get(column)
            is_lost = again is not None and writer not in branches[other] and graph.steps[writer].llm is not None
            columns = [graph.flows[last].columns for last in (one, other)]
            are_there = all(known is None or column in known for known in columns)
            if is_lost and column not in said and are_there:
                said.add(column)
                yield Violation(f"step {graph.owner(name)!r}", _met(graph, column, writer, again or ""))


def _met(graph: Graph, column: str, writer: str, other: str) -> str:
    one, two = graph.owner(writer), graph.owner(other)
    return (
        f"comes after {one!r} and {two!r}, which both write the column {column!r}: the answers of {one!r} would be "
        f"lost; {_renaming(graph, writer, column)}, or make a list of both with GroupColumns(columns=[{column!r}])"
    )


def _renaming(graph: Graph, writer: str, column: str) -> str:
    step: Step = graph.steps[writer]
    if step.runs in (Runs.TABLE, Runs.GATHER):
        return f"let step {graph.owner(writer)!r} write another column"
    own = next((own for own in step.writes() if step.output_mappings.get(own, own) == column), column)
    return f"give it another name with output_mappings={{{own!r}: '…'}} in step {graph.owner(writer)!r}"
