"""Counts are by step and by kind, over the first rows and over the last."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from raypipe.execution.conductor.failure_rates import FailureRates
from raypipe.execution.wire import DONE, ENDED, FAILED, FILTERED, UNFINISHED

Row = tuple[int, str | None]
GOOD, FILTER, LEFT = (DONE, None), (FILTERED, None), (UNFINISHED, None)


def bad(kind: str = "parse") -> Row:
    return FAILED, kind


def ended(rows: Sequence[Row]) -> pa.Table:
    plain = [dict.fromkeys(ENDED.names, 0) | {"status": status, "kind": kind, "message": kind} for status, kind in rows]
    return pa.Table.from_pylist(plain, schema=ENDED)


def stopped(rows: Sequence[Row], most: float | None = 0.5, at_once: int = 7) -> str:
    """Why a run with these rows of one step would stop."""
    rates = FailureRates({"a_when": "a"}, most)
    for start in range(0, len(rows), at_once):
        rates.note("a_when", ended(rows[start : start + at_once]))
    return rates.problem


@pytest.mark.parametrize("most", [0.01, 0.5, 1])
def test_the_first_twenty_that_fail_alike_stop_the_run(most: float) -> None:
    said = stopped([bad()] * 20, most)
    assert said.startswith("step 'a' fails for one kind of reason (parse): the first 20 rows all failed")
    assert "--max-failure-rate off" in said
    assert not stopped([bad()] * 19, most)


def test_nulls_in_the_place_of_failures_have_failed() -> None:
    assert stopped([(DONE, "parse")] * 20)


@pytest.mark.parametrize("other", [GOOD, FILTER, bad("score")])
@pytest.mark.parametrize("place", [0, 10, 19])
def test_one_that_does_not_fail_alike_among_the_first_is_enough(other: Row, place: int) -> None:
    rows = [bad()] * 19
    rows.insert(place, other)
    assert not stopped([*rows, *[bad()] * 79])


def test_rows_that_are_left_have_not_ended() -> None:
    assert stopped([LEFT] * 30 + [bad()] * 10 + [LEFT] * 10 + [bad()] * 10)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_half_of_the_last_two_hundred_stop_the_run(at_once: int) -> None:
    alternating = [GOOD, bad()] * 100
    assert "100 of the last 200 rows failed" in stopped(alternating, at_once=at_once)
    assert not stopped(alternating[:-1], at_once=at_once)
    assert not stopped([GOOD, bad("parse"), GOOD, bad("score")] * 500, at_once=at_once)
    assert not stopped([GOOD, GOOD, bad()] * 1000, at_once=at_once)
    assert "100 of the last 200" in stopped([GOOD, *[FILTER] * 10_000, *[bad()] * 100], at_once=at_once)


def test_another_share_counts_or_none() -> None:
    assert stopped([GOOD] * 180 + [bad()] * 20, 0.1)
    assert not stopped([GOOD] + [bad()] * 199, 1.0)
    assert stopped([GOOD] + [bad()] * 200, 1.0)
    assert not stopped([bad()] * 1000, None)


def test_steps_are_counted_by_themselves() -> None:
    rates = FailureRates({}, 0.5)
    for step in "abcd" * 19:
        rates.note(step, ended([bad()]))
    assert not rates.problem
    rates.fail("c", "worker_lost", "gone")
    assert not rates.problem
    rates.note("d", ended([bad()]))
    assert "step 'd'" in rates.problem
