"""Any graph of steps gives what a few lines of plain Python say, on both engines."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.step import Aggregate, Step
from raypipe.graph.branching import routing_function
from raypipe.pipeline import Pipeline
from raypipe.plan.load_groups import SEQUENTIAL
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts
from tests.books import Row, assert_balanced, assert_in_source_order, user_rows
from tests.execution.test_random_pipelines import Awaited, Threaded, outputs_of, source_rows

KINDS = ("map", "map", "scatter", "copy", "filter", "fail", "gather", "when")
Key = tuple[tuple[str, int], ...]
"""A row's place: its source row, then its number in each scatter."""


@dataclass(frozen=True)
class Node:
    """One step; `salt` decides what it does to which row, `after` are the numbers of the steps before it."""

    name: str
    kind: str
    salt: int
    after: tuple[str, ...]
    depth: tuple[str, ...]
    """Scatters that are open behind it."""
    is_routed: bool


def graph_of(choices: Sequence[tuple[str, int, int, int, bool]]) -> list[Node]:
    """A sound graph: branches that meet have the same scatters open, and only an open scatter is closed."""
    nodes = [Node("seed", "map", 0, (), (), False)]
    for number, (kind, salt, first, bits, is_routed) in enumerate(choices):
        base = nodes[first % len(nodes)]
        alike = [node for node in nodes if node.depth == base.depth]
        after = [node.name for at, node in enumerate(alike) if node is base or bits >> at & 1][:4]
        depth, name = base.depth, f"n{number}"
        if kind == "gather":
            kind, depth = ("gather", depth[:-1]) if depth else ("map", depth)
        elif kind in ("scatter", "copy"):
            depth = (*depth, name)
        nodes.append(Node(name, kind, salt, tuple(after), depth, is_routed))
    return nodes


def chosen(salt: int) -> Callable[[Any, list[str]], list[str]]:
    return lambda row, steps: [step for step in steps if (row["x"] + salt + int(step[1:])) % 3]


def step_of(node: Node) -> Step:
    if node.kind == "gather":
        return Aggregate(node.name)
    kind = "map" if node.kind == "when" else node.kind
    when = f"(x + {node.salt}) % 2 == 0" if node.kind == "when" else None
    made = (Awaited if node.salt % 2 else Threaded)(
        node.name, kind=kind, salt=node.salt, column=f"s_{node.name}", when=when
    )
    return made.broadcast(2) if kind == "copy" else made


def pipeline_of(nodes: Sequence[Node], rows: list[Row]) -> Pipeline:
    with Pipeline("random") as pipeline:
        steps = {node.name: step_of(node) if node.after else LoadDataFromDicts(rows, name="seed") for node in nodes}
        for node in nodes:
            targets = [steps[other.name] for other in nodes if node.name in other.after]
            if targets and node.is_routed:
                steps[node.name] >> routing_function(chosen(node.salt)) >> targets
            else:
                steps[node.name] >> targets
    return pipeline


def reference(nodes: Sequence[Node], rows: Sequence[Row]) -> dict[str, dict[Key, Row]]:
    """The rows that leave each step, by their places: one step after the other, over plain dicts."""
    known = {node.name: node for node in nodes}
    targets = {node.name: [other.name for other in nodes if node.name in other.after] for node in nodes}
    dominators = {"seed": {"seed"}}
    came: dict[str, dict[Key, Row]] = {}
    left: dict[str, dict[Key, Row]] = {"seed": {(("", at),): dict(row) for at, row in enumerate(rows)}}
    columns = {"seed": ["id", "x"]}
    before = {"seed": ["id", "x"]}
    for node in nodes[1:]:
        dominators[node.name] = {node.name} | set.intersection(*(dominators[one] for one in node.after))
        branches = [
            {
                key: row
                for key, row in left[one].items()
                if not known[one].is_routed or node.name in chosen(known[one].salt)(row, targets[one])
            }
            for one in node.after
        ]
        before[node.name] = list(dict.fromkeys(name for one in node.after for name in columns[one]))
        depth = known[node.after[0]].depth
        parting = [n.name for n in nodes if n.name in dominators[node.name] - {node.name} and n.depth == depth][-1]
        came[node.name] = {
            key: met([branch[key] for branch in branches if key in branch], parent)
            for key, parent in left[parting].items()
            if any(key in branch for branch in branches)
        }
        opener = depth[-1] if node.kind == "gather" else ""
        left[node.name], columns[node.name] = worked(node, opener, came, before)
    return left


def met(branches: Sequence[Row], parent: Row) -> Row:
    """Every value that a branch changed, the last branch's first; the others as they were."""
    made = {name: parent[name] for name in parent if any(name in branch for branch in branches)}
    for branch in branches:
        made |= {name: value for name, value in branch.items() if name not in parent or value != parent[name]}
    return made


def worked(
    node: Node, opener: str, came: dict[str, dict[Key, Row]], before: dict[str, list[str]]
) -> tuple[dict[Key, Row], list[str]]:
    """The rows that leave a step, and their columns."""
    here, known = came[node.name], before[node.name]
    if node.kind == "gather":
        added = [name for name in known if name not in before[opener]]
        families = {key: [row for inner, row in sorted(here.items()) if inner[:-1] == key] for key in came[opener]}
        return {
            key: came[opener][key] | {name: [row.get(name) for row in rows] for name in added}
            for key, rows in families.items()
        }, [*before[opener], *added]
    made: dict[Key, Row] = {}
    for key, row in here.items():
        if node.kind == "when" and (row["x"] + node.salt) % 2:
            continue
        kind = "map" if node.kind == "when" else node.kind
        for child, x in enumerate(outputs_of(kind, node.salt, row["x"]) or []):
            is_opened = kind in ("scatter", "copy")
            sample = {"sample": child} if kind == "copy" else {}
            made[(*key, (node.name, child)) if is_opened else key] = {**row, "x": x, f"s_{node.name}": x, **sample}
    return made, [*known, f"s_{node.name}", *(["sample"] if node.kind == "copy" else [])]


def without_nulls(rows: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def assert_as_the_reference_says(result: Result, nodes: Sequence[Node], rows: list[Row]) -> None:
    left = reference(nodes, rows)
    for leaf in result:
        wanted = [row for _, row in sorted(left[leaf].items(), key=lambda item: [number for _, number in item[0]])]
        assert without_nulls(user_rows(result[leaf])) == without_nulls(wanted), leaf
        assert_in_source_order(result[leaf])


def groups_of(nodes: Sequence[Node], said: str | None) -> Any:
    """Load groups with the names that a user knows; what is put in for a step is loaded with it."""
    names, half = [node.name for node in nodes], len(nodes) // 2
    return {"all": [names], "halves": [names[:half], names[half:]]}.get(said or "", said)


CHOICES = st.tuples(st.sampled_from(KINDS), st.integers(0, 11), st.integers(0, 11), st.integers(0, 255), st.booleans())


@settings(max_examples=40)
@given(
    choices=st.lists(CHOICES, min_size=1, max_size=12),
    count=st.sampled_from([1, 2, 9, 30]),
    groups=st.sampled_from([None, SEQUENTIAL, "all", "halves"]),
)
def test_a_random_graph_on_local(
    tmp_path_factory: pytest.TempPathFactory, choices: list[Any], count: int, groups: str | None
) -> None:
    nodes, rows = graph_of(choices), source_rows(count)
    pipeline = pipeline_of(nodes, rows)
    load_groups = groups_of(nodes, groups)
    result = pipeline.run(
        tmp_path_factory.mktemp("random") / "out", engine="local", load_groups=load_groups, max_failure_rate=None
    )
    assert_as_the_reference_says(result, nodes, rows)
    assert_balanced(pipeline.graph(), result)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("seed", "steps", "groups"),
    [(0, 12, None), pytest.param(1, 12, None, marks=pytest.mark.full), (7, 6, SEQUENTIAL), (3, 8, "halves")],
)
def test_random_graphs_on_ray(tmp_path: Path, seed: int, steps: int, groups: str | None) -> None:
    """Step by step, a group costs seconds: there, few steps with a meeting, a scatter, failures and an aggregate."""
    rng, rows = random.Random(seed), source_rows(1100)
    choices = [
        (rng.choice(KINDS), rng.randrange(12), rng.randrange(12), rng.randrange(256), rng.random() < 0.3)
        for _ in range(steps)
    ]
    nodes = graph_of(choices)
    pipeline = pipeline_of(nodes, rows)
    result = pipeline.run(
        tmp_path / "out", max_failed_rows=2**40, max_failure_rate=None, load_groups=groups_of(nodes, groups)
    )
    assert_as_the_reference_says(result, nodes, rows)
    assert_balanced(pipeline.graph(), result)
