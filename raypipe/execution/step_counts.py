"""Adds up what was counted under the names of the steps that a user sees.

What was put in before a step is part of it: rows that its `when` lets go are filtered there, rows that fail on the way
into it have failed there.
"""

from __future__ import annotations

from collections.abc import Mapping

from raypipe.execution.counts import StepCounts
from raypipe.graph.callback import Collected
from raypipe.graph.graph import Graph

_LOST = ("rows_failed", "rows_filtered", "rows_unfinished")


def sum_by_shown_step(
    graph: Graph, counted: Mapping[str, StepCounts], *, is_over: bool = False
) -> dict[str, StepCounts]:
    """Counts by step as shown; rows_in = rows_done + rows_failed + rows_filtered + rows_unfinished in each.

    `is_over`: no row moves any more, so those that were collected for a step and that it was not given are unfinished.
    """
    return {name: _of_step(graph, parts, counted, is_over) for name, parts in graph.parts.items()}


def _of_step(graph: Graph, parts: list[str], counted: Mapping[str, StepCounts], is_over: bool) -> StepCounts:
    *before, name = parts
    made = StepCounts()
    made.add(counted[name])
    for one in before:
        for lost in _LOST:
            count = getattr(counted[one], lost)
            setattr(made, lost, getattr(made, lost) + count)
            made.rows_in += count
        if is_over and isinstance(graph.steps[one], Collected):
            left = max(0, counted[one].rows_in - counted[name].rows_in)
            made.rows_unfinished += left
            made.rows_in += left
    return made
