"""A run whose rows fail alike, one after the other, stops before all of them are paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError, StepFailedError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import Filter, LoadDataFromDicts, StepInput, TextGeneration, step
from tests.loopback import Loopback, serve

ROWS = 600
IN_FLIGHT = 8
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
IN_TIME = 20 + 8 * IN_FLIGHT
"""Rows that may be begun until the run knows that 20 have failed."""


def upper(text: str) -> str:
    if text.islower():
        raise ValueError("no capitals")
    return text


def asks(url: str, name: str = "ask", **options: Any) -> TextGeneration:
    llm = LLM("openai/loopback", base_url=url, concurrency=IN_FLIGHT, max_tries=1)
    return TextGeneration(name, llm=llm, template="{{ n }}", **options)


def chain(*steps: Any, rows: int = ROWS) -> Pipeline:
    with Pipeline("chain") as pipeline:
        before = LoadDataFromDicts([{"n": number} for number in range(rows)], name="seed")
        for make in steps:
            before = before >> make()
    return pipeline


def never_sent_twice(server: Loopback) -> bool:
    return set(server.counts().values()) == {1}


def test_a_schema_that_is_never_met_stops_the_run(engine: Any, tmp_path: Path) -> None:
    with serve(answer=lambda _: "no json", latency_s=0.05) as server:
        pipeline = chain(lambda: asks(server.base_url, structured_output=SCHEMA))
        with pytest.raises(StoppedError, match=r"step 'ask' .*\(schema\): the first 20 rows all failed.* is not JSON"):
            pipeline.run(tmp_path / "out", engine=engine)
        assert len(server.requests) <= 2 * IN_TIME
        assert never_sent_twice(server)
        result = Result(tmp_path / "out")
        assert 20 <= result.failed_rows <= IN_TIME
        assert "fails for one kind of reason" in result.manifest["stopped"]


def test_a_parser_is_mended_and_nothing_is_paid_twice(engine: Any, tmp_path: Path) -> None:
    with serve(answer=lambda _: "lower", latency_s=0.02) as server:
        wrong, right = (chain(lambda parse=parse: asks(server.base_url, parse=parse)) for parse in (upper, str.strip))
        with pytest.raises(StoppedError, match="max-failure-rate off"):
            wrong.run(tmp_path / "out", engine=engine)
        sent = len(server.requests)
        assert sent <= IN_TIME
        with pytest.raises(StoppedError, match="the first 20"):
            wrong.run(tmp_path / "out", engine=engine)
        assert len(right.run(tmp_path / "out", engine=engine)["ask"]) == ROWS
        assert never_sent_twice(server)
        assert len(server.requests) == ROWS


def test_what_stands_in_the_log_stops_a_run_that_sends_nothing(tmp_path: Path) -> None:
    with serve(answer=lambda _: "lower") as server:
        chain(lambda: asks(server.base_url)).run(tmp_path / "out", engine="local")
        with pytest.raises(StoppedError, match="the first 20 rows all failed"):
            chain(lambda: asks(server.base_url, parse=upper)).run(tmp_path / "out", engine="local")
        assert len(server.requests) == ROWS
    assert len(Result(tmp_path / "out")["ask"]) == ROWS


def test_half_of_the_last_rows_stop_the_run(engine: Any, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        return "lower" if int(body["messages"][-1]["content"]) > 100 else "UPPER"

    with serve(answer=answer, latency_s=0.02) as server:
        pipeline = chain(lambda: asks(server.base_url, parse=upper))
        with pytest.raises(StoppedError, match=r"\d+ of the last 200 rows failed"):
            pipeline.run(tmp_path / "out", engine=engine)
        assert 200 <= len(server.requests) <= 200 + IN_TIME
        assert len(Result(tmp_path / "out")["ask"]) == 101


def test_it_can_be_changed_and_removed(engine: Any, tmp_path: Path) -> None:
    with serve(answer=lambda _: "lower") as server:
        pipeline = chain(lambda: asks(server.base_url, parse=upper), rows=60)
        result = pipeline.run(tmp_path / "out", engine=engine, max_failure_rate=None)
        assert (result.failed_rows, result.exit_code) == (60, 3)
        # A retry goes on as the run did, unless it says otherwise.
        assert pipeline.retry(tmp_path / "out", engine=engine).failed_rows == 60
        with pytest.raises(StoppedError, match="the first 20"):
            pipeline.retry(tmp_path / "out", engine=engine, max_failure_rate=0.5)
        assert len(server.requests) == 60


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, float("nan"), float("inf"), True, "off", "0.5"])
def test_what_is_no_share_is_refused(rate: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"max_failure_rate: got .*; give the share of rows"):
        chain(rows=3).run(tmp_path / "out", engine="local", max_failure_rate=rate)


def fails(text: str) -> str:
    raise ValueError("never")


@step(inputs=["n"], outputs=["m"])
def odd_fail(row: Values) -> Values:
    if row["n"] % 2:
        raise ValueError("odd")
    return {"m": row["n"]}


@step(inputs=["n"], outputs=["m"], step_type="global")
def whole(rows: StepInput) -> Any:
    raise ValueError("all of them")
    yield []


def test_rows_made_null_have_failed(engine: Any, tmp_path: Path) -> None:
    with serve(latency_s=0.02) as server:
        pipeline = chain(lambda: asks(server.base_url, parse=fails, on_error="null"))
        with pytest.raises(StoppedError, match="the first 20 rows all failed"):
            pipeline.run(tmp_path / "out", engine=engine)
        assert len(server.requests) <= IN_TIME


def test_what_failed_or_was_filtered_before_does_not_count(tmp_path: Path) -> None:
    few = chain(odd_fail, lambda: Filter("few", keep="n < 38"), lambda: odd_fail(name="again"), rows=199)
    result = few.run(tmp_path / "out", engine="local")
    assert (result.failed_rows, len(result["again"])) == (99, 19)


def test_a_step_that_is_given_all_rows_fails_once(tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match="all of them"):
        chain(whole).run(tmp_path / "out", engine="local")


@pytest.mark.parametrize("groups", [[["ask"], ["later"]], "sequential_step_execution"])
def test_steps_that_are_loaded_in_turns_are_counted(groups: Any, tmp_path: Path) -> None:
    with serve(latency_s=0.01) as server:
        pipeline = chain(lambda: asks(server.base_url, output="a"), lambda: asks(server.base_url, "later", parse=fails))
        with pytest.raises(StoppedError, match="step 'later'"):
            pipeline.run(tmp_path / "out", engine="local", load_groups=groups)
        assert ROWS + 20 <= len(server.requests) <= ROWS + IN_TIME


def test_children_of_a_scatter_are_counted(tmp_path: Path) -> None:
    with serve(answer=lambda _: "a, b, c", latency_s=0.01) as server:
        lists = lambda: asks(server.base_url, "lists", output="n", parse="comma_list").scatter()  # noqa: E731
        pipeline = chain(lists, lambda: asks(server.base_url, parse=fails))
        with pytest.raises(StoppedError, match="step 'ask'"):
            pipeline.run(tmp_path / "out", engine="local")
