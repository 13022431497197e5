"""A pool of models is a value: what a list becomes, what a file says of it, how its members are named and changed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelPool, change_members, from_options, make_pool, to_options
from raypipe.errors import SpecError
from raypipe.steps import TextGeneration

ONE, OTHER = LLM("offline/one", seed=1), LLM("groq/other", weight=2)


def asked_by_step(llm: Any) -> Any:
    return TextGeneration(template="x", llm=llm).llm


def test_a_list_of_models_is_a_pool_and_of_one_the_model() -> None:
    assert asked_by_step([ONE, OTHER]) == ModelPool((ONE, OTHER)) == pickle.loads(pickle.dumps(make_pool([ONE, OTHER])))
    assert asked_by_step([ONE]) == asked_by_step(ONE) == ONE
    assert asked_by_step((ONE, OTHER)).label == "offline/one | groq/other"
    assert asked_by_step([ModelPool((ONE, OTHER)), ONE]).label == "offline/one | groq/other | offline/one #2"


@pytest.mark.parametrize(
    ("given", "problem"),
    [([], "needs at least one"), ([ONE, "groq/other"], "is a list of LLM"), ("groq/other", "instance of LLM")],
)
def test_what_is_no_pool_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        asked_by_step(given)


def test_a_model_has_no_others_behind_it() -> None:
    with pytest.raises(SpecError, match="write llm="):
        LLM("offline/one", also=(OTHER,))


def test_a_file_says_a_pool_as_it_always_did() -> None:
    written = {"uri": "offline/one", "seed": 1, "also": [{"uri": "groq/other", "weight": 2.0}]}
    assert to_options(ModelPool((ONE, OTHER))) == written
    assert from_options(written) == ModelPool((ONE, OTHER))
    assert to_options(ONE) == {"uri": "offline/one", "seed": 1} and from_options(to_options(ONE)) == ONE
    with pytest.raises(SpecError, match="unknown option 'sed'"):
        from_options(written | {"also": [{"uri": "groq/other", "sed": 2}]})


def test_members_are_changed_one_by_one() -> None:
    def warm(llm: LLM) -> LLM:
        return llm.model_copy(update={"temperature": 1.0})

    assert change_members(ModelPool((ONE, OTHER)), warm) == ModelPool((warm(ONE), warm(OTHER)))
    assert change_members(ONE, warm) == warm(ONE)
