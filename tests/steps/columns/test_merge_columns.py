"""Bringing columns together in a list, and taking lists apart into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Runs, Shape
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.row import LINEAGE, ROW_ID
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.columns.merge_columns import ExpandColumns, MergeColumns
from raypipe.steps.tasks import TextGeneration, UltraFeedback
from tests.books import balanced_run, user_rows


def merged(rows, **options):
    return MergeColumns(**options).process_table(pa.Table.from_pylist(rows)).to_pylist()


def run(tmp_path, rows, step):
    with Pipeline() as pipeline:
        LoadDataFromDicts(rows) >> step()
    result = pipeline.run(tmp_path / "out", engine="local")
    (leaf,) = result.values()
    return leaf.to_arrow().to_pylist()


# Bringing together.


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("x", "y", ["x", "y"]),
        ("x", ["y", "z"], ["x", "y", "z"]),
        (["x"], [], ["x"]),
        ([], [], []),
        (None, ["y"], [None, "y"]),
        ([None, "x"], None, [None, "x", None]),
        ([[1], [2]], [[3]], [[1], [2], [3]]),
        ({"n": 1}, [{"n": 2}], [{"n": 1}, {"n": 2}]),
    ],
)
def test_values_become_one_list(a, b, expected):
    assert merged([{"a": a, "b": b, "c": 0}], columns=["a", "b"]) == [{"c": 0, "merged_column": expected}]


def test_the_lineage_and_the_number_of_rows_stay():
    table = pa.table({ROW_ID: [b"x", b"y"], "a": ["p", "q"], "b": [["r"], []], LINEAGE[2]: [0, 1]})
    made = MergeColumns("m", columns=["b", "a"], output_column="all").process_table(table)
    assert made.column_names == [ROW_ID, LINEAGE[2], "all"]
    assert made.column("all").to_pylist() == [["r", "p"], ["q"]]
    assert made.column("all").type == pa.list_(pa.string())


@pytest.mark.parametrize("output", ["a", "b", "c"])
def test_the_output_may_take_a_name_that_is_there(output):
    (row,) = merged([{"a": 1, "b": [2, 3], "c": 0}], columns=["a", "b"], output_column=output)
    assert row == ({"c": 0} if output != "c" else {}) | {output: [1, 2, 3]}


def test_values_of_several_types_are_carried_as_they_are():
    assert merged([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], columns=["a", "b"]) == [
        {"merged_column": [1, "x"]},
        {"merged_column": [2, "y"]},
    ]


def test_no_rows():
    table = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())})
    made = MergeColumns(columns=["a", "b"]).process_table(table)
    assert (made.num_rows, made.column_names) == (0, ["merged_column"])


def test_declaration_of_merging():
    step = MergeColumns(columns=["a", "b", "a"])
    assert step.runs is Runs.TABLE
    assert step.reads() == ("a", "b")
    assert step.writes() == {"merged_column": ""}
    assert step.columns_after(("a", "c", "b")) == ("c", "merged_column")
    assert step.columns_after(None) is None
    assert MergeColumns(columns=["a"], output_column="a").columns_after(("a", "b")) == ("b", "a")
    assert MergeColumns(columns="a", output_column=None).output_column == "merged_column"
    assert step.problems() == []
    assert "'_row_id', which belongs to the lineage" in MergeColumns(columns=["a", ROW_ID]).problems()[0]


def test_merged_columns_in_a_run(tmp_path):
    rows = [{"a": "x", "b": ["y"], "n": 1}, {"a": None, "b": [], "n": 2}]
    made = run(tmp_path, rows, lambda: MergeColumns(columns=["a", "b"]))
    assert [(row["n"], row["merged_column"]) for row in made] == [(1, ["x", "y"]), (2, [None])]
    assert "a" not in made[0]


def test_columns_are_required():
    with pytest.raises(SpecError, match="columns"):
        MergeColumns(columns=[])
    with pytest.raises(SpecError, match="columns"):
        ExpandColumns(columns={})


# Taking apart.


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2], ["x", "y"], [(1, "x"), (2, "y")]),
        ([1], ["x", "y", "z"], [(1, "x"), (None, "y"), (None, "z")]),
        ([1, 2], None, [(1, None), (2, None)]),
        ([], ["x"], [(None, "x")]),
        ([None], [], [(None, None)]),
        ([], None, []),
        (None, None, []),
    ],
)
def test_columns_are_taken_apart_together(a, b, expected):
    made = ExpandColumns(columns=["a", "b"]).process_row_in_thread({"a": a, "b": b, "c": 0})
    assert made == [{"a": first, "b": second} for first, second in expected]


def test_with_a_mapping_the_lists_stay(tmp_path):
    made = run(tmp_path, [{"all": ["x", "y"]}], lambda: ExpandColumns(columns={"all": "one"}))
    assert [(row["all"], row["one"]) for row in made] == [(["x", "y"], "x"), (["x", "y"], "y")]


def test_without_items_the_row_is_gone_and_none_is_lost(tmp_path):
    rows = [{"a": ["x"], "n": 1}, {"a": [], "n": 2}, {"a": None, "n": 3}, {"a": ["y", "z"], "n": 4}]
    made = run(tmp_path, rows, lambda: ExpandColumns(columns="a"))
    assert [(row["a"], row["n"]) for row in made] == [("x", 1), ("y", 4), ("z", 4)]


@pytest.mark.parametrize("encoded", [True, ["a"]])
def test_json_text_is_parsed(encoded):
    step = ExpandColumns(columns=["a"], encoded=encoded)
    assert step.process_row_in_thread({"a": '["x", {"n": 1}]'}) == [{"a": "x"}, {"a": {"n": 1}}]
    assert step.process_row_in_thread({"a": ["x"]}) == [{"a": "x"}]
    for nothing in ("[]", "null", None):
        assert step.process_row_in_thread({"a": nothing}) == []


def test_only_the_encoded_columns_are_parsed():
    step = ExpandColumns(columns=["a", "b"], encoded=["b"])
    assert step.process_row_in_thread({"a": ["[1]"], "b": "[2]"}) == [{"a": "[1]", "b": 2}]
    with pytest.raises(RowError, match="'a' is not a list"):
        step.process_row_in_thread({"a": "[1]", "b": "[2]"})


@pytest.mark.parametrize(
    ("value", "encoded", "kind", "said"),
    [
        ("text", False, "list", "column 'a' is not a list but a str; write encoded=True"),
        ({"n": 1}, False, "list", "column 'a' is not a list but a dict$"),
        (5, False, "list", "not a list but a int"),
        ('{"n": 1}', True, "list", "not a list but a dict$"),
        ('"text"', True, "list", "not a list but a str$"),
        ("[1", True, "parse", "column 'a' is not JSON"),
        ("[" * 100_000, True, "parse", "column 'a' is not JSON"),
    ],
)
def test_what_is_no_list_fails_the_row(value, encoded, kind, said):
    with pytest.raises(RowError, match=said) as caught:
        ExpandColumns(columns=["a"], encoded=encoded).process_row_in_thread({"a": value})
    assert caught.value.kind == kind


def test_declaration_of_expanding():
    step = ExpandColumns(columns={"a": "x", "b": ""})
    assert (step.runs, step.shape) == (Runs.THREAD, Shape.SCATTER)
    assert step.reads() == step.needs() == ("a", "b")
    assert step.writes() == {"x": "", "b": ""}
    assert step.columns_after(("a", "b")) == ("a", "b", "x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": {"a": "x", "b": "x"}}, "the items of two columns go to 'x'"),
        ({"columns": {"a": "b", "b": "b"}}, "the items of two columns go to 'b'"),
        ({"columns": ["a", "a"], "encoded": ["c"]}, "encoded: 'c' is none of the columns"),
        ({"columns": ["answer"], "encoded": ["anwser"]}, "did you mean 'answer'"),
        ({"columns": ["a"], "split_statistics": True}, "unknown option 'split_statistics'"),
    ],
)
def test_what_cannot_be_expanded_is_refused(options, said):
    with pytest.raises(SpecError, match=said):
        ExpandColumns(**options)


MODEL = LLM("offline/stand-in")


def test_lists_of_unequal_length_are_filled_with_nulls_of_their_own_type(tmp_path: Path) -> None:
    rows = [
        {"a": [1, 2, 3], "b": ["x"], "n": 0},
        {"a": [], "b": [], "n": 1},
        {"a": None, "b": ["y", "z"], "n": 2},
        {"a": [4], "b": None, "n": 3},
    ]
    with Pipeline("unequal") as pipeline:
        LoadDataFromDicts(rows) >> ExpandColumns("items", columns=["a", "b"])
    result = balanced_run(pipeline, tmp_path / "out")
    assert [(row["n"], row["a"], row["b"]) for row in user_rows(result["items"])] == [
        (0, 1, "x"),
        (0, 2, None),
        (0, 3, None),
        (2, None, "y"),
        (2, None, "z"),
        (3, 4, None),
    ]
    counts = result.manifest["steps"]["items"]
    assert (counts["rows_in"], counts["rows_done"], counts["rows_failed"], counts["rows_out"]) == (4, 4, 0, 6)


def test_grouped_answers_are_taken_apart_into_the_rows_they_would_have_been(tmp_path: Path) -> None:
    def answers(**options: Any) -> Any:
        rows = LoadDataFromDicts([{"instruction": f"Tell me of {n}."} for n in range(3)])
        return rows >> TextGeneration("answers", llm=MODEL, num_generations=3, add_model_name=True, **options)

    with Pipeline("grouped") as grouped:
        answers(group_generations=True) >> ExpandColumns("rows", columns=["generation"])
    with Pipeline("rows") as plain:
        answers()
    expanded = user_rows(balanced_run(grouped, tmp_path / "a")["rows"])
    assert len(expanded) == 9
    assert expanded == user_rows(balanced_run(plain, tmp_path / "b")["answers"])


def test_merged_columns_are_judged_in_their_order_without_those_that_are_null(tmp_path: Path) -> None:
    rows = [{"instruction": "Go.", "a": "first", "b": second, "c": "third"} for second in ("second", None)]
    with Pipeline("merged") as pipeline:
        merged = MergeColumns("merged", columns=["c", "a", "b"], output_column="generations")
        LoadDataFromDicts(rows) >> merged >> UltraFeedback("judge", llm=MODEL)
    whole, gap = user_rows(balanced_run(pipeline, tmp_path / "out")["judge"])
    assert whole["generations"] == ["third", "first", "second"]
    assert gap["generations"] == ["third", "first", None]
    assert [rating is None for rating in whole["ratings"]] == [False, False, False]
    assert [rating is None for rating in gap["ratings"]] == [False, False, True]
    assert "a" not in whole
