"""Runs that go on in a folder that is there: nothing is asked twice, nothing is kept that is out of date."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import StoppedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import KeepColumns, TextGeneration, step
from tests.books import Row, balanced_run, user_rows
from tests.loopback import Loopback
from tests.pipelines import asking, chain, one, scaled, seed


def test_a_run_leaves_signals_and_logging_as_they_were(tmp_path: Path) -> None:
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        before = _signals_and_logging()
        balanced_run(chain(seed, one), tmp_path / "out")
        assert _signals_and_logging() == before
    finally:
        logging.getLogger().removeHandler(handler)


def _signals_and_logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(root.handlers), root.level


def test_an_edited_function_makes_new_values(tmp_path: Path) -> None:
    found: list[list[int]] = []
    for factor in (1, 2):

        @step(inputs=["n"], outputs=["m"])
        def edited(row: Values, factor: int = factor) -> Row:
            return {"m": factor * row["n"]}

        result = balanced_run(chain(seed, lambda: edited("edited")), tmp_path / "out")
        found.append([row["m"] for row in user_rows(result["edited"])])
    assert found == [list(range(10)), list(range(0, 20, 2))]


def test_a_parameter_of_a_step_changes_what_comes_behind_it(tmp_path: Path, server: Loopback) -> None:
    for factor, sent in ((1, 10), (10, 19), (1, 19)):
        pipeline = chain(seed, lambda: scaled("scaled"), lambda: asking(server, "asked", "{{ m }}"))
        result = balanced_run(pipeline, tmp_path / "out", parameters={"scaled": {"factor": factor}})
        assert [row["m"] for row in user_rows(result["asked"])] == [factor * n for n in range(10)]
        assert len(server.requests) == sent, "only the row with 0 asks the same"
        asked = {request.body["messages"][0]["content"] for request in server.requests}
        assert {str(factor * n) for n in range(10)} <= asked


def test_another_leaf_beside_one_that_is_done_asks_only_for_itself(tmp_path: Path, server: Loopback) -> None:
    answers: list[list[Row]] = []
    for is_second in (False, True):
        with Pipeline("fork") as pipeline:
            start = seed()
            start >> asking(server, "left", "left {{ n }}")
            if is_second:
                start >> asking(server, "right", "right {{ n }}")
        result = balanced_run(pipeline, tmp_path / "out")
        answers.append(user_rows(result["left"]))
    assert answers[0] == answers[1]
    assert len(result["right"]) == 10
    assert len(server.requests) == 20


def test_a_step_added_to_a_run_that_was_cut_is_given_all_rows(tmp_path: Path, server: Loopback) -> None:
    def first() -> TextGeneration:
        return asking(server, "first", "{{ n }}", output="said")

    with pytest.raises(StoppedError):
        chain(seed, first).run(tmp_path / "out", engine="local", max_calls=6)
    assert len(Result(tmp_path / "out")["first"]) == 6
    longer = chain(seed, first, lambda: asking(server, "second", "{{ said }}"))
    rows = user_rows(balanced_run(longer, tmp_path / "out", max_calls=100)["second"])
    assert [row["n"] for row in rows] == list(range(10))
    assert len(server.requests) == 20


def test_a_run_that_is_cut_again_and_again_gets_done(tmp_path: Path, server: Loopback) -> None:
    pipeline = chain(seed, lambda: asking(server, "first", "{{ n }}", output="said"), lambda: scaled("scaled"))
    for most in (3, 6, 9):
        with pytest.raises(StoppedError):
            pipeline.run(tmp_path / "out", engine="local", max_calls=most)
        assert len(server.requests) == most
    rows = user_rows(balanced_run(pipeline, tmp_path / "out", max_calls=10)["scaled"])
    assert [row["m"] for row in rows] == list(range(10))
    assert len(server.requests) == 10


def test_a_step_that_forgets_its_answers_is_followed_by_those_behind_it(tmp_path: Path, server: Loopback) -> None:
    found: list[list[Row]] = []
    for use_cache, sent in ((True, 20), (True, 20), (False, 40)):
        with Pipeline("forgetful") as pipeline:
            first = asking(server, "first", "{{ n }}", output="said", use_cache=use_cache)
            seed() >> first >> asking(server, "second", "{{ said }}")
        result = balanced_run(pipeline, tmp_path / "out")
        found.append(user_rows(result["second"]))
        assert len(server.requests) == sent
    assert found[0] == found[1]
    assert not {row["said"] for row in found[0]} & {row["said"] for row in found[2]}
    assert not {row["generation"] for row in found[0]} & {row["generation"] for row in found[2]}


@pytest.mark.parametrize(
    "again",
    [lambda: KeepColumns("end", columns=["a", "n"]), lambda: KeepColumns("end", columns=["a"])],
    ids=["more", "others"],
)
def test_a_run_with_other_columns_takes_the_place_of_the_one_before(
    tmp_path: Path, again: Callable[[], KeepColumns]
) -> None:
    balanced_run(chain(seed, one, lambda: KeepColumns("end", columns=["n"])), tmp_path / "out")
    rows = user_rows(balanced_run(chain(seed, one, again), tmp_path / "out")["end"])
    assert [row["a"] for row in rows] == list(range(10))
    assert rows == user_rows(balanced_run(chain(seed, one, again), tmp_path / "new")["end"])


def test_a_column_may_have_another_type_when_it_is_run_again(tmp_path: Path) -> None:
    for value in (1, "one", [1.5]):
        with Pipeline("typed") as pipeline:
            seed([{"n": value}]) >> one("end")
        result = balanced_run(pipeline, tmp_path / "out")
        assert user_rows(result["end"]) == [{"n": value, "a": value}]
