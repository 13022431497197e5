"""The tree of subtopics: as deep as is asked for, every row with the way to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.shipped import ran, rows_of, shipped


@pytest.mark.parametrize(("depth", "levels"), [(1, [5]), (2, [5, 25]), (3, [5, 25, 125])])
def test_the_tree_has_as_many_subtopics_as_its_depth_asks_for(tmp_path: Path, depth: int, levels: list[int]) -> None:
    result = ran(shipped("topic_tree", [f"tree.max_depth={depth}"]), tmp_path)
    rows = rows_of(result)
    assert [sum(row["depth"] == level + 1 for row in rows) for level in range(len(levels))] == levels
    assert result.manifest["steps"]["tree"]["calls_sent"] == 1 + sum(levels[:-1])


def test_every_subtopic_is_there_once_below_one_that_is_there(tmp_path: Path) -> None:
    seeds = [{"topic": topic, "n_subtopics": 4} for topic in ("Physics", "Roman law")]
    rows = rows_of(ran(shipped("topic_tree", data=seeds), tmp_path))
    paths = {tuple(row["path"]) for row in rows}
    assert len(rows) == len(paths) == len({row["sub_topic"].casefold() for row in rows}) == 2 * (4 + 16)
    for row in rows:
        assert row["path"][0] == row["topic"]
        assert row["path"][-1] == row["sub_topic"]
        assert len(row["path"]) == row["depth"] + 1 <= 3
        assert row["depth"] == 1 or tuple(row["path"][:-1]) in paths
        assert 2 <= len(row["sub_topic"]) <= 80


def test_rows_come_from_their_topic_level_by_level(tmp_path: Path) -> None:
    rows = rows_of(ran(shipped("topic_tree"), tmp_path))
    assert len({row["_source_id"] for row in rows}) == 1
    assert [row["_path"] for row in rows] == [[number] for number in range(30)]
    assert [row["depth"] for row in rows] == sorted(row["depth"] for row in rows)
