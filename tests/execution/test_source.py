"""A row's identity follows from its content, wherever it stands and whoever stands beside it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.step import Source
from raypipe.execution.source import BATCH_ROWS, cut_batches, read_source
from raypipe.pipeline import Pipeline
from raypipe.row import POSITION, ROW_ID
from raypipe.steps import LoadDataFromDicts

ROWS = st.lists(st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.sampled_from(["x", "y", None])}), max_size=12)


def column(source: Source, name: str = ROW_ID) -> list[Any]:
    return [value for table in read_source(source) for value in table.column(name).to_pylist()]


def ids(rows: list[dict[str, Any]], **fields: Any) -> list[bytes]:
    return column(LoadDataFromDicts(rows, **fields))


@given(ROWS, st.randoms(use_true_random=False))
def test_no_two_rows_are_one_and_order_does_not_matter(rows: list[dict[str, Any]], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    assert len(set(ids(rows))) == len(rows)
    assert set(ids(shuffled)) == set(ids(rows))


@given(ROWS, ROWS)
def test_rows_keep_their_identity_when_others_come(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    assert set(ids(rows)) <= set(ids([*more, *rows]))
    assert ids([*rows, *more])[: len(rows)] == ids(rows)


def test_a_column_or_a_field_that_only_others_have_changes_nothing() -> None:
    [one] = ids([{"a": {"x": 1}}])
    assert ids([{"a": {"x": 1}}, {"a": {"y": [2.5]}}, {"b": 3}])[0] == one
    assert ids([{"a": {"x": 1}, "b": None}])[0] == one
    assert ids([{"n": 1}, {"n": 2.5}])[0] == ids([{"n": 1}])[0]


def test_named_columns_alone_can_be_the_identity() -> None:
    before = ids([{"id": 1, "text": "a"}, {"id": 2, "text": "a"}], identity=("id",))
    assert ids([{"id": 1, "text": "b", "new": 1}, {"id": 2, "text": "b"}], identity=("id",)) == before


def test_positions_count_up_and_batches_are_bounded() -> None:
    source = LoadDataFromDicts([{"a": number} for number in range(5000)])
    assert column(source, POSITION) == list(range(5000))
    assert max(table.num_rows for table in read_source(source)) <= BATCH_ROWS


def test_a_limit_takes_the_first_rows() -> None:
    source = LoadDataFromDicts([{"a": number} for number in range(5000)])
    taken = [value for table in read_source(source, 1500) for value in table.column("a").to_pylist()]
    assert taken == list(range(1500))


def test_nothing_is_cut_into_nothing() -> None:
    assert list(cut_batches(pa.table({"a": pa.array([], pa.int64())}))) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_many_rows_of_a_program_go_to_ray(tmp_path: Path) -> None:
    with Pipeline("large") as pipeline:
        LoadDataFromDicts([{"text": f"{number}" * 200} for number in range(4000)], name="seed", batch_size=10)
    assert len(pipeline.run(tmp_path / "out")["seed"]) == 4000
