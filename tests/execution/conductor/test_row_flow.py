"""Rows find their way without any worker: on, back together, to failures, and counted at every step."""

from __future__ import annotations

from typing import Any

import pytest

from raypipe.pipeline import Pipeline, sample_n_steps
from raypipe.row import ROUTE, ROW_ID, Failure, Values
from raypipe.steps import Aggregate, Filter, KeepColumns, LoadDataFromDicts, step
from raypipe.values.byte_bounds import Bounds
from tests.execution.conductor.flow import FILTERED, UNFINISHED, Flow, rows_at


@step(inputs=["n"], outputs=["items"])
async def listed(row: Values) -> dict[str, Any]:
    raise NotImplementedError


@step(inputs=["n"], outputs=["seen"])
async def looked(row: Values) -> dict[str, Any]:
    raise NotImplementedError


@step(inputs=["items"], outputs=["judged"])
async def judged(row: Values) -> dict[str, Any]:
    raise NotImplementedError


def seed(rows: int = 3) -> LoadDataFromDicts:
    return LoadDataFromDicts([{"n": number} for number in range(rows)], name="seed")


def look(name: str, row: dict[str, Any]) -> Any:
    return [{"seen": f"{name} {row['n']}"}]


def test_rows_go_from_step_to_step_and_end_at_the_leaf() -> None:
    with Pipeline("line") as pipeline:
        seed() >> looked("first") >> looked("second", output_mappings={"seen": "again"})
    flow = Flow(pipeline)
    flow.enter()
    assert flow.exchange(look) == ["first"]
    assert flow.take() == []
    assert flow.exchange(look) == ["second"]
    [batch] = flow.take()
    assert sorted(row["n"] for row in rows_at(batch, "second")) == [0, 1, 2]
    assert {row["again"] for row in rows_at(batch, "second")} == {"second 0", "second 1", "second 2"}
    counts = flow.ledger.totals["first"]
    assert (counts.rows_in, counts.rows_done, counts.rows_out, counts.calls_sent) == (3, 3, 3, 3)


def test_a_fan_out_gives_every_row_to_every_branch() -> None:
    with Pipeline("fork") as pipeline:
        seed() >> [looked("left"), looked("right"), KeepColumns("kept", columns=["n"])]
    flow = Flow(pipeline)
    flow.enter()
    [batch] = flow.finish(look)
    for leaf in ("left", "right", "kept"):
        assert sorted(row["n"] for row in rows_at(batch, leaf)) == [0, 1, 2]


def route(name: str, row: dict[str, Any]) -> Any:
    return [{ROUTE: ["left" if row[ROW_ID][0] % 2 else "right"]}] if name == "seed_route" else look(name, row)


def test_a_route_gives_a_row_to_the_branches_that_were_chosen_for_it() -> None:
    with Pipeline("routed") as pipeline:
        seed(40) >> sample_n_steps(1) >> [looked("left"), looked("right")]
    flow = Flow(pipeline)
    flow.enter()
    [batch] = flow.finish(route)
    left, right = ([row["n"] for row in rows_at(batch, leaf)] for leaf in ("left", "right"))
    assert sorted(left + right) == list(range(40))
    assert left and right


def scattered(then: Any = None) -> Flow:
    with Pipeline("scattered") as pipeline:
        scatter = seed() >> listed("listed").scatter()
        last = scatter >> judged("judged") if then is None else scatter >> then() >> judged("judged")
        last >> Aggregate("met", columns=["judged"])
    return Flow(pipeline)


def scatter(name: str, row: dict[str, Any]) -> Any:
    if name == "listed":
        return [{"items": number} for number in range(row["n"])]
    return [{"judged": 10 * row["items"]}]


def test_what_a_row_became_comes_back_to_it_in_order() -> None:
    flow = scattered()
    flow.enter()
    [batch] = flow.finish(scatter)
    assert {row["n"]: row["judged"] for row in rows_at(batch, "met")} == {0: [], 1: [0], 2: [0, 10]}
    counts = flow.ledger.totals
    assert (counts["listed"].rows_out, counts["judged"].rows_in, counts["met"].rows_out) == (3, 3, 3)


def test_a_filtered_row_is_missing_from_its_family_only() -> None:
    flow = scattered(then=lambda: Filter("large", keep="items > 0"))
    flow.enter()
    [batch] = flow.finish(lambda name, row: FILTERED if name == "large" and row["items"] == 0 else drop(name, row))
    assert {row["n"]: row["judged"] for row in rows_at(batch, "met")} == {0: [], 1: [], 2: [10]}
    assert flow.ledger.totals["large"].rows_filtered == 2


def drop(name: str, row: dict[str, Any]) -> Any:
    return [{}] if name == "large" else scatter(name, row)


def test_a_row_that_fails_is_a_failure_and_its_family_goes_on() -> None:
    flow = scattered()
    flow.enter()
    failure = Failure("broken", "it does not fit")
    [batch] = flow.finish(lambda name, row: failure if name == "judged" and row["items"] == 1 else scatter(name, row))
    assert {row["n"]: row["judged"] for row in rows_at(batch, "met")} == {0: [], 1: [0], 2: [0]}
    assert [(row["step"], row["kind"], row["message"]) for row in batch.failed] == [
        ("judged", "broken", "it does not fit")
    ]
    assert flow.ledger.totals["judged"].rows_failed == 1


def test_a_row_left_unfinished_takes_its_family_along_and_nothing_else() -> None:
    flow = scattered()
    flow.enter()
    [batch] = flow.finish(
        lambda name, row: UNFINISHED if name == "judged" and row["items"] == 1 else scatter(name, row)
    )
    assert {row["n"]: row["judged"] for row in rows_at(batch, "met")} == {0: [], 1: [0]}
    assert batch.failed == []
    assert flow.ledger.totals["judged"].rows_unfinished == 1


def test_a_batch_is_through_when_its_own_rows_are() -> None:
    with Pipeline("two") as pipeline:
        seed(1) >> looked("first")
    flow = Flow(pipeline)
    [one], [other] = flow.enter(), flow.enter()
    assert {batch.number for batch in flow.finish(look)} == {one, other}
    [third] = flow.enter()
    assert [batch.number for batch in flow.finish(look)] == [third]


def test_rows_for_a_step_that_is_not_loaded_are_spilled_with_their_batch_and_resumed() -> None:
    with Pipeline("phases") as pipeline:
        seed() >> looked("first") >> looked("second", output_mappings={"seen": "again"})
    flow = Flow(pipeline, loaded=frozenset({"first"}))
    flow.enter()
    [spilled] = flow.finish(look)
    assert spilled.held["second"].num_rows == 3
    later = Flow(pipeline, loaded=frozenset({"second"}))
    later.router.resume(spilled)
    [batch] = later.finish(look)
    assert sorted(row["n"] for row in rows_at(batch, "second")) == [0, 1, 2]


def test_no_batch_comes_in_while_too_many_bytes_are_on_their_way() -> None:
    with Pipeline("full") as pipeline:
        LoadDataFromDicts([{"n": 1, "text": "x" * 10_000}], name="seed") >> looked("first")
    flow = Flow(pipeline, bounds=Bounds(batch_bytes=2_000))
    [first] = flow.enter()
    flow.finish(look)
    assert not flow.router.is_full
    flow.enter()
    flow.finish(look)
    assert flow.router.is_full, "neither is written yet"
    flow.ledger.close(first)
    assert not flow.router.is_full


def test_a_row_that_its_worker_cannot_end_is_failed_from_outside() -> None:
    with Pipeline("lost") as pipeline:
        seed(1) >> looked("first")
    flow = Flow(pipeline)
    flow.enter()
    flow.window.fill()
    [(name, rows)] = flow.window.take_back()
    flow.router.fail(name, rows, Failure("worker_lost", "its worker is gone"))
    [batch] = flow.take()
    assert [(row["step"], row["kind"]) for row in batch.failed] == [("first", "worker_lost")]


@pytest.mark.parametrize("rows", [1, 7])
def test_nothing_is_counted_twice(rows: int) -> None:
    with Pipeline("counted") as pipeline:
        seed(rows) >> looked("first") >> looked("second", output_mappings={"seen": "again"})
    flow = Flow(pipeline)
    flow.enter()
    flow.finish(look)
    for name in ("seed", "first", "second"):
        counts = flow.ledger.totals[name]
        assert (counts.rows_in, counts.rows_done, counts.rows_out) == (rows, rows, rows)
