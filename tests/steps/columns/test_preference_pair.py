"""Preference pairs."""

from __future__ import annotations

import pytest

from raypipe.contracts.step import Shape
from raypipe.errors import RowError, SpecError
from raypipe.steps import PreferencePair


def row(a, b, text_a="one", text_b="two"):
    return {"question": "q", "response_a": text_a, "response_b": text_b, "scores_a": a, "scores_b": b}


def test_the_better_response_is_chosen():
    step = PreferencePair("pairs")
    assert step.shape is Shape.FILTER
    assert step.reads() == ("question", "response_a", "response_b", "scores_a", "scores_b")
    assert step.process_row_in_thread(row(1, 3.5)) == {
        "prompt": "q",
        "chosen": "two",
        "rejected": "one",
        "scores": {"chosen": 3.5, "rejected": 1},
        "chosen_score": 3.5,
        "rejected_score": 1.0,
    }
    assert set(step.writes()) == set(step.process_row_in_thread(row(2, 1)))


def test_aspects_are_added_up():
    made = PreferencePair().process_row_in_thread(row({"help": 4, "truth": 1}, {"help": 2, "truth": 4}))
    assert (made["chosen"], made["chosen_score"], made["rejected_score"]) == ("two", 6.0, 5.0)
    assert made["scores"] == {"chosen": {"help": 2, "truth": 4}, "rejected": {"help": 4, "truth": 1}}


def test_weights_decide_what_an_aspect_counts():
    step = PreferencePair(weights={"help": 2, "length": -1})
    made = step.process_row_in_thread(row({"help": 3, "length": 4, "truth": 0}, {"help": 2, "length": 0, "truth": 9}))
    assert (made["chosen"], made["chosen_score"], made["rejected_score"]) == ("two", 4.0, 2.0)


def test_ties_are_dropped_or_go_to_the_first():
    assert PreferencePair().process_row_in_thread(row(2, 2)) is None
    made = PreferencePair(ties="first").process_row_in_thread(row(2, 2))
    assert (made["chosen"], made["rejected"]) == ("one", "two")


def test_the_same_text_twice_is_no_preference():
    for ties in ("drop", "first"):
        assert PreferencePair(ties=ties).process_row_in_thread(row(1, 4, "same", "same")) is None


def test_of_several_responses_the_best_and_the_worst():
    step = PreferencePair(prompt="p", responses=["a", "b", "c"], scores=["x", "y", "z"])
    made = step.process_row_in_thread({"p": "q", "a": "A", "b": "B", "c": "C", "x": 2, "y": 3, "z": 1})
    assert (made["chosen"], made["rejected"]) == ("B", "C")


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (None, 1, "'scores_a' is not a number but None"),
        ("3", 1, "not a number but '3'"),
        (True, 1, "not a number but True"),
        (float("nan"), 1, "not a number but nan"),
        ({}, {}, "has no scores"),
        ({"help": 1}, {"help": None}, r"'scores_b\.help' is not a number but None"),
    ],
)
def test_what_is_no_score_fails_the_row(a, b, said):
    with pytest.raises(RowError, match=said) as caught:
        PreferencePair().process_row_in_thread(row(a, b))
    assert caught.value.kind == "score"


def test_unpaired_columns_are_refused():
    with pytest.raises(SpecError, match="2 responses need as many scores, got 3"):
        PreferencePair(scores=["a", "b", "c"])
    with pytest.raises(SpecError, match="ties"):
        PreferencePair(ties="both")
