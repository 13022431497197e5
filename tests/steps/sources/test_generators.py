"""Generators: that cannot begin, that break, without rows, without end."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InputError, SpecError, StoppedError
from raypipe.steps import GeneratorStep, KeepColumns, StepInput, step
from tests.acceptance.chain import logged
from tests.books import balanced_run, user_rows
from tests.loopback import Loopback
from tests.pipelines import asking, chain


class _NotLoaded(GeneratorStep):
    def load(self) -> None:
        raise OSError("no disk")

    def process(self, offset: int = 0) -> Any:
        yield [{"n": 1}], True


def test_a_generator_that_cannot_begin_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step 'numbers' cannot read its rows: .*no disk"):
        chain(lambda: _NotLoaded("numbers"), lambda: KeepColumns(columns=["n"])).run(tmp_path / "out", engine="local")


def test_a_function_that_generates_takes_no_rows() -> None:
    with pytest.raises(SpecError, match="no parameter annotated StepInput as a generator step"):

        @step(outputs=["n"], step_type="generator")
        def wrong(rows: StepInput) -> Any:
            yield rows, True


def test_a_generator_without_rows_ends(tmp_path: Path) -> None:
    @step(outputs=["n"], step_type="generator")
    def nothing(offset: int = 0) -> Any:
        yield [], False
        yield [], True

    result = balanced_run(chain(nothing, lambda: KeepColumns("kept", columns=["n"])), tmp_path / "out")
    assert user_rows(result["kept"]) == []


def test_a_generator_without_end_is_read_no_further_than_it_is_needed(tmp_path: Path, server: Loopback) -> None:
    @step(outputs=["n"], step_type="generator")
    def endless(offset: int = 0) -> Any:
        for number in itertools.count():
            yield [{"n": number}], False

    pipeline = chain(lambda: endless("endless"), lambda: asking(server, "asked", "{{ n }}"))
    assert [row["n"] for row in pipeline.dry_run(batch_size=2).samples["asked"]] == [0, 1]
    with pytest.raises(StoppedError, match="max_calls=20 is reached"):
        pipeline.run(tmp_path / "out", engine="local", max_calls=20)
    assert len(server.requests) == 20


def test_a_generator_that_broke_is_read_again_and_what_was_logged_is_not_asked_again(
    tmp_path: Path, server: Loopback
) -> None:
    state = ["broken"]

    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        for number in range(10):
            if number == 5 and state:
                while sum(request.is_answered for request in server.requests) < 5:
                    time.sleep(0.01)
                time.sleep(0.3)  # they are logged meanwhile
                raise ValueError(state.pop())
            yield [{"n": number}], False

    pipeline = chain(lambda: counting("counting"), lambda: asking(server, "asked", "{{ n }}"))
    with pytest.raises(InputError, match="step 'counting' cannot read its rows: ValueError: broken"):
        pipeline.run(tmp_path / "out", engine="local")
    known = len(logged(tmp_path / "out" / "calls"))
    result = balanced_run(pipeline, tmp_path / "out")
    assert [row["n"] for row in user_rows(result["asked"])] == list(range(10))
    assert 0 < known <= 5
    assert result.manifest["legs"][-1]["calls_sent"] == 10 - known
