"""Rows are picked as `take` would, but what is large is not copied and nothing overflows; tables are cut by bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import SpecError
from raypipe.values.byte_bounds import VARIABLE, Bounds, read_bounds, size_of
from raypipe.values.selection import count_fitting_rows, filter_rows, size_bytes, split, take_rows

MIB = 1 << 20
LARGE = "x" * (MIB // 8)


def table_of(texts: list[str | None], chunks: int = 1) -> pa.Table:
    columns = {"text": texts, "number": list(range(len(texts))), "list": [[text, "b"] for text in texts]}
    made = pa.table(columns)
    step = -(-len(texts) // chunks) or 1
    return pa.concat_tables([made.slice(at, step) for at in range(0, len(texts), step)] or [made])


TEXTS = st.lists(st.sampled_from(["", "a", "word", None, LARGE]), min_size=1, max_size=12)


@given(TEXTS, st.integers(1, 4), st.data())
def test_rows_are_those_that_take_gives(texts: list[str | None], chunks: int, data: st.DataObject) -> None:
    table = table_of(texts, chunks)
    places = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=400))
    assert take_rows(table, places).equals(table.take(pa.array(places, pa.int64())))
    mask = [place % 3 == 0 for place in range(len(texts))]
    assert filter_rows(table, mask).equals(table.filter(pa.array(mask)))


def test_a_negative_place_is_a_row_of_nulls() -> None:
    for text in ("a", LARGE):
        found = take_rows(table_of([text] * 3), [-1, *([2] * 400), -1, -1])
        assert found.num_rows == 403
        assert [found.column("text")[at].as_py() for at in (0, 1, 401, 402)] == [None, text, None, None]


def test_children_of_a_document_share_it() -> None:
    table = table_of(["y" * MIB] * 3)
    found = take_rows(table, np.repeat([0, 1, 2], 800))
    assert size_bytes(found) > 2400 * MIB
    assert found.get_total_buffer_size() < 10 * MIB
    again = take_rows(found, np.arange(found.num_rows)[::-1])
    assert again.get_total_buffer_size() < 10 * MIB
    assert again.column("number").to_pylist() == [2] * 800 + [1] * 800 + [0] * 800
    assert filter_rows(found, np.arange(found.num_rows) % 2 == 0).num_rows == 1200


@given(TEXTS, st.integers(1, 4), st.integers(1, 6), st.integers(1, MIB))
def test_tables_are_cut_by_rows_and_bytes(texts: list[str | None], chunks: int, rows: int, size: int) -> None:
    table = table_of(texts, chunks)
    pieces = list(split(table, rows, size))
    assert pa.concat_tables(pieces).equals(table)
    assert all(0 < piece.num_rows <= rows for piece in pieces)
    assert all(piece.num_rows == 1 or size_bytes(piece) <= 2 * size + 512 for piece in pieces)


def test_the_first_rows_that_fit() -> None:
    table = pa.table({"text": ["a" * 100] * 5 + ["b" * 1000]})
    assert count_fitting_rows(table, 10, 10_000) == 6
    assert count_fitting_rows(table, 10, 320) == 3
    assert count_fitting_rows(table, 2, 10_000) == 2
    assert count_fitting_rows(table, 10, 50) == 0


def test_nothing_is_cut_into_nothing() -> None:
    assert list(split(pa.table({"a": pa.array([], pa.int64())}), 10, 10)) == []


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("abc", 3),
        ("é" * 10, 20),
        (b"1234", 4),
        (None, 8),
        (["ab", "c"], 3),
        ({"a": "xy", "b": 1}, 10),
        ([1.0] * 1000, 8000),
    ],
)
def test_values_have_a_size(value: Any, size: int) -> None:
    assert size_of(value) == size


def test_one_variable_sets_all_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "2")
    assert read_bounds() == Bounds(2 * MIB, 8 * MIB)
    monkeypatch.setenv(VARIABLE, " ")
    assert read_bounds() == Bounds()


@pytest.mark.parametrize("said", ["0", "many", "-3", "1.5", "9" * 5000, "٣"])
def test_a_variable_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(SpecError, match=r"RAYPIPE_BATCH_MIB.*whole number of MiB from 1 to 512") as caught:
        read_bounds()
    assert len(str(caught.value)) < 300
