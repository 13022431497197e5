"""Steps that bring rows together give the same on each engine and in any load groups: rows, failures, counts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.step import Step
from raypipe.pipeline import Pipeline
from raypipe.plan.load_groups import SEQUENTIAL
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import Aggregate, GlobalStep, LoadDataFromDicts, step
from tests.books import Row, assert_balanced, failed, user_rows

KINDS = ("map", "fails", "scatter", "all", "all fails", "same column", "function", "groups", "root")


class Numbered(GlobalStep):
    """Gives each row with its number from the end, or fails as the salt says."""

    salt: int
    may_fail: bool

    def process(self, *inputs: Any) -> Any:
        rows = inputs[0]
        if self.may_fail and self.salt % 3 == 0:
            raise ValueError("not these rows")
        yield [{"x": _number(row), "back": len(rows) - at} for at, row in enumerate(rows)]


def _number(row: Values) -> int:
    x = row.get("x")
    return sum(_flat(x)) % 97


def _flat(x: Any) -> list[int]:
    return [one for item in x for one in _flat(item)] if isinstance(x, list) else [x or 0]


def mapped(name: str, salt: int, may_fail: bool, when: Any) -> Step:
    def work(row: Values) -> Row:
        if may_fail and (_number(row) + salt) % 4 == 0:
            raise ValueError("not this row")
        return {"x": _number(row) + salt}

    return step(outputs=["x"])(work)(name, when=when)


def parts(name: str, salt: int, when: Any) -> Step:
    def work(row: Values) -> list[Row]:
        return [{"x": _number(row) + part, "part": part} for part in range((_number(row) + salt) % 4)]

    return step(outputs=["x", "part"], scatter=True)(work)(name, when=when)


def first_and_last(rows: list[Row]) -> list[Row]:
    if len(rows) == 3:
        raise ValueError("three")
    return [{"x": _number(rows[0])}, {"x": _number(rows[-1]), "of": len(rows)}] if rows else []


def add(before: Step, number: int, kind: str, salt: int, has_when: bool) -> tuple[Step, str]:
    """One more step behind `before`, and the name of what is behind it."""
    name, when = f"n{number}", _even if has_when else None
    if kind in ("all", "all fails"):
        made: Step = Numbered(name, salt=salt, may_fail=kind == "all fails", when=when)
    elif kind == "scatter":
        made = parts(name, salt, when)
    elif kind == "same column":
        made = Aggregate(name, by="root", columns=["x"], when=when)
    elif kind == "root":
        made = Aggregate(name, by="root", as_rows=f"rows{number}", when=when)
    elif kind == "groups":
        made = Aggregate(name, by=["x"], columns=[], when=when)
    else:
        made = mapped(name, salt, kind == "fails", when)
        if kind == "function":
            made = made.custom(first_and_last)
    before >> made
    return made, f"{name}_custom" if kind == "function" else name


def _even(row: Values) -> bool:
    return _number(row) % 2 == 0


def chain(ops: Sequence[tuple[str, int, bool]]) -> Pipeline:
    with Pipeline("gathered") as pipeline:
        last: Step = LoadDataFromDicts([{"id": number, "x": number % 5} for number in range(30)], name="seed")
        for number, op in enumerate(ops):
            last, _ = add(last, number, *op)
    return pipeline


def seen(pipeline: Pipeline, result: Result) -> Any:
    assert_balanced(pipeline.graph(), result)
    rows = {leaf: user_rows(rows) for leaf, rows in result.items()}
    return rows, sorted(failed(result), key=repr), result.manifest["steps"]


def groups_of(said: str, ops: Sequence[Any]) -> Any:
    names = ["seed", *(f"n{number}" for number in range(len(ops)))]
    half = len(names) // 2
    return {"all": [names], "halves": [names[:half], names[half:]]}.get(said, said)


OPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.booleans()), min_size=1, max_size=6)


@settings(max_examples=30)
@given(ops=OPS, groups=st.sampled_from([SEQUENTIAL, "all", "halves"]))
def test_load_groups_change_nothing(tmp_path_factory: pytest.TempPathFactory, ops: list[Any], groups: str) -> None:
    folder, pipeline = tmp_path_factory.mktemp("gathered"), chain(ops)
    whole = pipeline.run(folder / "whole", engine="local", max_failed_rows=10**6, max_failure_rate=None)
    again = pipeline.run(
        folder / "out", engine="local", max_failed_rows=10**6, max_failure_rate=None, load_groups=groups_of(groups, ops)
    )
    assert seen(pipeline, again) == seen(pipeline, whole)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "seed", [1, 2, pytest.param(3, marks=pytest.mark.full), pytest.param(4, marks=pytest.mark.full)]
)
def test_ray_gives_what_local_gives(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ops = [(rng.choice(KINDS), rng.randrange(6), rng.random() < 0.5) for _ in range(5)]
    pipeline = chain(ops)
    ours = pipeline.run(tmp_path / "local", engine="local", max_failed_rows=10**6, max_failure_rate=None)
    theirs = pipeline.run(tmp_path / "ray", engine="ray", max_failed_rows=10**6, max_failure_rate=None)
    assert seen(pipeline, theirs) == seen(pipeline, ours)
