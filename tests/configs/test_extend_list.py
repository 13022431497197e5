"""The longer list: as many new items as were asked for, none twice, finer ones where that is wanted."""

from __future__ import annotations

from pathlib import Path

from tests.configs.shipped import ran, rows_of, shipped

GIVEN = ["violin", "oboe", "timpani", "harpsichord", "trombone"]


def test_the_list_gets_the_items_it_lacks(tmp_path: Path) -> None:
    result = ran(shipped("extend_list"), tmp_path)
    rows = rows_of(result)
    assert [row["item"] for row in rows if not row["is_new"]] == GIVEN
    assert sum(row["is_new"] for row in rows) == 20
    assert len({row["item"].casefold() for row in rows}) == len(rows) == 25
    assert {row["kind"] for row in rows} == {"musical instruments"}
    assert {len(row["_path"]) for row in rows} == {1}
    assert sum(figures["calls_sent"] for figures in result.manifest["steps"].values()) == 1


def test_a_long_list_takes_several_answers(tmp_path: Path) -> None:
    result = ran(shipped("extend_list", ["extended.num_items=50", "extended.max_rounds=20"]), tmp_path)
    assert sum(row["is_new"] for row in rows_of(result)) == 50
    assert 2 <= result.manifest["steps"]["extended"]["calls_sent"] <= 20


def test_items_may_be_divided_first(tmp_path: Path) -> None:
    result = ran(shipped("extend_list", ["finer.max_depth=1", "extended.num_items=7"]), tmp_path)
    rows = rows_of(result)
    assert [sum(row["is_new"] == is_new for row in rows) for is_new in (False, True)] == [5 * 8, 7]
    assert all(row["item"].split()[0] in GIVEN for row in rows if not row["is_new"])
    assert len({row["item"].casefold() for row in rows}) == len(rows)


def test_lists_do_not_mix(tmp_path: Path) -> None:
    lists = [{"kind": "rivers", "items": ["Rhine", "rhine", "Nile"]}, {"kind": "fears", "items": []}]
    rows = rows_of(ran(shipped("extend_list", ["extended.num_items=4"], data=lists), tmp_path))
    found = [(row["kind"], row["is_new"]) for row in rows]
    assert found == [("rivers", False)] * 2 + [("rivers", True)] * 4 + [("fears", True)] * 4
