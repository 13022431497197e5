"""Rows are grouped by what their values are, the same on both engines, whatever a table makes of a mixed column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.errors import SpecError
from raypipe.execution.conductor.group_keys import with_group
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import GROUP, GROUP_ID, Values
from raypipe.steps import Aggregate, LoadDataFromDicts, step
from tests.books import assert_balanced, user_rows

HOUR = timezone(timedelta(hours=1))
KINDS: dict[str, Sequence[Sequence[Any]]] = {
    "zeros": [[0.0, -0.0, 0], [1.0, 1], [True], ["1"], [b"1"]],
    "not a number": [[float("nan"), float("nan")], [None, None], [float("inf")], ["nan"]],
    "only floats": [[0.0, -0.0, 0.0], [1.5, 1.5], [-1.5], [None, None]],
    "only lists": [[[1, 2], [1, 2]], [[2, 1]], [[]]],
    "only mappings": [[{"a": 1, "b": "x"}, {"a": 1, "b": "x"}], [{"a": 2, "b": "x"}], [{"a": 1, "b": "y"}]],
    "truth": [[True, True], [False], [1], [0]],
    "texts": [["a", "a"], ["A"], [""], [None], ["a" * 100_000, "a" * 100_000], ["a" * 99_999]],
    "lists": [[[1, 2], [1, 2]], [[2, 1]], [[]], [None], [[[1], None]]],
    "mappings": [[{"a": 1, "b": 2}, {"b": 2, "a": 1}], [{"a": 1}], [{"a": {"x": [1]}}], [{"a": "1"}]],
    "large": [[2**70, 2**70], [2**70 + 1], [str(2**70)], [2**53 + 1], [2**53]],
    "decimals": [[Decimal("1.5"), Decimal("1.50")], [Decimal("1.0"), Decimal(1)], [Decimal("1e-40")], [Decimal(0)]],
    "times": [
        [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=HOUR)],
        [datetime(2026, 1, 1, 12)],
        [date(2026, 1, 1), date(2026, 1, 1)],
        ["2026-01-01"],
    ],
}


def members_of(groups: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    """Rows by number, and their groups, no two of one group one after the other where that can be."""
    width = max(map(len, groups))
    places = [(at, group) for at in range(width) for group in range(len(groups)) if at < len(groups[group])]
    return [(number, group) for number, (_, group) in enumerate(places)]


def values_of(groups: Sequence[Sequence[Any]]) -> list[Any]:
    seen: dict[int, int] = {}
    values: list[Any] = []
    for _, group in members_of(groups):
        at = seen[group] = seen.get(group, -1) + 1
        values.append(groups[group][at])
    return values


def grouped(kinds: Sequence[str], engine: Any, out: Path) -> Result:
    """Each kind is a branch of its own; the values are made by a step, so that no loader has bent them."""
    with Pipeline("grouped") as pipeline:
        most = max(len(values_of(KINDS[kind])) for kind in kinds)
        seed = LoadDataFromDicts([{"number": number} for number in range(most)], name="seed")
        for at, kind in enumerate(kinds):
            values = values_of(KINDS[kind])

            def valued(row: Values, values: list[Any] = values) -> list[dict[str, Any]]:
                return [{"key": values[row["number"]]}] if row["number"] < len(values) else []

            made = step(inputs=["number"], outputs=["key"], scatter=True)(valued)(f"values{at}")
            seed >> made >> Aggregate(f"groups{at}", by=["key"], columns=["number"])
    result = pipeline.run(out, engine=engine)
    assert_balanced(pipeline.graph(), result)
    return result


def test_equal_values_are_one_group_and_others_are_not(engine: Any, tmp_path: Path) -> None:
    kinds = list(KINDS)
    result = grouped(kinds, engine, tmp_path / "out")
    for at, kind in enumerate(kinds):
        wanted: dict[int, list[int]] = {}
        for number, group in members_of(KINDS[kind]):
            wanted.setdefault(group, []).append(number)
        assert [row["number"] for row in user_rows(result[f"groups{at}"])] == list(wanted.values()), kind


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_groups_have_the_same_identity_and_values_on_both_engines(tmp_path: Path) -> None:
    kinds = list(KINDS)
    ours, theirs = (grouped(kinds, engine, tmp_path / engine) for engine in ("local", "ray"))
    for leaf in ours:
        assert theirs[leaf].to_arrow().to_pylist() == ours[leaf].to_arrow().to_pylist(), leaf


def test_the_groups_of_one_row_s_children_are_in_the_order_of_the_children(engine: Any, tmp_path: Path) -> None:
    @step(inputs=["number"], outputs=["key"], scatter=True)
    def keys(row: Values) -> list[dict[str, Any]]:
        return [{"key": (7 * index) % 50} for index in range(50)]

    with Pipeline("order") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(2)], name="seed")
        seed >> keys("keys") >> Aggregate("groups", by=["key"], columns=["number"])
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert [row["key"] for row in user_rows(result["groups"])] == [(7 * index) % 50 for index in range(50)]


def test_a_key_does_not_depend_on_the_rows_beside_it() -> None:
    alone = with_group(pa.table({"key": [1]}), "groups", ["key"])
    beside = with_group(pa.table({"key": [1.0, 2.5]}), "groups", ["key"])
    for column in (GROUP, GROUP_ID):
        assert alone.column(column)[0] == beside.column(column)[0]


def test_a_column_that_no_row_has_is_refused_by_name(engine: Any, tmp_path: Path) -> None:
    @step(inputs=["number"])
    def untold(row: Values) -> dict[str, Any]:
        return {"topic": row["number"] % 2}

    def several(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows

    with Pipeline("unknown") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(3)], name="seed")
        made = untold("untold").custom(several)
        seed >> made >> Aggregate("groups", by=["topci"])
    with pytest.raises(SpecError, match=r"step 'groups': groups by 'topci', which no row.*did you mean 'topic'"):
        pipeline.run(tmp_path / "out", engine=engine)
