"""A failure says how many calls were made for its row, whoever was to blame."""

from __future__ import annotations

from pathlib import Path

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.loopback import serve


def test_an_answer_that_cannot_be_read_is_a_call_that_was_made(tmp_path: Path) -> None:
    with serve() as server, Pipeline("unread") as pipeline:
        llm = LLM("openai/loopback", base_url=server.base_url)
        LoadDataFromDicts([{"n": 1}]) >> TextGeneration("ask", llm=llm, template="{{ n }}", parse="json")
        for _ in range(2):  # the second time the answer is that of the log
            result = pipeline.run(tmp_path / "out", engine="local")
            assert [row["tries"] for row in result.failures.to_arrow().to_pylist()] == [1]
        assert len(server.requests) == 1


def test_every_try_of_a_call_that_gets_no_answer_counts(tmp_path: Path) -> None:
    with serve(script=[500, 500, 500, 500]) as server, Pipeline("unanswered") as pipeline:
        llm = LLM("openai/loopback", base_url=server.base_url, max_tries=2)
        LoadDataFromDicts([{"n": 1}]) >> TextGeneration("ask", llm=llm, template="{{ n }}")
        result = pipeline.run(tmp_path / "out", engine="local")
    assert [row["tries"] for row in result.failures.to_arrow().to_pylist()] == [2]
    ask = result.manifest["steps"]["ask"]
    assert (ask["calls_sent"], ask["calls_unanswered"], ask["calls_cached"]) == (2, 2, 0)
