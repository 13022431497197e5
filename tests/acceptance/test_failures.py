"""One bad row costs one row; what nothing can pass ends the run with one sentence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raypipe.errors import InfrastructureError, InputError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import Filter, LoadDataFromDicts, LoadDataFromFiles, step
from raypipe.steps.tasks import TextGeneration
from tests.books import assert_balanced, failed
from tests.loopback import CUT, TRUNCATED, serve


@step(inputs=["n"], outputs=["half"])
def halve(row):  # type: ignore[no-untyped-def]
    if row["n"] == 500:
        raise ValueError("500 cannot be halved")
    return {"half": row["n"] / 2}


def _asked(engine: str, out: Path, llm: LLM, rows: int = 50) -> Result:
    with Pipeline("asked") as pipeline:
        LoadDataFromDicts([{"n": number} for number in range(rows)]) >> TextGeneration(
            "answers", llm=llm, template="{{ n }}", output="answer"
        )
    result = pipeline.run(out, engine=engine)  # type: ignore[arg-type]
    assert_balanced(pipeline.graph(), result)
    return result


def test_a_step_raising_on_one_row_of_a_thousand_costs_that_row(engine: str, tmp_path: Path) -> None:
    with Pipeline("halves") as pipeline:
        LoadDataFromDicts([{"n": number} for number in range(1000)]) >> halve("halved")
    result = pipeline.run(tmp_path / "out", engine=engine)  # type: ignore[arg-type]
    assert_balanced(pipeline.graph(), result)
    assert len(result["halved"]) == 999
    [(where, kind, message, row)] = failed(result)
    assert (where, kind, row) == ("halved", "exception", {"n": 500})
    assert "ValueError: 500 cannot be halved" in message
    assert len(result.failures.to_arrow().column("_row_id")[0].as_py()) == 32
    assert result.exit_code == 3


def test_a_filter_that_drops_all_rows_leaves_an_empty_dataset_with_its_columns(engine: str, tmp_path: Path) -> None:
    llm = LLM("offline/stand-in")
    with Pipeline("nothing") as pipeline:
        seed = LoadDataFromDicts([{"n": number} for number in range(10)])
        seed >> Filter("none", keep="n > 100") >> TextGeneration("answers", llm=llm, template="{{ n }}", output="answer")
    result = pipeline.run(tmp_path / "out", engine=engine)  # type: ignore[arg-type]
    table = result["answers"].to_arrow()
    assert table.num_rows == 0
    assert [str(kind) for kind in table.schema.types[:2]] == ["int64", "string"]
    assert table.column_names[:2] == ["n", "answer"]
    assert result.exit_code == 0


def test_an_unreachable_endpoint_ends_the_run_with_one_sentence(engine: str, tmp_path: Path) -> None:
    llm = LLM("vllm-server/x", base_url="http://127.0.0.1:9/v1", max_tries=2)
    began = time.monotonic()
    with pytest.raises(InfrastructureError) as caught:
        _asked(engine, tmp_path / "out", llm)
    assert "127.0.0.1:9" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60


def test_a_refused_key_ends_the_run_after_a_few_calls(engine: str, tmp_path: Path) -> None:
    with serve(shares={401: 1.0}) as server:
        llm = LLM("vllm-server/x", base_url=server.base_url, concurrency=4)
        with pytest.raises(InfrastructureError, match="401"):
            _asked(engine, tmp_path / "out", llm, rows=500)
        assert len(server.requests) < 50


def test_broken_answers_and_server_errors_are_tried_again(engine: str, tmp_path: Path) -> None:
    with serve(shares={500: 0.05, CUT: 0.02, TRUNCATED: 0.02}) as server:
        result = _asked(engine, tmp_path / "out", LLM("vllm-server/x", base_url=server.base_url), rows=300)
        assert len(server.requests) > 300
        answered = [logged.digest for logged in server.requests if logged.is_answered and logged.status == 200]
    assert len(result["answers"]) == 300
    assert len(set(answered)) == 300


def test_a_request_to_slow_down_is_honoured_and_no_failed_try(engine: str, tmp_path: Path) -> None:
    with serve(script=[429, 429, 429], headers={"Retry-After": "1"}) as server:
        llm = LLM("vllm-server/x", base_url=server.base_url, concurrency=1, max_tries=1)
        result = _asked(engine, tmp_path / "out", llm, rows=5)
        starts = [logged.started for logged in server.requests]
    assert len(result["answers"]) == 5
    assert all(later - earlier >= 0.99 for earlier, later in zip(starts[:3], starts[1:4], strict=True))


def test_a_malformed_line_of_input_is_named(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": \n')
    with Pipeline("malformed") as pipeline:
        LoadDataFromFiles(path=str(path)) >> halve("halved")
    with pytest.raises(InputError, match=r"rows\.jsonl.*line 2"):
        pipeline.run(tmp_path / "out", engine=engine)  # type: ignore[arg-type]
