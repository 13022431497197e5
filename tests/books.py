"""Reads what a run left behind and checks that its books balance. Knows nothing of what the rows mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from raypipe.graph.branching import Meet, Route
from raypipe.graph.graph import Graph
from raypipe.pipeline import Pipeline
from raypipe.results import Result, Rows
from raypipe.row import RESERVED

Row = dict[str, Any]


def user_rows(rows: Rows) -> list[Row]:
    """The rows in the order of the files, without lineage."""
    return [{name: value for name, value in row.items() if name not in RESERVED} for row in rows.to_arrow().to_pylist()]


def failed(result: Result, steps: Sequence[str] | None = None) -> list[tuple[str, str, str, Row]]:
    """Step, kind, message and row of each failure, of the given steps or of all."""
    return [
        (row["step"], row["kind"], row["message"], orjson.loads(row["row"]))
        for row in result.failures.to_arrow().to_pylist()
        if steps is None or row["step"] in steps
    ]


def assert_balanced(graph: Graph, result: Result) -> None:
    """Nothing is lost: at every step, along every edge, at every leaf, in the failures."""
    steps = result.manifest["steps"]
    assert set(steps) == set(graph.as_shown.steps)
    for name, counts in steps.items():
        assert counts["rows_in"] == counts["rows_done"] + counts["rows_failed"] + counts["rows_filtered"], name
    for name, above in graph.as_shown.predecessors.items():
        if above and not any(isinstance(graph.steps[one], Route) for one in above):
            assert _came(graph, name, [steps[one]["rows_out"] for one in above], steps[name]), name
    for leaf in graph.leaves:
        assert len(result[leaf]) == steps[leaf]["rows_out"] == result.manifest["leaves"][leaf]["rows"], leaf
    assert len(result.failures) == sum(counts["rows_failed"] for counts in steps.values()) == result.failed_rows


def balanced_run(pipeline: Pipeline, out: Path, **options: Any) -> Result:
    """Run in this process, and check the books."""
    result = pipeline.run(out, **({"engine": "local", "max_failed_rows": 1000} | options))
    assert_balanced(pipeline.graph(), result)
    return result


def _came(graph: Graph, name: str, came: Sequence[int], counts: Row) -> bool:
    """Whether all rows that left the steps above came to a step; branches of one row are one row where they met."""
    put_in = [graph.steps[part] for part in graph.parts[name][:-1]]
    if any(isinstance(step, Meet) for step in put_in):
        return max(came) <= counts["rows_in"] <= sum(came)
    # A family without rows is one failure when the function that is given it fails.
    return sum(came) <= counts["rows_in"] <= sum(came) + (counts["rows_failed"] if put_in else 0)


def assert_in_source_order(rows: Rows) -> None:
    """Files read in the order of their names give rows by position, then by path."""
    table = rows.to_arrow().select(["_position", "_path"]).to_pylist()
    places = [(row["_position"], row["_path"]) for row in table]
    assert places == sorted(places)
