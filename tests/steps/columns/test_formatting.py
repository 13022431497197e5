"""Formatting answers for training."""

from __future__ import annotations

import hashlib

import pytest

from raypipe.contracts.step import Runs
from raypipe.errors import RowError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.columns.formatting import (
    FormatChatGenerationDPO,
    FormatChatGenerationSFT,
    FormatTextGenerationDPO,
    FormatTextGenerationSFT,
)

USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [SYSTEM, USER, {"role": "assistant", "content": "How so?"}, {"role": "user", "content": "Why not?"}]
WHY = {"prompt": "Why?", "prompt_id": hashlib.sha256(b"Why?").hexdigest()}


def said(text):
    return {"role": "assistant", "content": text}


def rated(ratings, texts=("a", "b", "c"), **more):
    return {"instruction": "Why?", "messages": TALK, "generations": list(texts), "ratings": ratings, **more}


def process(kind, row):
    made = kind().process_row_in_thread(row)
    assert set(made) == set(kind().writes())
    return made


@pytest.mark.parametrize(
    ("system", "first"),
    [({"system_prompt": "Be brief."}, [SYSTEM]), ({"system_prompt": ""}, []), ({"system_prompt": None}, []), ({}, [])],
)
def test_a_system_prompt_comes_first_only_if_not_empty(system, first):
    row = {"instruction": "Why?", "generation": "So.", **system}
    assert process(FormatTextGenerationSFT, row) == {**WHY, "messages": [*first, USER, said("So.")]}
    made = process(FormatTextGenerationDPO, rated([1, 2, 3], **system))
    assert made["chosen"] == [*first, USER, said("c")]
    assert made["rejected"] == [*first, USER, said("a")]


def test_a_conversation_goes_on():
    row = {"messages": TALK, "generation": "So."}
    assert process(FormatChatGenerationSFT, row) == {**WHY, "messages": [*TALK, said("So.")]}
    assert len(TALK) == 4


@pytest.mark.parametrize("kind", [FormatTextGenerationDPO, FormatChatGenerationDPO])
def test_the_best_is_chosen_and_the_worst_rejected(kind):
    before = TALK if kind is FormatChatGenerationDPO else [USER]
    assert process(kind, rated([2, 5, 1.5], generation_models=["m", "n", "o"])) == {
        **WHY,
        "chosen": [*before, said("b")],
        "chosen_model": "n",
        "chosen_rating": 5,
        "rejected": [*before, said("c")],
        "rejected_model": "o",
        "rejected_rating": 1.5,
    }


@pytest.mark.parametrize("models", [{}, {"generation_models": None}])
def test_without_models_theirs_are_null(models):
    made = process(FormatTextGenerationDPO, rated([1, 2, 3], **models))
    assert (made["chosen_model"], made["rejected_model"]) == (None, None)


@pytest.mark.parametrize(
    ("ratings", "chosen", "rejected"),
    [
        ([5, 5, 1], "a", "c"),
        ([5, 1, 1], "a", "b"),
        ([1, 5, 5], "b", "a"),
        ([None, 5, 1], "b", "c"),
        ([3, None, 4], "c", "a"),
        ([-1, 0, -2], "b", "c"),
    ],
)
def test_of_equal_ratings_the_first_counts_and_nulls_do_not(ratings, chosen, rejected):
    made = process(FormatTextGenerationDPO, rated(ratings))
    assert (made["chosen"][-1], made["rejected"][-1]) == (said(chosen), said(rejected))


def test_a_generation_without_text_is_neither():
    made = process(FormatTextGenerationDPO, rated([9, 2, 1], (None, "b", "c")))
    assert (made["chosen"][-1], made["rejected"][-1]) == (said("b"), said("c"))


@pytest.mark.parametrize("kind", [FormatTextGenerationDPO, FormatChatGenerationDPO])
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (rated([3, 3, 3]), "all 3 generations are rated 3, so none is preferred"),
        (rated([3, None, 3]), "all 2 generations are rated 3"),
        (rated([None, None, 3]), "1 of 3 generations have a rating; a preference needs two"),
        (rated([None, None, None]), "0 of 3"),
        (rated([4], ["a"]), "1 of 1"),
        (rated([], []), "0 of 0"),
        (rated([1, 2, 3], ["a", None, None]), "1 of 3"),
        (rated([1, 2], ["same", "same"]), "are the same text"),
    ],
)
def test_no_generation_is_chosen_and_rejected_at_once(kind, row, problem):
    with pytest.raises(RowError, match=problem) as caught:
        kind().process_row_in_thread(row)
    assert caught.value.kind == "tie"


@pytest.mark.parametrize(
    ("kind", "row", "kind_of_failure", "problem"),
    [
        (FormatTextGenerationSFT, {"instruction": None, "generation": "x"}, "text", "'instruction' has None"),
        (FormatTextGenerationSFT, {"instruction": "x", "generation": None}, "text", "'generation' has None"),
        (FormatChatGenerationSFT, {"messages": TALK, "generation": 5}, "text", "'generation' has 5"),
        (FormatChatGenerationSFT, {"messages": None, "generation": "x"}, "list", "'messages' is not a list but None"),
        (FormatChatGenerationSFT, {"messages": [], "generation": "x"}, "messages", r"of the user \(roles: none\)"),
        (FormatChatGenerationSFT, {"messages": [SYSTEM], "generation": "x"}, "messages", r"\(roles: 'system'\)"),
        (FormatChatGenerationSFT, {"messages": ["Hi"], "generation": "x"}, "messages", "'Hi', which is not a message"),
        (FormatChatGenerationDPO, {"messages": [{"role": "user"}]}, "messages", "which is not a message"),
        (FormatTextGenerationDPO, rated([1, 2]), "list", "'ratings' has 2 items for 3 generations"),
        (FormatTextGenerationDPO, rated(None), "list", "'ratings' is not a list but None"),
        (FormatTextGenerationDPO, rated([1, 2, 3], generation_models=["m"]), "list", "'generation_models' has 1 items"),
        (FormatTextGenerationDPO, rated([1, "2", 3]), "score", "'ratings' has '2', which is not a number"),
        (FormatTextGenerationDPO, rated([1, True, 3]), "score", "has True"),
        (FormatTextGenerationDPO, rated([1, float("nan"), 3]), "score", "has nan"),
        (FormatTextGenerationDPO, rated([1, 2], ["a", 7]), "text", "'generations' has 7"),
    ],
)
def test_what_cannot_be_formatted_fails_the_row(kind, row, kind_of_failure, problem):
    with pytest.raises(RowError, match=problem) as caught:
        kind().process_row_in_thread(row)
    assert caught.value.kind == kind_of_failure


def test_declarations():
    assert {kind.runs for kind in (FormatTextGenerationSFT, FormatChatGenerationSFT)} == {Runs.THREAD}
    assert FormatTextGenerationSFT().reads() == ("instruction", "generation")
    assert FormatChatGenerationSFT().reads() == FormatChatGenerationSFT().needs() == ("messages", "generation")
    assert FormatTextGenerationDPO().reads() == ("instruction", "generations", "ratings")
    assert FormatChatGenerationDPO().reads() == ("messages", "generations", "ratings")
    assert FormatTextGenerationSFT().needs() is FormatTextGenerationDPO().needs() is None
    assert FormatChatGenerationDPO().writes()["chosen_rating"] == "double"


def test_preferences_in_a_run(tmp_path):
    rows = [rated([1, 2, 3]), rated([2, 2, 2]), rated([5, None, 4], generation_models=["m", "n", "o"])]
    for row in rows:
        row.setdefault("generation_models", None)
    with Pipeline() as pipeline:
        LoadDataFromDicts(rows) >> FormatTextGenerationDPO("pairs")
    result = pipeline.run(tmp_path / "out", engine="local", max_failed_rows=1)
    made = result["pairs"].to_arrow().to_pylist()
    assert [(row["chosen"][-1]["content"], row["rejected_rating"], row["chosen_model"]) for row in made] == [
        ("c", 1.0, None),
        ("a", 4.0, "m"),
    ]
    assert result.failures.to_arrow().column("kind").to_pylist() == ["tie"]
