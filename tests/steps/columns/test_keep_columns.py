"""Choosing columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raypipe.contracts.step import Runs
from raypipe.errors import SpecError
from raypipe.row import LINEAGE, ROW_ID
from raypipe.steps import KeepColumns


def test_named_columns_stay_in_this_order_with_the_lineage():
    step = KeepColumns("keep", columns=["b", "a"])
    table = pa.table({"a": [1, 2], ROW_ID: [b"x", b"y"], "b": ["p", "q"], "c": [0, 0], LINEAGE[2]: [0, 1]})
    made = step.process_table(table)
    assert made.column_names == [ROW_ID, LINEAGE[2], "b", "a"]
    assert made.column("b").to_pylist() == ["p", "q"]


def test_declaration():
    step = KeepColumns(columns=["b", "a", "b"])
    assert step.runs is Runs.TABLE
    assert step.reads() == ("b", "a")
    assert step.columns_after(("a", "b", "c")) == ("b", "a")
    assert step.columns_after(None) == ("b", "a")
    assert KeepColumns(columns="a").columns == ["a"]


def test_no_columns_are_refused():
    with pytest.raises(SpecError, match="columns"):
        KeepColumns(columns=[])
    with pytest.raises(SpecError, match="option 'columns' is required"):
        KeepColumns()
