"""A list is asked on and on until it is long enough, and nothing stands in it twice."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, ListExtension, LoadDataFromDicts
from tests.steps.scripted import ScriptedCaller

GIVEN = ["sea", "Sky"]


def step(**fields):
    given = {"template": "{{ missing }} more {{ kind }}: {{ items | join(' ') }}", "parse": "lines", "output": "item"}
    return ListExtension(**(given | {"llm": LLM("offline/x"), "num_items": 3} | fields))


def extend(made, *answers, items=GIVEN):
    caller = ScriptedCaller(*answers)
    travelled = pickle.loads(pickle.dumps(made))
    travelled.open()
    row = {"items": items, "kind": "words"}
    return asyncio.run(travelled.process_row(row, caller)), [one.messages[0]["content"] for one in caller.asked]


def test_what_was_given_comes_first_and_what_is_new_says_so():
    rows, asked = extend(step(), "sun\nice\nfog")
    assert [row["item"] for row in rows] == ["sea", "Sky", "sun", "ice", "fog"]
    assert [row["is_new"] for row in rows] == [False, False, True, True, True]
    assert asked == ["3 more words: sea Sky"]


def test_it_asks_again_for_what_is_missing():
    rows, asked = extend(step(new_only=True), "SKY\nsun\nSun", "sea", "ice\nfog\nrain")
    assert [row["item"] for row in rows] == ["sun", "ice", "fog"]
    assert asked == ["3 more words: sea Sky", *["2 more words: sea Sky sun"] * 2]


def test_rounds_end():
    rows, asked = extend(step(new_only=True, max_rounds=2), "sun", "sun", "never asked")
    assert ([row["item"] for row in rows], len(asked)) == (["sun"], 2)
    with pytest.raises(RowError, match="2 answers brought no item that the list does not have") as caught:
        extend(step(max_rounds=2), "sea", "sky")
    assert caught.value.kind == "parse"


def test_a_list_that_was_given_twice_over_is_mended():
    rows, asked = extend(step(), "sun\nice\nfog", items=[" sea ", "SEA", "", "sky"])
    assert [row["item"] for row in rows] == ["sea", "sky", "sun", "ice", "fog"]
    assert asked == ["3 more words: sea sky"]
    assert len(extend(step(), "sun\nice\nfog", items=[])[0]) == 3


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (None, "column 'items' is not a list but None"),
        ("sea", "is not a list but 'sea'"),
        ([1], "not text: 1"),
        ([None], "None"),
    ],
)
def test_what_is_no_list_of_texts_fails_the_row(items, said):
    with pytest.raises(RowError, match=said):
        extend(step(), items=items)


def test_what_it_reads_and_writes():
    assert step().reads() == step().needs() == ("items", "kind")
    assert step(items="words").reads() == ("words", "kind")
    assert step(add_model_name=True).writes() == {"item": "string", "model_name": "string", "is_new": "bool"}
    rows, _ = extend(step(add_model_name=True), "sun\nice\nfog")
    assert [row["model_name"] for row in rows] == [None, None, *["offline/scripted"] * 3]
    assert any("beside 'is_new'" in problem for problem in step(output="is_new").problems())


def test_an_interrupted_list_goes_on_where_it_was(tmp_path):
    """Rounds are calls of their own: asked for more, only the rounds that are new are sent."""

    def pipeline(rounds):
        with Pipeline("list") as made:
            seed = LoadDataFromDicts([{"items": GIVEN, "kind": "words"}])
            more = step(name="more", max_rounds=rounds, llm=LLM("offline/x", options={"answers": ["sun", "ice"]}))
            seed >> more >> KeepColumns("kept", columns=["item"])
        return made.run(tmp_path / "out", engine="local").manifest["steps"]["more"]

    first, more = pipeline(1), pipeline(2)
    assert (first["calls_sent"], more["calls_sent"], more["calls_cached"]) == (1, 2, 1)
