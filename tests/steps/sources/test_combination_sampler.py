"""Combinations are drawn once each, the same in every run, and more of them begin with the fewer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.step import Shape
from raypipe.errors import RowError
from raypipe.steps import CombinationSampler

VARIABLES = [{"name": "age", "values": ["young", "old"]}, {"name": "trade", "values": ["smith", "baker", "none"]}]


def drawn(variables=VARIABLES, row=None, **options):
    made = CombinationSampler(output="traits", **options)
    rows = made.process_row_in_thread({"variables": variables} | (row or {}))
    return [tuple((one["name"], one["value"]) for one in row["traits"]) for row in rows]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 300))
def test_no_combination_is_drawn_twice(sizes, wanted):
    variables = [{"name": f"v{n}", "values": [f"{n}.{i}" for i in range(size)]} for n, size in enumerate(sizes)]
    total = 1
    for size in sizes:
        total *= size
    found = drawn(variables, num_samples=wanted)
    assert len(found) == len(set(found)) == min(wanted, total)
    assert all([name for name, _ in one] == [f"v{n}" for n in range(len(sizes))] for one in found)


def test_more_samples_begin_with_the_fewer():
    assert drawn(num_samples=5)[:3] == drawn(num_samples=3)
    assert drawn(num_samples=6) == drawn(num_samples=6)
    assert drawn(num_samples=6) != drawn(num_samples=6, seed=1)


def test_every_value_is_drawn_about_as_often_as_the_others():
    variables = [{"name": f"v{n}", "values": ["a", "b"]} for n in range(200)]
    found = [value for one in drawn(variables, num_samples=50) for _, value in one]
    assert 4500 < found.count("a") < 5500


def test_the_number_may_stand_in_the_row():
    assert len(drawn(row={"n": 4}, num_samples="n")) == 4
    assert drawn(row={"n": 0}, num_samples="n") == []
    assert CombinationSampler(num_samples="n").reads() == ("variables", "n")
    with pytest.raises(RowError, match="column 'n' is not a number of samples but 'many'"):
        drawn(row={"n": "many"}, num_samples="n")
    assert "draws 0 samples" in CombinationSampler(num_samples=0).problems()[0]
    assert (CombinationSampler().shape, CombinationSampler().problems()) == (Shape.SCATTER, [])


def test_what_is_said_twice_counts_once():
    variables = [*VARIABLES, {"name": "AGE", "values": ["x"]}, {"name": "mood", "values": ["calm", " Calm ", ""]}]
    found = drawn([*variables, {"name": "empty", "values": []}], num_samples=50)
    assert len(found) == 6
    assert [name for name, _ in found[0]] == ["age", "trade", "mood"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (None, "column 'variables' is None, not a list such as"),
        ([], "has no variable with values"),
        ([{"name": "a", "values": []}], "has no variable with values"),
        ([{"name": "a"}], "column 'variables' is {'name': 'a'}, not a list such as"),
        ([{"name": 1, "values": ["x"]}], "not a list such as"),
        ([{"name": "a", "values": [1]}], "not a list such as"),
    ],
)
def test_what_are_no_variables_fails_the_row(variables, said):
    with pytest.raises(RowError) as caught:
        drawn(variables)
    assert said in str(caught.value)
    assert caught.value.kind == "input"
