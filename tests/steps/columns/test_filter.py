"""Letting rows through."""

from __future__ import annotations

import pytest
from ray import cloudpickle

from raypipe.contracts.step import Runs, Shape
from raypipe.errors import RowError, SpecError
from raypipe.steps import Filter


def is_long(row):
    return len(row["text"]) > 3


def test_an_expression_reads_its_columns():
    step = Filter("good", keep='score > 3 and lang == "en"')
    assert (step.runs, step.shape) == (Runs.THREAD, Shape.FILTER)
    assert step.reads() == step.needs() == ("lang", "score")
    assert step.process_row_in_thread({"score": 4, "lang": "en"}) == {}
    assert step.process_row_in_thread({"score": 4, "lang": "de"}) is None
    assert step.columns_after(("score", "lang")) == ("score", "lang")


@pytest.mark.parametrize("keep", [is_long, f"{__name__}:is_long"])
def test_a_function_gets_the_whole_row(keep):
    step = cloudpickle.loads(cloudpickle.dumps(Filter(keep=keep)))
    assert (step.reads(), step.needs()) == ((), None)
    assert step.process_row_in_thread({"text": "long enough"}) == {}
    assert step.process_row_in_thread({"text": "no"}) is None


def test_dots_and_colons_of_an_expression_are_not_taken_for_a_path():
    assert Filter(keep="scores.helpfulness > 2").process_row_in_thread({"scores": {"helpfulness": 3}}) == {}
    assert Filter(keep="scores.good").process_row_in_thread({"scores": {"good": False}}) is None
    assert Filter(keep="text[:2] == 'ab'").process_row_in_thread({"text": "abc"}) == {}


def test_a_row_that_the_expression_does_not_fit_fails():
    with pytest.raises(RowError) as caught:
        Filter(keep="score > 3").process_row_in_thread({"score": None})
    assert caught.value.kind == "template"


def test_two_filters_that_say_the_same_are_equal():
    used, fresh = Filter("f", keep="a > 1"), Filter("f", keep="a > 1")
    used.process_row_in_thread({"a": 2})
    assert used == fresh


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("score >", "expression: line 1"),
        ("no_such:function", "nothing to import there"),
        ("math:pi", "cannot be called"),
    ],
)
def test_what_cannot_be_asked_is_refused(keep, said):
    with pytest.raises(SpecError, match=said) as caught:
        Filter("good", keep=keep)
    assert "Filter 'good'" in str(caught.value)
