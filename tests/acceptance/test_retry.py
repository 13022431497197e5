"""Rows that failed are run again alone, and what comes out stands where it would have stood."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import InputError, StoppedError
from raypipe.execution.context import RunOptions
from raypipe.execution.stopping import Stop
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.chain import answer, asked, topics
from tests.acceptance.processes import table
from tests.books import assert_in_source_order
from tests.loopback import Behaviour, Loopback, serve

ROWS = 300


def scattering(url: str, **fields: Any) -> Pipeline:
    llm = LLM("openai/loopback", base_url=url, max_tries=1)
    with Pipeline("scattering") as pipeline:
        seed = LoadDataFromDicts([{"topic": topic} for topic in topics(ROWS)], name="seed")
        parts = TextGeneration("parts", llm=llm, template="{{ topic }}", output="part", parse=halves).scatter()
        seed >> parts >> TextGeneration("judge", llm=llm, template="judge {{ part }}", output="verdict", **fields)
    return pipeline


def halves(text: str) -> list[str]:
    return [text[:16], text[16:]]


def heal(server: Loopback) -> None:
    server.behaviour = Behaviour(answer=answer)


def test_only_failed_rows_are_run_again(engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        whole = table(scattering(server.base_url).run(tmp_path / "whole", engine="local"), "judge")
    with serve(answer=answer, shares={500: 0.1, 400: 0.05}) as server:
        pipeline = scattering(server.base_url)
        broken = pipeline.run(tmp_path / "out", engine=engine)
        failed = Counter(broken.failures.to_arrow()["kind"].to_pylist())
        assert min(failed["server"], failed["rejected"]) > 5
        heal(server)
        seen = len(server.requests)
        partly = pipeline.retry(tmp_path / "out", kinds=["server"], engine=engine)
        assert Counter(partly.failures.to_arrow()["kind"].to_pylist())["server"] == 0
        mended = pipeline.retry(tmp_path / "out", engine=engine)
        counts = Counter(asked(server, since=seen))
    assert (mended.failed_rows, mended.exit_code) == (0, 0)
    assert table(mended, "judge") == whole
    assert_in_source_order(mended["judge"])
    assert set(counts.values()) == {1}
    assert counts.total() <= 3 * failed.total()
    assert [retry["source_rows"] for retry in mended.manifest["retries"]][1] <= failed["rejected"]


def test_a_retry_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    with serve(answer=answer, shares={400: 0.1}) as server:
        pipeline = scattering(server.base_url)
        broken = pipeline.run(tmp_path / "out", engine="local")
        before = table(broken, "judge"), table(broken, "judge")
        with pytest.raises(InputError, match="no failures of kind parse; there are: rejected"):
            pipeline.retry(tmp_path / "out", kinds=["parse"], engine="local")
        heal(server)
        with Pipeline("scattering") as other:
            llm = LLM("openai/loopback", base_url=server.base_url)
            TextGeneration("parts", llm=llm, template="{{ topic }}", output="part")
            LoadDataFromDicts([{"topic": "another"}], name="seed") >> other.steps[0]
        with pytest.raises(InputError, match="no longer in the input"):
            other.retry(tmp_path / "out", engine="local")
        assert (table(Result(tmp_path / "out"), "judge"),) * 2 == before
        mended = pipeline.retry(tmp_path / "out", engine="local")
        assert mended.failed_rows == 0
        assert pipeline.retry(tmp_path / "out", engine="local").manifest == mended.manifest


def test_a_retry_may_be_asked_to_end(tmp_path: Path) -> None:
    with serve(answer=answer, shares={400: 0.1}) as server:
        pipeline = scattering(server.base_url)
        before = table(pipeline.run(tmp_path / "out", engine="local"), "judge")
        heal(server)
        stop, seen = Stop(), len(server.requests)
        stop.ask()
        with pytest.raises(StoppedError):
            pipeline.retry_with(RunOptions(tmp_path / "out", engine="local"), stop=stop)
    assert len(server.requests) == seen
    assert table(Result(tmp_path / "out"), "judge") == before


def test_rows_may_go_on_with_nulls(tmp_path: Path) -> None:
    with serve(answer=answer, shares={400: 0.1}) as server:
        result = scattering(server.base_url, on_error="null").run(tmp_path / "out", engine="local")
    verdicts = result["judge"].to_arrow()["verdict"].to_pylist()
    assert 0 < verdicts.count(None) < 100
    assert set(result.failures.to_arrow()["step"].to_pylist()) == {"parts"}


def test_a_row_may_stop_the_run(engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer, shares={400: 0.02}) as server:
        pipeline = scattering(server.base_url, on_error="stop")
        with pytest.raises(StoppedError, match="step 'judge' stops the run for a row that failed"):
            pipeline.run(tmp_path / "out", engine=engine)
        assert len(server.requests) < 3 * ROWS
        assert "judge" in Result(tmp_path / "out").failures.to_arrow()["step"].to_pylist()
        heal(server)
        assert len(pipeline.run(tmp_path / "out", engine=engine)["judge"]) == 2 * ROWS
