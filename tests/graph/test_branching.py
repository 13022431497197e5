"""Rows part and meet: fan-out, fan-in, routing, conditions, mappings, grouped columns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.graph.branching import Routing
from raypipe.pipeline import Pipeline, routing_batch_function, routing_function, sample_n_steps
from raypipe.results import Result
from raypipe.steps import Aggregate, CombineOutputs, GroupColumns, KeepColumns, LoadDataFromDicts, TextGeneration, step
from tests.books import Row, assert_balanced, failed, user_rows
from tests.loopback import serve

ROWS: list[Row] = [{"n": number} for number in range(40)]


@step(inputs=["n"], outputs=["a"])
def one(row: Any) -> Any:
    return {"a": row["n"]}


@step(inputs=["n"], outputs=["a"])
def other(row: Any) -> Any:
    if row["n"] == 3:
        raise ValueError("three")
    return {"a": -row["n"]}


@step(inputs=["n"], outputs=["child"], scatter=True)
def children(row: Any) -> Any:
    return [{"child": child} for child in range(row["n"] % 3)]


def seed(rows: list[Row] | None = None) -> LoadDataFromDicts:
    return LoadDataFromDicts(ROWS if rows is None else rows, name="seed")


def grouped() -> GroupColumns:
    return GroupColumns("met", columns=["a"], output_columns=["found"])


def run(pipeline: Pipeline, tmp_path: Path, **options: Any) -> Result:
    result = pipeline.run(tmp_path / "out", engine="local", max_failed_rows=100, **options)
    return result


def test_a_branch_that_lost_the_row_leaves_its_slot_empty(tmp_path: Path) -> None:
    with Pipeline("slots") as pipeline:
        seed() >> [one("one"), other("other", when="n < 10")] >> grouped()
    result = run(pipeline, tmp_path)
    wanted = [{"n": n, "found": [n, -n] if n < 10 and n != 3 else [n]} for n in range(40)]
    assert user_rows(result["met"]) == wanted
    assert [row for _, _, _, row in failed(result)] == [{"n": 3}]
    assert result.manifest["steps"]["other"]["rows_filtered"] == 30
    assert_balanced(pipeline.graph(), result)


def test_a_row_that_no_branch_has_is_gone(tmp_path: Path) -> None:
    with Pipeline("gone") as pipeline:
        seed() >> [one("one", when="n > 35"), other("other", when="n > 37")] >> CombineOutputs("met")
    result = run(pipeline, tmp_path)
    assert [row["a"] for row in user_rows(result["met"])] == [36, 37, -38, -39]


def test_a_branch_may_scatter_when_it_aggregates(tmp_path: Path) -> None:
    with Pipeline("families") as pipeline:
        start, kids, family = seed(), children("children"), Aggregate("family")
        start >> [one("one"), kids]
        kids >> family
        [pipeline.steps[3], family] >> CombineOutputs("met")
    result = run(pipeline, tmp_path)
    assert user_rows(result["met"]) == [{"n": n, "a": n, "child": list(range(n % 3))} for n in range(40)]


def test_every_leaf_is_a_subset_also_one_off_the_middle(tmp_path: Path) -> None:
    with Pipeline("leaves") as pipeline:
        middle = one("one")
        seed() >> middle >> [KeepColumns("left", columns=["a"]), KeepColumns("right", columns=["n"])]
    result = run(pipeline, tmp_path)
    assert {leaf: len(result[leaf]) for leaf in result} == {"left": 40, "right": 40}
    assert result.manifest["steps"]["one"]["rows_in"] == 40


@routing_batch_function
def bare(steps: list[str]) -> list[str]:
    return random.sample(steps, 1)


@routing_batch_function()
def called(steps: list[str]) -> list[str]:
    return random.sample(steps, 1)


@pytest.mark.parametrize("routing", [bare, called, sample_n_steps(1)], ids=["bare", "called", "sample_n_steps"])
def test_a_row_is_routed_alike_in_every_run(tmp_path: Path, routing: Any) -> None:
    ways: list[list[int]] = []
    state = random.getstate()
    for attempt in range(2):
        with Pipeline("routed") as pipeline:
            tasks = [one("one"), other("other")]
            seed(ROWS[4:]) >> routing >> tasks >> grouped()
        rows = user_rows(run(pipeline, tmp_path / str(attempt))["met"])
        ways.append([row["found"][0] for row in rows])
        assert all(len(row["found"]) == 1 for row in rows)
    assert ways[0] == ways[1]
    assert 0 < sum(value > 0 for value in ways[0]) < 36
    assert random.getstate() == state


def test_one_more_row_changes_no_other_rows_way(tmp_path: Path) -> None:
    ways: list[list[Any]] = []
    for rows in (ROWS[4:], [{"n": 100}, *ROWS[4:]]):
        with Pipeline("routed") as pipeline:
            seed(rows) >> sample_n_steps(1, seed=3) >> [one("one"), other("other")] >> grouped()
        ways.append([row for row in user_rows(run(pipeline, tmp_path / str(len(rows)))["met"]) if row["n"] < 100])
    assert ways[0] == ways[1]


def test_a_row_is_routed_by_what_it_holds(tmp_path: Path) -> None:
    @routing_function
    def by_parity(row: Any, steps: list[str]) -> Any:
        return "even" if row["n"] % 2 == 0 else [] if row["n"] == 1 else "odd"

    with Pipeline("routed") as pipeline:
        seed(ROWS[:6]) >> by_parity >> [one("even"), other("odd")]
    result = run(pipeline, tmp_path)
    assert [row["n"] for row in user_rows(result["even"])] == [0, 2, 4]
    assert [row["n"] for row in user_rows(result["odd"])] == [5]


def test_a_routing_to_a_step_that_is_not_there_fails_the_row(tmp_path: Path) -> None:
    @routing_function
    def wrong(row: Any, steps: list[str]) -> Any:
        return "nowhere"

    with Pipeline("routed") as pipeline:
        seed(ROWS[:1]) >> wrong >> [one("even"), other("odd")]
    [(where, kind, message, _)] = failed(run(pipeline, tmp_path))
    assert (where, kind) == ("seed_route", "routing")
    assert message == "the routing function chose 'nowhere'; it may choose among 'even', 'odd'"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda: seed() >> sample_n_steps(3) >> [one("one"), other("other")], "samples 3 of 2 steps"),
        (lambda: seed() >> sample_n_steps(1) >> one("one"), r"write >> \[one, other\]"),
        (lambda: sample_n_steps(1) >> [one("one")], "has no step before it; put one"),
        (lambda: seed() >> [one("one"), children("kids")] >> CombineOutputs("met"), "different open scatters"),
        (lambda: seed() >> [one("one")] >> grouped() >> KeepColumns(columns=["a"]), r"requires inputs \['a'\]"),
    ],
    ids=["too many", "no list", "no upstream", "open scatter", "grouped column"],
)
def test_what_cannot_be_routed_or_met_is_said(write: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        _graph_of(write)


def _graph_of(write: Any) -> None:
    with Pipeline("unsound") as pipeline:
        write()
    pipeline.graph()


def test_mappings_rename_on_the_way_in_and_out(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "instruction": "keep me"}]
    with serve() as server, Pipeline("mapped") as pipeline:
        from raypipe.models import LLM

        asking = TextGeneration(
            "asking",
            llm=LLM("vllm-server/m", base_url=server.base_url),
            input_mappings={"instruction": "prompt"},
            output_mappings={"generation": "response"},
        )
        LoadDataFromDicts(rows, output_mappings={"prompt": "prompt"}) >> asking
        result = run(pipeline, tmp_path)
        assert server.requests[0].body["messages"][0]["content"] == "hi"
    [row] = user_rows(result["asking"])
    assert row == {"prompt": "hi", "instruction": "keep me", "response": row["response"]}


@pytest.mark.parametrize(
    ("mappings", "said"),
    [
        ({"input_mappings": {"m": "n"}}, "has input_mappings for 'm', but its inputs are: 'n'"),
        ({"output_mappings": {"b": "c"}}, "has output_mappings for 'b', but its outputs are: 'a'"),
        ({"input_mappings": {"n": "gone"}}, r"requires inputs \['gone'\]"),
    ],
    ids=["input", "output", "missing"],
)
def test_a_mapping_of_what_is_not_there_is_refused(mappings: Any, said: str) -> None:
    with Pipeline("unsound") as pipeline:
        seed() >> one("one", **mappings)
    with pytest.raises(SpecError, match=said):
        pipeline.graph()


def test_a_column_removed_on_the_way_is_missing_and_the_message_says_how_to_mend_it() -> None:
    with Pipeline("unsound") as pipeline:
        LoadDataFromDicts([{"prompt": "x", "n": 1}]) >> KeepColumns("kept", columns=["prompt"]) >> one("one")
    with pytest.raises(SpecError) as caught:
        pipeline.graph()
    assert str(caught.value) == (
        "step 'one': requires inputs ['n'], but only the inputs=['prompt'] are available after 'kept', which means "
        "that the inputs=['n'] are missing; add the step that writes them or map a column with "
        "input_mappings={'n': 'prompt'}"
    )


def test_columns_are_grouped_under_a_name_of_their_own_by_default(tmp_path: Path) -> None:
    with Pipeline("grouped") as pipeline:
        seed(ROWS[:1]) >> [one("one"), other("other")] >> GroupColumns("met", columns="a")
    assert user_rows(run(pipeline, tmp_path)["met"]) == [{"n": 0, "grouped_a": [0, 0]}]
    with pytest.raises(SpecError, match="output_columns names 2 columns for 1"):
        GroupColumns(columns=["a"], output_columns=["b", "c"])


def test_a_row_that_is_routed_nowhere_is_counted_and_no_choice_is_a_failure(tmp_path: Path) -> None:
    @routing_function
    def some(row: Any, steps: list[str]) -> Any:
        return [] if row["n"] == 0 else steps[:1] if row["n"] == 1 else None

    with Pipeline("routed") as pipeline:
        seed(ROWS[:4]) >> some >> [one("one"), other("other")]
    result = run(pipeline, tmp_path)
    counts = result.manifest["steps"]["seed_route"]
    assert (counts["rows_out"], counts["rows_filtered"], counts["rows_failed"]) == (1, 1, 2)


def test_a_step_with_the_name_of_one_put_in_by_itself_is_refused() -> None:
    with Pipeline("names") as pipeline:
        met = KeepColumns("met", columns=["a"])
        seed() >> [one("one"), other("met_meet")] >> met
    with pytest.raises(SpecError, match="step 'met_meet': has the name of a step put in by itself; rename it"):
        pipeline.graph()


def test_a_route_in_a_file_needs_its_edges() -> None:
    with Pipeline("routed") as pipeline:
        start, first, second = seed(), one("one"), other("other")
        start >> sample_n_steps(1) >> [first, second]
        pipeline._collected.edges.pop()
    with pytest.raises(SpecError, match="chooses 'other', which does not come after it"):
        pipeline.graph()


def test_a_value_that_is_not_a_number_is_not_changed_by_a_branch_that_leaves_it(tmp_path: Path) -> None:
    @step
    def left(row: Any) -> Any:
        return {"n": row["n"]}

    @step(outputs={"n": float})
    def mended(row: Any) -> Any:
        return {"n": 5.0}

    with Pipeline("nan") as pipeline:
        seed([{"n": float("nan")}]) >> [mended("mended"), left("left")] >> CombineOutputs("met")
    assert user_rows(run(pipeline, tmp_path)["met"]) == [{"n": 5.0}]


@pytest.mark.parametrize("options", [{}, {"function": "a:b", "sample": 1}], ids=["neither", "both"])
def test_a_routing_says_how_it_chooses(options: Any) -> None:
    with pytest.raises(SpecError, match="either a function or a sample"):
        Routing(**options)
