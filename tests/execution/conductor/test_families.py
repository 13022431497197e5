"""A family is complete when nothing of it is on its way, and waits for no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.execution.conductor.families import Families
from raypipe.execution.source import read_source
from raypipe.pipeline import Pipeline
from raypipe.row import ANCESTORS, BATCH, PATH, ROW_ID, Values
from raypipe.steps import Aggregate, LoadDataFromDicts, step


@step(inputs=["n"], outputs=["item"])
async def listed(row: Values) -> dict[str, Any]:
    raise NotImplementedError


def made() -> tuple[Families, pa.Table]:
    """The families of an aggregate, and three rows that each are the parent of one."""
    with Pipeline("families") as pipeline:
        rows = LoadDataFromDicts([{"n": number} for number in range(3)], name="seed")
        rows >> listed("listed").scatter() >> Aggregate("met", columns=["item"])
    stage = pipeline.plan().stages[0]
    [parents] = list(read_source(rows))
    parents = parents.append_column(BATCH, pa.array(np.full(3, 1, np.int32)))
    return Families(stage.steps["met"]), parents


def members(parents: pa.Table, of: int, *items: int) -> pa.Table:
    """Rows that came of one parent, in the order given; each knows its own place."""
    parent = parents.slice(of, 1)
    kept = pa.concat_tables([parent] * len(items))
    own = [bytes([of, item] * 8) for item in items]
    above = [[parent.column(ROW_ID)[0].as_py()] for _ in items]
    path = [[of, item] for item in items]
    for name, values in ((ROW_ID, own), (ANCESTORS, above), (PATH, path)):
        at = kept.column_names.index(name)
        kept = kept.set_column(at, kept.schema.field(name), pa.array(values, kept.schema.field(name).type))
    return kept.append_column("item", pa.array(items))


def items_of(families: Families) -> list[tuple[int, list[int]]]:
    complete = families.take_complete()
    return [] if complete is None else [(row["n"], row["item"]) for row in complete[1].to_pylist()]


def test_a_family_is_complete_when_its_last_member_has_arrived() -> None:
    families, parents = made()
    families.open(parents)
    came = members(parents, 1, 5, 4)
    families.move(came, 1)
    families.move(parents, -1)
    assert items_of(families) == [(0, []), (2, [])]
    families.arrive(came.slice(0, 1), "listed")
    assert items_of(families) == []
    families.arrive(came.slice(1, 1), "listed")
    assert items_of(families) == [(1, [4, 5])], "by their paths, whatever came first"


def test_a_member_that_failed_is_not_waited_for() -> None:
    families, parents = made()
    families.open(parents.slice(0, 1))
    came = members(parents, 0, 1, 2)
    families.move(came, 1)
    families.move(parents.slice(0, 1), -1)
    families.arrive(came.slice(1, 1), "listed")
    families.move(came.slice(0, 1), -1)
    assert items_of(families) == [(0, [2])]


def test_a_family_of_which_a_row_was_left_is_never_complete() -> None:
    families, parents = made()
    families.open(parents.slice(0, 2))
    came = members(parents, 0, 1)
    families.move(came, 1)
    families.move(parents.slice(0, 2), -1)
    families.spoil(came)
    families.move(came, -1)
    spoiled = families.take_spoiled()
    assert spoiled is not None and spoiled.column("n").to_pylist() == [0]
    assert families.take_spoiled() is None
    assert items_of(families) == [(1, [])]


def test_families_of_a_batch_that_is_put_away_go_on_elsewhere() -> None:
    families, parents = made()
    families.open(parents)
    came = members(parents, 2, 1, 2)
    families.move(came, 1)
    families.arrive(came.slice(0, 1), "listed")
    left = families.detach(1)
    assert left is not None and families.detach(1) is None
    others, _ = made()
    others.attach(left, 7)
    others.move(parents, -1)
    assert items_of(others) == [(0, []), (1, [])]
    others.arrive(came.slice(1, 1), "listed")
    complete = others.take_complete()
    assert complete is not None
    assert complete[1].select(["n", "item", BATCH]).to_pylist() == [{"n": 2, "item": [1, 2], BATCH: 7}]
