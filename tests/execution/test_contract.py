"""Both engines give the same rows, the same failures and books that balance.

On `local` each scenario runs alone; on Ray all of them run as one graph, which must change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.step import Step
from raypipe.errors import RaypipeError
from raypipe.execution.context import RunOptions
from raypipe.graph.graph import Graph
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.books import assert_balanced, assert_in_source_order, failed, user_rows
from tests.execution.scenarios import SCENARIOS, Expected

Run = tuple[Graph, Result]


@dataclass
class Runs:
    """Runs of scenarios, made when they are first asked for."""

    folder: Path
    made: dict[str, Run | Exception] = field(default_factory=dict[str, Any])

    def of(self, engine: Any, name: str) -> Run:
        key = "all of them" if engine == "ray" else name
        if key not in self.made:
            try:
                self.made[key] = run(list(SCENARIOS) if engine == "ray" else [name], engine, self.folder / key)
            except RaypipeError as error:
                self.made[key] = error
        made = self.made[key]
        if isinstance(made, Exception):
            raise made
        return made


def run(names: Sequence[str], engine: Any, out: Path) -> Run:
    """One run of these scenarios; each source is read once."""
    lost = 0
    with Pipeline("contract") as pipeline:
        sources: dict[Any, Step] = {}
        for name in names:
            source, add = SCENARIOS[name]
            if source not in sources:
                sources[source] = source()
            lost += len(add(sources[source]).failures)
    return pipeline.graph(), pipeline.run_with(RunOptions(out, engine=engine, max_failed_rows=lost))


def expected_of(name: str) -> Expected:
    source, add = SCENARIOS[name]
    with Pipeline(name):
        return add(source())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("contract"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rows_are_right(engine: str, name: str, runs: Runs) -> None:
    _, result = runs.of(engine, name)
    for leaf, rows in expected_of(name).leaves.items():
        assert user_rows(result[leaf]) == rows
        assert_in_source_order(result[leaf])


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_failures_are_right(engine: str, name: str, runs: Runs) -> None:
    _, result = runs.of(engine, name)
    steps = {step for step, *_ in expected_of(name).failures} or {name}
    found = [(step, kind, row["id"]) for step, kind, _, row in failed(result) if step in steps]
    assert sorted(found) == sorted((step, kind, number) for step, kind, _, number in expected_of(name).failures)
    for _, _, message, _ in failed(result):
        assert "ValueError: one is not allowed (scenarios.py:" in message
    assert result.exit_code == 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_books_balance(engine: str, name: str, runs: Runs) -> None:
    assert_balanced(*runs.of(engine, name))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", SCENARIOS)
def test_ray_gives_what_local_gives(name: str, runs: Runs) -> None:
    graph, local = runs.of("local", name)
    _, on_ray = runs.of("ray", name)
    for leaf in graph.leaves:
        ours, theirs = local[leaf].to_arrow(), on_ray[leaf].to_arrow()
        assert theirs.schema.equals(ours.schema)
        assert theirs.to_pylist() == ours.to_pylist()
    mine = [row for row in on_ray.failures.to_arrow().to_pylist() if row["step"] in graph.steps]
    assert sorted(mine, key=repr) == sorted(local.failures.to_arrow().to_pylist(), key=repr)
    for step, counts in local.manifest["steps"].items():
        assert on_ray.manifest["steps"][step] == counts


def test_equal_rows_of_a_source_stay_separate_rows(engine: str, runs: Runs) -> None:
    _, result = runs.of(engine, "map_one")
    ids = result["map_one"].to_arrow().column("_row_id").to_pylist()
    assert len(ids) == len(set(ids)) == 14


def test_steps_with_an_equal_model_share_one_pool(engine: str, runs: Runs) -> None:
    _, result = runs.of(engine, "one_pool")
    steps, models = result.manifest["steps"], result.manifest["models"]
    assert len(models) == (2 if engine == "ray" else 1)
    assert sum(model["calls_sent"] for model in models.values()) == sum(each["calls_sent"] for each in steps.values())
    assert steps["one_pool.one"]["calls_sent"] == steps["one_pool.two"]["calls_sent"] == 14


def test_every_child_has_an_identity_of_its_own(engine: str, runs: Runs) -> None:
    _, result = runs.of(engine, "broadcast_of_many")
    table = result["broadcast_of_many"].to_arrow()
    assert len(set(table.column("_row_id").to_pylist())) == table.num_rows == 84


def test_a_filter_that_drops_everything_leaves_a_dataset_with_its_columns(engine: str, runs: Runs) -> None:
    _, result = runs.of(engine, "filter_all")
    schema = result["filter_all.after"].to_arrow().schema
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert kinds == {
        "id": "int64",
        "kind": "string",
        "n": "int64",
        "note": "string",
        "child": "int64",
        "good": "int64",
        "_row_id": "string",
        "_parent_id": "string",
        "_source_id": "string",
        "_position": "int64",
        "_path": "list<element: int32>",
    }


def test_a_run_with_failed_rows_ends_with_3(tmp_path: Path) -> None:
    with Pipeline("strict") as pipeline:
        source, add = SCENARIOS["failing_rows"]
        add(source())
    assert pipeline.run(tmp_path / "out", engine="local").exit_code == 3
