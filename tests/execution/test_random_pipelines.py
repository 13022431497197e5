"""Any chain of steps gives what a few lines of plain Python say, in the same order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raypipe.contracts.step import Aggregate, Output, Runs, Shape, Step
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts
from tests.books import Row, assert_balanced, assert_in_source_order, failed, user_rows

Kind = Literal["map", "scatter", "copy", "filter", "fail"]
KINDS = ("map", "scatter", "copy", "filter", "fail", "by scatter", "by root")
OPENING = ("scatter", "copy")


@dataclass(frozen=True)
class Op:
    """One step of a random chain; `salt` decides what it does to which row."""

    kind: str
    salt: int


def outputs_of(kind: str, salt: int, x: int) -> list[int] | None:
    """The new values of `x`, or `None` for a failure."""
    if kind == "map":
        return [3 * x + salt]
    if kind == "scatter":
        return [10 * x + child for child in range((x + salt) % 4)]
    if kind == "copy":
        return [x + salt] * 2
    if kind == "filter":
        return [x] if (x + salt) % 3 else []
    return [x] if (x + salt) % 4 else None


class Threaded(Step):
    """What an `Op` says, in a thread."""

    runs: ClassVar[Runs] = Runs.THREAD

    kind: Kind
    salt: int
    column: str
    """It also writes its value here, for an aggregate to collect."""

    @property
    def shape(self) -> Shape:
        return {"scatter": Shape.SCATTER, "filter": Shape.FILTER}.get(self.kind, Shape.MAP)

    def reads(self) -> tuple[str, ...]:
        return ("x",)

    def writes(self) -> dict[str, str]:
        return {"x": "int64", self.column: "int64"}

    def process_row_in_thread(self, row: Values) -> Output:
        made = outputs_of(self.kind, self.salt, row["x"])
        if made is None:
            raise ValueError(f"{row['x']} is not allowed")
        rows = [{"x": x, self.column: x} for x in made]
        return rows if self.shape is Shape.SCATTER else next(iter(rows), None)


class Awaited(Threaded):
    """The same as a coroutine."""

    runs: ClassVar[Runs] = Runs.ROW

    async def process_row(self, row: Values, llm: Any) -> Output:
        return self.process_row_in_thread(row)


@dataclass(frozen=True)
class Member:
    """A row of the reference: its columns, and its own place behind those of its ancestors."""

    values: Row
    path: tuple[int, ...]


@dataclass
class Reference:
    """The reference interpreter: one step after the other over a plain list."""

    rows: list[Member]
    columns: list[str]
    lost: list[tuple[str, Row]] = field(default_factory=list[tuple[str, Row]])

    def run(self, ops: Sequence[Op], prefix: str) -> Reference:
        levels = [(self.rows, self.columns)]
        for number, op in enumerate(ops):
            if op.kind == "by scatter":
                self.gather(*levels.pop())
            elif op.kind == "by root":
                levels = levels[:1]
                self.gather(*levels[0])
            else:
                done, columns = self.apply(op, f"{prefix}{number}", f"s{number}"), self.columns
                levels += [(done, columns)] if op.kind in OPENING else []
                self.columns = list(dict.fromkeys([*columns, f"s{number}", *(["sample"] if op.kind == "copy" else [])]))
        return self

    def apply(self, op: Op, name: str, column: str) -> list[Member]:
        """The rows that passed; the new ones are in `rows`, the failed ones in `lost`."""
        rows, self.rows, done = self.rows, [], []
        for row in rows:
            outputs = outputs_of(op.kind, op.salt, row.values["x"])
            if outputs is None:
                self.lost.append((name, row.values))
                continue
            done.append(row)
            for child, x in enumerate(outputs):
                new = {"x": x, column: x} | ({"sample": child} if op.kind == "copy" else {})
                self.rows.append(Member(row.values | new, (*row.path, child) if op.kind in OPENING else row.path))
        return done

    def gather(self, parents: Sequence[Member], kept: list[str]) -> None:
        """Every parent comes back with what was added since as lists."""
        added, made = [name for name in self.columns if name not in kept], list[Member]()
        for parent in parents:
            family = [row.values for row in self.rows if row.path[: len(parent.path)] == parent.path]
            lists = {name: [values[name] for values in family] for name in added}
            made.append(Member(parent.values | lists, parent.path))
        self.rows, self.columns = made, [*kept, *added]


def sound(ops: Sequence[Op]) -> list[Op]:
    """The same chain; an aggregate that would find no open scatter goes back to the source."""
    depth, made = 0, list[Op]()
    for op in ops:
        kind = "by root" if op.kind == "by scatter" and not depth else op.kind
        depth = 0 if kind == "by root" else depth + (kind in OPENING) - (kind == "by scatter")
        made.append(Op(kind, op.salt))
    return made


def step_of(op: Op, name: str, column: str) -> Step:
    if op.kind.startswith("by"):
        return Aggregate(name, by=op.kind.removeprefix("by "))
    made = (Awaited if op.salt % 2 else Threaded)(name, kind=op.kind, salt=op.salt, column=column)
    return made.broadcast(2) if op.kind == "copy" else made


def add_chain(seed: Step, ops: Sequence[Op], prefix: str) -> None:
    before = seed
    for number, op in enumerate(ops):
        before = before >> step_of(op, f"{prefix}{number}", f"s{number}")


def source_rows(count: int) -> list[Row]:
    return [{"id": number % 7, "x": number % 5} for number in range(count)]


def assert_as_the_reference_says(result: Result, rows: list[Row], ops: Sequence[Op], prefix: str) -> None:
    reference = Reference([Member(row, (number,)) for number, row in enumerate(rows)], ["id", "x"]).run(ops, prefix)
    leaf = f"{prefix}{len(ops) - 1}"
    assert user_rows(result[leaf]) == [row.values for row in reference.rows]
    assert_in_source_order(result[leaf])
    found = [(step, row) for step, _, _, row in failed(result) if step.startswith(prefix)]
    assert sorted(found, key=repr) == sorted(reference.lost, key=repr)


OPS = st.lists(st.builds(Op, st.sampled_from(KINDS), st.integers(0, 11)), min_size=1, max_size=8).map(sound)


@settings(max_examples=60)
@example(ops=[Op("by root", 0), Op("by root", 0)], count=2)
@given(ops=OPS, count=st.sampled_from([1, 2, 9, 30]))
def test_a_random_chain_on_local(tmp_path_factory: pytest.TempPathFactory, ops: list[Op], count: int) -> None:
    rows = source_rows(count)
    with Pipeline("random") as pipeline:
        add_chain(LoadDataFromDicts(rows, name="seed"), ops, "step")
    result = pipeline.run(tmp_path_factory.mktemp("random") / "out", engine="local", max_failure_rate=None)
    assert_as_the_reference_says(result, rows, ops, "step")
    assert_balanced(pipeline.graph(), result)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_random_chains_on_ray(tmp_path: Path) -> None:
    """As branches of one graph, over rows of several batches."""
    rng, rows = random.Random(11), source_rows(1100)
    chains = {
        f"chain{number}.": sound([Op(rng.choice(KINDS), rng.randrange(12)) for _ in range(rng.randint(2, 7))])
        for number in range(6)
    }
    with Pipeline("random") as pipeline:
        seed = LoadDataFromDicts(rows, name="seed")
        for prefix, ops in chains.items():
            add_chain(seed, ops, prefix)
    result = pipeline.run(tmp_path / "out", engine="ray", max_failure_rate=None)
    assert_balanced(pipeline.graph(), result)
    for prefix, ops in chains.items():
        assert_as_the_reference_says(result, rows, ops, prefix)
