"""A refusal is an answer: logged, counted, never asked for again unless the user says so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import make_pool
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.loopback import Loopback, serve

ROWS = 30
BAD = 7


def body_of(message: dict[str, Any], reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": reason}
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    return orjson.dumps({"object": "chat.completion", "model": "loopback", "choices": [choice], "usage": usage})


def error_of(**fields: Any) -> bytes:
    return orjson.dumps({"error": {"message": "your prompt was filtered"} | fields})


AZURE = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
REFUSALS: dict[str, tuple[int, bytes, str, str]] = {
    "refusal": (200, body_of({"content": None, "refusal": "I will not"}), "refusal", "I will not"),
    "refusal beside empty content": (200, body_of({"content": "", "refusal": "I will not"}), "refusal", "I will not"),
    "refusal in a part": (
        200,
        body_of({"content": [{"type": "refusal", "refusal": "I will not"}]}),
        "refusal",
        "I will not",
    ),
    "filter": (200, body_of({"content": None}, "content_filter"), "content_filter", ""),
    "filter half-way": (200, body_of({"content": "half a"}, "content_filter"), "content_filter", "half a"),
    "Gemini's word": (200, body_of({"content": None}, "SAFETY"), "content_filter", ""),
    "Azure": (400, error_of(code="content_filter", innererror=AZURE, status=400), "content_filter", "your prompt was"),
    "Azure, inner code alone": (400, error_of(code=None, innererror=AZURE), "content_filter", "your prompt was"),
    "OpenAI": (400, error_of(code="content_policy_violation"), "content_filter", "your prompt was"),
    "OpenRouter": (
        403,
        error_of(code=403, metadata={"reasons": ["violence"], "flagged_input": "…"}),
        "content_filter",
        "your prompt was",
    ),
    "an error in 200": (200, error_of(code="content_filter"), "content_filter", "your prompt was"),
}


class Refusing(Loopback):
    """Refuses some of the requests."""

    status, refusal = 200, b""

    async def _answer(self, request: Any, logged: Any, fault: Any) -> Any:
        if self.refusal and int(logged.body["messages"][-1]["content"]) % ROWS < BAD:
            return await self._send(request, logged, self.status, self.refusal, {})
        return await super()._answer(request, logged, fault)


@contextmanager
def refusing(name: str) -> Generator[Refusing]:
    with serve(kind=Refusing) as server:
        assert isinstance(server, Refusing)
        server.status, server.refusal, *_ = REFUSALS[name]
        yield server


def asks(url: str | list[str]) -> Pipeline:
    llms = [
        LLM(f"openai/loopback{number}", base_url=one, concurrency=4, price=(1.0, 1.0))
        for number, one in enumerate([url] if isinstance(url, str) else url)
    ]
    with Pipeline("asks") as pipeline:
        seed = LoadDataFromDicts([{"n": number} for number in range(ROWS)], name="seed")
        seed.connect(TextGeneration("ask", llm=make_pool(llms) if len(llms) > 1 else llms[0], template="{{ n }}"))
    return pipeline


def logged(out: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((out / "calls").glob("calls-*.parquet"))]
    return pa.concat_tables(tables).to_pylist()


def check_counts(result: Result, *, sent: int, refused: int = BAD) -> None:
    figures = result.manifest["steps"]["ask"]
    found = [figures[name] for name in ("calls_sent", "calls_cached", "calls_unanswered", "calls_refused")]
    assert found == [ROWS, ROWS - sent, 0, refused]  # sent by all runs, the rest by this one
    assert next(iter(result.manifest["models"].values()))["calls_refused"] == refused


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_logged_counted_and_never_asked_again(engine: Any, name: str, tmp_path: Path) -> None:
    if engine == "ray" and name not in ("refusal", "Azure"):
        pytest.skip("the adapter is the same")
    *_, reason, text = REFUSALS[name]
    with refusing(name) as server:
        for run in range(3):
            result = asks(server.base_url).run(tmp_path / "out", engine=engine)
            assert (len(result["ask"]), result.failed_rows, result.exit_code) == (ROWS - BAD, BAD, 3)
            assert set(result.failures.to_arrow()["kind"].to_pylist()) == {"refused"}
            assert text in result.failures.to_arrow()["message"][0].as_py()
            check_counts(result, sent=0 if run else ROWS)
        assert len(server.requests) == ROWS
        calls = logged(tmp_path / "out")
        assert len(calls) == ROWS
        refused = [call for call in calls if call["finish_reason"] == reason]
        assert len(refused) == BAD
        assert all(call["text"].startswith(text) for call in refused)


def test_a_retry_asks_again_where_it_is_told_to(engine: Any, tmp_path: Path) -> None:
    with refusing("refusal") as server:
        pipeline = asks(server.base_url)
        pipeline.run(tmp_path / "out", engine=engine)
        assert pipeline.retry(tmp_path / "out", kinds=["refused"], engine=engine).failed_rows == BAD
        assert len(server.requests) == ROWS
        again = pipeline.retry(tmp_path / "out", kinds=["refused"], engine=engine, ask_again=True)
        assert again.failed_rows == BAD
        assert len(server.requests) == ROWS + BAD
        server.refusal = b""
        mended = pipeline.retry(tmp_path / "out", kinds=["refused"], engine=engine, ask_again=True)
        assert (len(mended["ask"]), mended.failed_rows) == (ROWS, 0)
        # What was answered last counts from now on.
        whole = pipeline.run(tmp_path / "out", engine=engine)
        assert (len(whole["ask"]), whole.failed_rows) == (ROWS, 0)
        assert len(server.requests) == ROWS + 2 * BAD


def test_another_model_of_a_pool_is_asked_once(tmp_path: Path) -> None:
    with refusing("refusal") as strict, serve() as free:
        for _ in range(2):
            result = asks([strict.base_url, free.base_url]).run(tmp_path / "out", engine="local")
            assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)
        assert set(strict.counts().values()) | set(free.counts().values()) == {1}
        sent = len(strict.requests) + len(free.requests)
        assert ROWS <= sent <= ROWS + BAD
        only = asks([strict.base_url]).run(tmp_path / "out", engine="local", allow_fewer=True)
        # What the pool's strict model refused, it has refused alone, too.
        assert only.failed_rows == BAD
        assert set(strict.counts().values()) == {1}


def test_both_that_refuse_are_asked_once(tmp_path: Path) -> None:
    with refusing("Azure") as first, refusing("Azure") as second:
        for _ in range(2):
            result = asks([first.base_url, second.base_url]).run(tmp_path / "out", engine="local")
            assert (len(result["ask"]), result.failed_rows) == (ROWS - BAD, BAD)
        assert set(first.counts().values()) | set(second.counts().values()) == {1}
        assert len(first.requests) + len(second.requests) == ROWS + BAD
