"""Small pipelines that together use every form of step, each with what must come out of it.

A scenario is a function that adds a branch behind the step it is given, so a test can run one alone or
all of them as one graph. Names of steps begin with the scenario's own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.step import Aggregate, Source, Step, Unit
from raypipe.row import Values
from raypipe.steps import Filter, KeepColumns, LoadDataFromDicts, TextGeneration, step

Row = dict[str, Any]

SMALL: list[Row] = [
    {"id": number, "kind": "abc"[number % 3], "n": number % 4, "note": f"note {number}" if number % 5 == 0 else None}
    for number in range(12)
]
SMALL += [SMALL[3], SMALL[3]]
MANY: list[Row] = [{"id": number, "n": number % 4} for number in range(210)]
LARGE: list[Row] = [{"id": number, "kind": "abc"[number % 3], "n": number % 4} for number in range(3000)]

CALM = LLM("offline/stand-in", options={"answers": {"kind a": "alpha", "kind b": "beta", "kind c": "gamma"}})
WORDS = {"a": "alpha", "b": "beta", "c": "gamma"}


@dataclass(frozen=True)
class Expected:
    """What must come out: rows by leaf in order, and step, kind, part of the message and `id` of each failure."""

    leaves: Mapping[str, list[Row]]
    failures: list[tuple[str, str, str, int]] = field(default_factory=list[tuple[str, str, str, int]])


Scenario = Callable[[Step], Expected]


@step(inputs=["id"], outputs={"double": int})
def doubled(row: Values) -> Row:
    return {"double": 2 * row["id"]}


@step(inputs=["n"], outputs={"child": int}, scatter=True)
def children(row: Values) -> list[Row]:
    return [{"child": number} for number in range(row["n"])]


@step(inputs=["child"], outputs={"grandchild": int})
def grandchildren(row: Values) -> Iterator[Row]:
    for number in range(row["child"]):
        yield {"grandchild": 10 * row["child"] + number}


@step(inputs=["child"], outputs={"good": int})
def no_ones(row: Values) -> Row:
    if row["child"] == 1:
        raise ValueError("one is not allowed")
    return {"good": 10 * row["child"]}


@step(inputs=["id"], outputs={"kept": bool}, filter=True)
def threes(row: Values) -> Row | None:
    return None if row["id"] % 3 else {"kept": True}


@step(inputs=["id", "n"])
def ragged(row: Values) -> Row:
    made: Row = {"always": row["id"]}
    if row["n"] == 1:
        made["text"] = f"text {row['id']}"
    if row["n"] == 2:
        made["parts"] = [{"key": "x", "value": row["id"]}]
    return made


@step(inputs=["id"], outputs={"index": int, "chunk": str, "child": int})
def named_like_ours(row: Values) -> Row:
    return {"index": row["id"], "chunk": f"chunk {row['id']}", "child": -row["id"]}


@step(inputs=["kind"], outputs={"first": str, "second": str})
async def twice(row: Values, llm: Caller) -> Row:
    first = await llm(f"kind {row['kind']}")
    return {"first": first, "second": await llm(f"kind {row['kind']}")}


def best_and_worst(rows: list[Row]) -> list[Row]:
    numbers = [row["child"] for row in rows]
    return [{"best": max(numbers), "worst": min(numbers)}] if numbers else []


def rows_with_children() -> list[Row]:
    return [row | {"child": number} for row in SMALL for number in range(row["n"])]


def map_one(seed: Step) -> Expected:
    seed >> doubled("map_one")
    return Expected({"map_one": [row | {"double": 2 * row["id"]} for row in SMALL]})


def map_chain(seed: Step) -> Expected:
    seed >> doubled("map_chain.double") >> KeepColumns("map_chain.keep", columns=["double", "id"])
    return Expected({"map_chain.keep": [{"double": 2 * row["id"], "id": row["id"]} for row in SMALL]})


def scatter(seed: Step) -> Expected:
    seed >> children("scatter")
    return Expected({"scatter": rows_with_children()})


def empty_lists(seed: Step) -> Expected:
    seed >> Filter("empty_lists.only", keep="n == 0") >> children("empty_lists") >> no_ones("empty_lists.after")
    return Expected({"empty_lists.after": []})


def nested(seed: Step) -> Expected:
    grand = grandchildren("nested.grandchildren")
    seed >> children("nested.children") >> grand >> Aggregate("nested.inner") >> Aggregate("nested.outer")
    inner = [[[10 * c + g for g in range(c)] for c in range(row["n"])] for row in SMALL]
    numbers = [list(range(row["n"])) for row in SMALL]
    rows = [row | {"child": c, "grandchild": g} for row, c, g in zip(SMALL, numbers, inner, strict=True)]
    return Expected({"nested.outer": rows})


def to_root(seed: Step) -> Expected:
    seed >> children("to_root.children") >> grandchildren("to_root.grandchildren") >> Aggregate("to_root", by="root")
    pairs = [[(c, 10 * c + g) for c in range(row["n"]) for g in range(c)] for row in SMALL]
    rows = [
        row | {"child": [c for c, _ in made], "grandchild": [g for _, g in made]}
        for row, made in zip(SMALL, pairs, strict=True)
    ]
    return Expected({"to_root": rows})


def chosen_columns(seed: Step) -> Expected:
    seed >> children("chosen.children") >> doubled("chosen.double") >> Aggregate("chosen", columns=["child"])
    return Expected({"chosen": [row | {"child": list(range(row["n"]))} for row in SMALL]})


def whole_rows(seed: Step) -> Expected:
    keep = KeepColumns("whole_rows.keep", columns=["id", "child"])
    seed >> children("whole_rows.children") >> keep >> Aggregate("whole_rows", as_rows="family")
    rows = [row | {"family": [{"id": row["id"], "child": c} for c in range(row["n"])]} for row in SMALL]
    return Expected({"whole_rows": rows})


def everything(seed: Step) -> Expected:
    seed >> KeepColumns("everything.keep", columns=["id", "kind"]) >> Aggregate("everything", by="all")
    row = {"id": [row["id"] for row in SMALL], "kind": [row["kind"] for row in SMALL]}
    return Expected({"everything": [row]})


def groups(seed: Step) -> Expected:
    """Null is a key like any other, and rows of a group go on like those of a source."""
    gather = Aggregate("groups.groups", by=["note", "n"])
    keep = KeepColumns("groups.keep", columns=["id", "note", "n"])
    seed >> keep >> gather >> children("groups.children") >> Aggregate("groups")
    found: dict[Any, list[int]] = {}
    for row in SMALL:
        found.setdefault((row["note"], row["n"]), []).append(row["id"])
    rows = [{"note": note, "n": n, "id": ids, "child": list(range(n))} for (note, n), ids in found.items()]
    return Expected({"groups": rows})


def broadcast(seed: Step) -> Expected:
    seed >> doubled("broadcast").broadcast(3)
    return Expected({"broadcast": [row | {"double": 2 * row["id"], "sample": s} for row in SMALL for s in range(3)]})


def broadcast_of_many(seed: Step) -> Expected:
    """A step that already makes several rows of one."""
    answers = TextGeneration("broadcast_of_many", llm=CALM, template="kind {{ kind }}", num_generations=2).broadcast(3)
    seed >> answers
    rows = [row | {"generation": WORDS[row["kind"]], "sample": s} for row in SMALL for _ in range(2) for s in range(3)]
    return Expected({"broadcast_of_many": rows})


def filter_some(seed: Step) -> Expected:
    seed >> threes("filter_some") >> doubled("filter_some.after")
    kept = [row | {"kept": True, "double": 2 * row["id"]} for row in SMALL if row["id"] % 3 == 0]
    return Expected({"filter_some.after": kept})


def filter_all(seed: Step) -> Expected:
    seed >> children("filter_all.children") >> Filter("filter_all", keep="id > 99") >> no_ones("filter_all.after")
    return Expected({"filter_all.after": []})


def filtered_family(seed: Step) -> Expected:
    """A family that lost members, or all of them, comes back."""
    (
        seed
        >> children("filtered_family.children")
        >> Filter("filtered_family.odd", keep="child % 2 == 1")
        >> Aggregate("filtered_family")
    )
    rows = [row | {"child": [c for c in range(row["n"]) if c % 2 == 1]} for row in SMALL]
    return Expected({"filtered_family": rows})


def failing_rows(seed: Step) -> Expected:
    seed >> children("failing.children") >> no_ones("failing")
    rows = [row | {"good": 10 * row["child"]} for row in rows_with_children() if row["child"] != 1]
    lost = [("failing", "exception", "ValueError: one is not allowed", r["id"]) for r in SMALL if r["n"] > 1]
    return Expected({"failing": rows}, lost)


def failing_in_family(seed: Step) -> Expected:
    seed >> children("family.children") >> no_ones("family.fails") >> Aggregate("family")
    numbers = [[c for c in range(row["n"]) if c != 1] for row in SMALL]
    rows = [row | {"child": c, "good": [10 * one for one in c]} for row, c in zip(SMALL, numbers, strict=True)]
    lost = [("family.fails", "exception", "ValueError: one is not allowed", r["id"]) for r in SMALL if r["n"] > 1]
    return Expected({"family": rows}, lost)


def callback(seed: Step) -> Expected:
    seed >> children("callback.children") >> KeepColumns("callback", columns=["child"]).custom(best_and_worst)
    rows = [row | {"best": row["n"] - 1, "worst": 0} for row in SMALL if row["n"]]
    return Expected({"callback_custom": rows})


def fork(seed: Step) -> Expected:
    before = children("fork.children")
    seed >> before >> [doubled("fork.left"), no_ones("fork.right")]
    left = [row | {"double": 2 * row["id"]} for row in rows_with_children()]
    right = [row | {"good": 10 * row["child"]} for row in rows_with_children() if row["child"] != 1]
    lost = [("fork.right", "exception", "ValueError: one is not allowed", r["id"]) for r in SMALL if r["n"] > 1]
    return Expected({"fork.left": left, "fork.right": right}, lost)


def fork_in_family(seed: Step) -> Expected:
    """Members that also go elsewhere are not counted twice."""
    before = children("fork_in_family.children")
    seed >> before >> [Aggregate("fork_in_family.left"), Aggregate("fork_in_family.right", by="root")]
    rows = [row | {"child": list(range(row["n"]))} for row in SMALL]
    return Expected({"fork_in_family.left": rows, "fork_in_family.right": rows})


def one_pool(seed: Step) -> Expected:
    one = TextGeneration("one_pool.one", llm=CALM, template="kind {{ kind }}", output="one")
    two = TextGeneration("one_pool.two", llm=LLM(**dict(CALM)), template="kind {{ kind }}: {{ one }}", output="two")
    seed >> one >> two
    return Expected({"one_pool.two": [row | {"one": WORDS[row["kind"]], "two": WORDS[row["kind"]]} for row in SMALL]})


def several_workers(seed: Step) -> Expected:
    """Members of one family are with different workers of one pool."""
    llm = LLM("offline/stand-in", replicas=2, concurrency=2, options=dict(CALM.options))
    ask = TextGeneration("workers.ask", llm=llm, template="kind {{ kind }} {{ child }}", output="word")
    seed >> children("workers.children") >> ask >> Aggregate("workers")
    rows = [row | {"child": list(range(row["n"])), "word": [WORDS[row["kind"]]] * row["n"]} for row in SMALL]
    return Expected({"workers": rows})


def asks_twice(seed: Step) -> Expected:
    seed >> twice("asks_twice", llm=CALM)
    rows = [row | {"first": WORDS[row["kind"]], "second": WORDS[row["kind"]]} for row in SMALL]
    return Expected({"asks_twice": rows})


def ragged_columns(seed: Step) -> Expected:
    seed >> ragged("ragged")
    rows = [
        row
        | {"always": row["id"]}
        | {"text": f"text {row['id']}" if row["n"] == 1 else None}
        | {"parts": [{"key": "x", "value": row["id"]}] if row["n"] == 2 else None}
        for row in SMALL
    ]
    return Expected({"ragged": rows})


def any_column_name(seed: Step) -> Expected:
    seed >> named_like_ours("any_name")
    rows = [row | {"index": row["id"], "chunk": f"chunk {row['id']}", "child": -row["id"]} for row in SMALL]
    return Expected({"any_name": rows})


BEHIND_SMALL: dict[str, Scenario] = {
    made.__name__: made
    for made in (
        map_one,
        map_chain,
        scatter,
        empty_lists,
        nested,
        to_root,
        chosen_columns,
        whole_rows,
        everything,
        groups,
        broadcast,
        broadcast_of_many,
        filter_some,
        filter_all,
        filtered_family,
        failing_rows,
        failing_in_family,
        callback,
        fork,
        fork_in_family,
        one_pool,
        several_workers,
        asks_twice,
        ragged_columns,
        any_column_name,
    )
}


def no_rows(seed: Step) -> Expected:
    """Zero source rows pass through every kind of step."""
    seed >> [children("no_rows"), Aggregate("no_rows.all", by="all"), Aggregate("no_rows.groups", by=["kind"])]
    return Expected({"no_rows": [], "no_rows.all": [], "no_rows.groups": []})


def many_rows(seed: Step) -> Expected:
    """Several batches, and types that only a later batch knows."""
    late = ragged_late("many_rows.late")
    seed >> doubled("many_rows.double") >> [children("many_rows.children"), late]
    late >> Aggregate("many_rows.groups", by=["kind"])
    rows = [row | {"double": 2 * row["id"]} for row in LARGE]
    after = [row | {"late": f"late {row['id']}" if row["id"] > 2900 else None} for row in rows]
    names = ("id", "n", "double", "late")
    groups = [{"kind": k} | {name: [row[name] for row in after if row["kind"] == k] for name in names} for k in "abc"]
    scattered = [row | {"child": c} for row in rows for c in range(row["n"])]
    return Expected({"many_rows.children": scattered, "many_rows.groups": groups})


@step(inputs=["id"])
def ragged_late(row: Values) -> Row:
    return {"late": f"late {row['id']}" if row["id"] > 2900 else None}


def source_small() -> Step:
    return LoadDataFromDicts(SMALL, name="small")


class NoRows(Source):
    """A file with a header and nothing else."""

    def units(self) -> list[Unit]:
        return [Unit("nothing")]

    def columns(self) -> tuple[str, ...]:
        return ("id", "kind", "n")

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        return iter(())


class ManyUnits(Source):
    """More parts than Ray has readers for on most machines."""

    def units(self) -> list[Unit]:
        return [Unit(f"unit {number}", str(number)) for number in range(70)]

    def columns(self) -> tuple[str, ...]:
        return ("id", "n")

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        start = 3 * int(unit.location)
        yield pa.Table.from_pylist(MANY[start : start + 3])


def source_many() -> Step:
    return ManyUnits("many")


def many_units(seed: Step) -> Expected:
    seed >> children("many_units")
    return Expected({"many_units": [row | {"child": c} for row in MANY for c in range(row["n"])]})


def source_empty() -> Step:
    return NoRows("empty")


def source_large() -> Step:
    return LoadDataFromDicts(LARGE, name="large")


SCENARIOS: dict[str, tuple[Callable[[], Step], Scenario]] = {
    **{name: (source_small, made) for name, made in BEHIND_SMALL.items()},
    "no_rows": (source_empty, no_rows),
    "many_units": (source_many, many_units),
    "many_rows": (source_large, many_rows),
}
