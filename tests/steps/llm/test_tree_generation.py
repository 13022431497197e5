"""A tree of texts: level by level, to a depth, no text twice."""

from __future__ import annotations

import asyncio
import json
import pickle

import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Shape
from raypipe.errors import RowError
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, LoadDataFromDicts, TreeGeneration
from tests.steps.scripted import ScriptedCaller

SCHEMA = {
    "type": "object",
    "properties": {"parts": {"type": "array", "items": {"type": "string"}}},
    "required": ["parts"],
}


def step(**fields):
    given = {"template": "{{ style }} {{ depth }} {{ path | join('/') }}", "structured_output": SCHEMA, "root": "text"}
    return TreeGeneration(**(given | {"llm": LLM("offline/x"), "output": "part"} | fields))


def grow(tree, *answers, row=None):
    caller = ScriptedCaller(*(json.dumps({"parts": answer}) for answer in answers))
    travelled = pickle.loads(pickle.dumps(tree))
    travelled.open()
    return asyncio.run(travelled.process_row(row or {"text": "a", "style": "go"}, caller)), caller


def test_each_text_below_the_root_is_a_row_with_its_path():
    made, caller = grow(step(), ["b", " c "], ["d"], [])
    assert made == [
        {"part": "b", "path": ["a", "b"], "depth": 1},
        {"part": "c", "path": ["a", "c"], "depth": 1},
        {"part": "d", "path": ["a", "b", "d"], "depth": 2},
    ]
    assert [asked.messages[0]["content"] for asked in caller.asked] == ["go 0 a", "go 1 a/b", "go 1 a/c"]


@pytest.mark.parametrize(("depth", "calls"), [(1, 1), (2, 3), (3, 7)])
def test_the_depth_is_an_option(depth, calls):
    made, caller = grow(step(max_depth=depth), *([f"{n}l", f"{n}r"] for n in range(calls)))
    assert (len(caller.asked), len(made)) == (calls, 2 * calls)
    assert max(row["depth"] for row in made) == depth
    assert all(len(row["path"]) == row["depth"] + 1 for row in made)


def test_no_text_is_twice_in_the_tree():
    made, caller = grow(step(), ["b", "A ", "B", "c", ""], ["C", "a  b"], ["A B", "e"])
    assert [row["path"] for row in made] == [["a", "b"], ["a", "c"], ["a", "b", "a  b"], ["a", "c", "e"]]
    assert len(caller.asked) == 3


def test_leaves_are_what_nothing_is_below():
    assert [row["part"] for row in grow(step(leaves_only=True), ["b", "c"], ["d", "e"], [])[0]] == ["c", "d", "e"]
    alone, caller = grow(step(leaves_only=True, max_depth=0))
    assert (alone, caller.asked) == ([{"part": "a", "path": ["a"], "depth": 0}], [])
    assert grow(step(leaves_only=True, add_model_name=True, max_depth=0))[0][0]["model_name"] is None


def test_what_the_tree_brings_is_not_read():
    made = step(add_model_name=True, template="{{ style }} {{ part }} {{ path }} {{ depth }}")
    assert made.reads() == made.needs() == ("text", "style")
    assert made.writes() == {"part": "string", "model_name": "string", "path": "list<string>", "depth": "int64"}
    assert made.shape is Shape.SCATTER
    assert "distilabel_metadata" in step(add_raw_output=True).needs()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scatter": False}, "leave scatter=False out"),
        ({"output": "depth"}, "needs one column for its texts"),
        ({"max_depth": 0}, "makes no row with max_depth=0"),
        ({"parse": "text", "structured_output": None}, "scatter needs a list"),
    ],
)
def test_what_makes_no_tree_is_refused(fields, said):
    assert any(said in problem for problem in step(**fields).problems())


def test_what_is_no_text_fails_the_row():
    with pytest.raises(RowError, match="an item of the answer is not text: 3"):
        grow(step(parse="json_list", structured_output=None), ["b", 3])
    with pytest.raises(RowError, match="column 'text' is null"):
        grow(step(), row={"text": None, "style": "go"})


def test_a_tree_is_written_down_and_grows_again(tmp_path):
    with Pipeline("tree") as pipeline:
        tree = step(name="tree", root="topic", template="The topic is: {{ part }}\nList 3 parts.", max_depth=3)
        LoadDataFromDicts([{"topic": "sea"}, {"topic": "sky"}]) >> tree >> KeepColumns("kept", columns=["path"])
    result = pipeline.run(tmp_path / "out", engine="local")
    again = Pipeline.from_file(tmp_path / "out" / "pipeline.yaml").run(tmp_path / "again", engine="local")
    assert [len(rows["kept"]) for rows in (result, again)] == [2 * (3 + 9 + 27)] * 2
    assert again["kept"].to_arrow().equals(result["kept"].to_arrow())
