"""An unsound graph is refused with everything that is wrong with it, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.step import Aggregate, Step
from raypipe.errors import SpecError
from raypipe.graph.compile import build
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import Filter, KeepColumns, LoadDataFromDicts, TextGeneration, step


@step(inputs=["a"], outputs=["child"], scatter=True)
def children(row: Values) -> list[dict[str, Any]]:
    return [{"child": row["a"]}]


@step(outputs=["_path"])
def overwrites(row: Values) -> dict[str, Any]:
    return {"_path": []}


def seed(name: str) -> Step:
    return LoadDataFromDicts([{"a": 1, "b": 2}], name=name)


def keep(name: str, *columns: str) -> Step:
    return KeepColumns(name, columns=list(columns or "a"))


# Each writes one mistake, with names that begin with `p`.


def same_name(p: str) -> None:
    seed(f"{p}seed") >> keep(f"{p}same")
    keep(f"{p}same")


def stranger(p: str) -> None:
    with Pipeline("other"):
        outside = keep(f"{p}outside")
    seed(f"{p}seed") >> outside


def joined_twice(p: str) -> None:
    first, second = seed(f"{p}first"), keep(f"{p}second")
    first >> second
    first >> second


def source_behind(p: str) -> None:
    seed(f"{p}seed") >> seed(f"{p}other")


def without_source(p: str) -> None:
    keep(f"{p}alone")


def two_before(p: str) -> None:
    [seed(f"{p}one"), seed(f"{p}two")] >> keep(f"{p}both")


def cycle(p: str) -> None:
    one, two = keep(f"{p}one"), keep(f"{p}two")
    one >> two >> one


def missing_column(p: str) -> None:
    seed(f"{p}seed") >> Filter(f"{p}good", keep="answer > 1")


def dropped_column(p: str) -> None:
    seed(f"{p}seed") >> keep(f"{p}first", "a") >> keep(f"{p}second", "b")


def missing_key(p: str) -> None:
    seed(f"{p}seed") >> Aggregate(f"{p}groups", by=["kind"])


def reserved_column(p: str) -> None:
    seed(f"{p}seed") >> overwrites(f"{p}overwrites")


def nothing_to_close(p: str) -> None:
    seed(f"{p}seed") >> children(f"{p}children") >> Aggregate(f"{p}one") >> Aggregate(f"{p}two")


def no_model(p: str) -> None:
    seed(f"{p}seed") >> TextGeneration(f"{p}text", template="{{ a }}")


BEFORE_ALL: dict[Callable[[str], None], str] = {
    same_name: "step '{p}same': two steps have this name; rename one",
    stranger: "'{p}outside': is joined here but was made outside this pipeline block",
    joined_twice: "edge '{p}first' >> '{p}second': is written twice; remove one",
}
"""Nothing else can be said of such a graph."""
UNSOUND: dict[Callable[[str], None], str] = {
    source_behind: "step '{p}other': reads its own rows and cannot come after '{p}seed'",
    without_source: "step '{p}alone': has no step before it and is no loader",
    two_before: "step '{p}both': comes after steps with rows of different origin: '{p}one'",
    missing_column: "step '{p}good': requires inputs ['answer'], but only the inputs=['a', 'b'] are "
    "available after '{p}seed', which means that the inputs=['answer'] are missing",
    dropped_column: "step '{p}second': requires inputs ['b'], but only the inputs=['a'] are available "
    "after '{p}first', which means that the inputs=['b'] are missing",
    missing_key: "step '{p}groups': requires inputs ['kind']",
    reserved_column: "step '{p}overwrites': writes column '_path', a name kept for lineage",
    nothing_to_close: "step '{p}two': closes the nearest scatter, but none is open here",
    no_model: "step '{p}text': asks a model but has none",
}


def refused(*writes: Callable[[str], None]) -> SpecError:
    with Pipeline("unsound") as pipeline:
        for write in writes:
            write(f"{write.__name__}.")
    with pytest.raises(SpecError) as caught:
        pipeline.graph()
    return caught.value


@pytest.mark.parametrize("write", BEFORE_ALL | UNSOUND, ids=lambda write: write.__name__)
def test_each_violation_is_said(write: Callable[[str], None]) -> None:
    error = refused(write)
    assert (BEFORE_ALL | UNSOUND)[write].format(p=f"{write.__name__}.") in str(error)
    assert len(error.violations) == 1, str(error)


@pytest.mark.parametrize("writes", [BEFORE_ALL, UNSOUND], ids=["names and edges", "the rest"])
def test_all_violations_come_in_one_error(writes: dict[Callable[[str], None], str]) -> None:
    error = refused(*writes)
    for write, said in writes.items():
        assert said.format(p=f"{write.__name__}.") in str(error)
    assert len(error.violations) == len(writes)


def test_a_cycle_is_named_along_with_the_rest() -> None:
    error = refused(cycle, no_model)
    assert "asks a model but has none" in str(error)
    assert "edges: form a cycle: " in str(error)
    assert " >> ".join(repr(f"cycle.{name}") for name in ("one", "two", "one")) in str(error)


def test_an_empty_pipeline_is_refused() -> None:
    with pytest.raises(SpecError, match="pipeline: has no steps; add a loader"):
        Pipeline("empty").graph()


@given(st.integers(1, 8), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14))
def test_a_random_graph_is_sorted_or_its_cycle_is_named(size: int, pairs: set[tuple[int, int]]) -> None:
    with Pipeline("random"):
        steps = [seed("seed"), *(keep(f"s{number}") for number in range(size))]
    inner = [(1 + a, 1 + b) for a, b in pairs if a < size and b < size]
    ends = [below for _, below in inner]
    edges = inner + [(0, end) for end in range(1, 1 + size) if end not in ends]
    try:
        graph = build(steps, [(steps[above], steps[below]) for above, below in edges])
    except SpecError as caught:
        said = [violation.problem for violation in caught.violations]
        is_named = any("form a cycle" in problem for problem in said)
        assert is_named
    else:
        place = {name: number for number, name in enumerate(graph.order)}
        assert all(place[above] < place[below] for above, below in graph.edges)
        assert sorted(place) == sorted(graph.steps)
        assert {name for name in graph.steps if name.endswith("_meet")} == {
            f"s{end - 1}_meet" for end in ends if ends.count(end) > 1
        }


def test_steps_without_a_name_get_one_of_their_own() -> None:
    with Pipeline("names") as pipeline:
        LoadDataFromDicts([{"a": 1}]) >> KeepColumns("keep_columns_0", columns=["a"]) >> KeepColumns(columns=["a"])
    assert list(pipeline.graph().steps) == ["load_data_from_dicts_0", "keep_columns_0", "keep_columns_1"]


def test_columns_and_open_scatters_are_known_before_any_row() -> None:
    with Pipeline("flows") as pipeline:
        copies = keep("copies", "a", "child").broadcast(2)
        seed("seed") >> children("outer") >> copies >> Aggregate("inner") >> Aggregate("all", by="root")
    flows = pipeline.graph().flows
    assert flows["outer"].columns == ("a", "b", "child")
    assert flows["outer"].open_scatters == ("outer",)
    assert flows["copies"].open_scatters == ("outer", "copies")
    assert flows["inner"].open_scatters == ("outer",)
    assert flows["all"].columns == ("a", "b", "child", "sample")
    assert flows["all"].open_scatters == ()


def test_endings_become_steps_of_their_own() -> None:
    with Pipeline("endings") as pipeline:
        first = seed("seed") >> children("children")
        first >> [keep("by_root", "a").aggregate("root"), keep("by_function", "a").custom(len)]
    graph = pipeline.graph()
    assert graph.edges == (
        ("by_root", "by_root_aggregate"),
        ("by_function", "by_function_rows"),
        ("by_function_rows", "by_function_custom"),
        ("seed", "children"),
        ("children", "by_root"),
        ("children", "by_function"),
    )
    assert graph.leaves == ["by_root_aggregate", "by_function_custom"]
    assert [name for name, above in graph.predecessors.items() if not above] == ["seed"]
