"""Every call is settled at what it took, or at the most that it can have taken where nothing sound says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Caller
from raypipe.errors import SpecError, StoppedError
from raypipe.models.prices import cost_usd
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import EmbeddingGeneration, LoadDataFromDicts, TextGeneration, step
from tests.loopback import CUT, SILENCE, TRUNCATED, Fault, Loopback, serve

ROWS = 60
ANSWER_TOKENS = 100
WITHOUT = object()
ODD: dict[str, Any] = {
    "none": WITHOUT,
    "null": None,
    "a list": [1, 2],
    "a word": "many",
    "empty": {},
    "null counts": {"prompt_tokens": None, "completion_tokens": None},
    "negative": {"prompt_tokens": -5, "completion_tokens": -7},
    "absurd": {"prompt_tokens": 2**63, "completion_tokens": 10**30},
    "more than any model": {"prompt_tokens": 9, "completion_tokens": 900_000_000},
    "fractions": {"prompt_tokens": 1.5, "completion_tokens": 0.25},
    "words": {"prompt_tokens": "12", "completion_tokens": "3"},
    "truths": {"prompt_tokens": True, "completion_tokens": True},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0},
    "no input": {"completion_tokens": 3},
    "no output": {"prompt_tokens": 9},
    "output null": {"prompt_tokens": 9, "completion_tokens": None},
    "output zero": {"prompt_tokens": 9, "completion_tokens": 0},
}


def body(usage: Any) -> bytes:
    message = {"role": "assistant", "content": "Yes."}
    fields = {} if usage is WITHOUT else {"usage": usage}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return json.dumps({"object": "chat.completion", "model": "loopback", "choices": choices, **fields}).encode()


def pipeline_of(server: Loopback, rows: int = ROWS, **fields: Any) -> Pipeline:
    fields = {"max_tokens": ANSWER_TOKENS, "price": (1.0, 1.0), "max_tries": 2} | fields
    llm = LLM("openai/loopback", base_url=server.base_url, **fields)
    with Pipeline("settling") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(rows)], name="seed")
        seed >> TextGeneration("ask", llm=llm, template="{{ topic }}", output="said")
    return pipeline


def stopped_by(pipeline: Pipeline, out: Path, **options: Any) -> str:
    try:
        pipeline.run(out, engine="local", **options)
    except StoppedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("cap", [{"max_tokens": 2000}, {"max_cost_usd": 0.002}], ids=str)
@pytest.mark.parametrize("usage", ODD.values(), ids=list(ODD))
def test_without_a_sound_count_a_call_takes_what_was_reserved(usage: Any, cap: dict[str, Any], tmp_path: Path) -> None:
    with serve(body=body(usage)) as server:
        assert next(iter(cap)) in stopped_by(pipeline_of(server), tmp_path, **cap)
        # A request has more than 80 bytes, and an answer 100 tokens at most.
        assert 1 <= len(server.requests) <= 2000 / 180


@pytest.mark.parametrize("usage", [WITHOUT, ODD["zeros"], ODD["no output"]], ids=["none", "zeros", "no output"])
def test_estimated_calls_are_counted_apart(usage: Any, tmp_path: Path) -> None:
    with serve(body=body(usage)) as server:
        result = pipeline_of(server, rows=5).run(tmp_path, engine="local")
    for described in (*result.manifest["models"].values(), result.manifest["steps"]["ask"]):
        assert described["calls_estimated"] == described["calls_sent"] == 5
        assert described["output_tokens"] == 5 * ANSWER_TOKENS
        assert described["estimated_usd"] == described["cost_usd"] > 5 * ANSWER_TOKENS / 1e6


def test_a_sound_count_is_no_estimate(tmp_path: Path) -> None:
    with serve(body=body({"prompt_tokens": 20, "completion_tokens": 2})) as server:
        result = pipeline_of(server, rows=5).run(tmp_path, engine="local", max_tokens=5 * 400)
    (described,) = result.manifest["models"].values()
    assert (described["input_tokens"], described["output_tokens"], described["calls_estimated"]) == (100, 10, 0)
    assert described["cost_usd"] == pytest.approx(110 / 1e6)  # pyright: ignore[reportUnknownMemberType]


GIVEN_UP: dict[str, tuple[Sequence[Fault], dict[str, Any]]] = {
    "timeout": ([SILENCE] * 400, {"timeout_s": 0.3}),
    "cut": ([CUT] * 400, {}),
    "truncated": ([TRUNCATED] * 400, {}),
    "a gateway's timeout": ([504] * 400, {}),
}


@pytest.mark.parametrize("why", GIVEN_UP)
def test_a_call_that_is_given_up_takes_what_was_reserved(why: str, tmp_path: Path) -> None:
    script, fields = GIVEN_UP[why]
    with serve(script=script) as server:
        reason = stopped_by(
            pipeline_of(server, concurrency=4, **fields), tmp_path, max_tokens=1000, max_failed_rows=ROWS
        )
        assert "max_tokens=1000 is reached" in reason
        assert len(server.requests) <= 1000 / 180


@pytest.mark.parametrize("answer", [b"{}", b'{"choices": []}', b'{"error": null}', b"not JSON", b'{"error": "x"}'])
def test_a_200_without_content_takes_what_was_reserved(answer: bytes, tmp_path: Path) -> None:
    with serve(body=answer) as server:
        assert "max_tokens=1000" in stopped_by(pipeline_of(server, concurrency=4), tmp_path, max_tokens=1000)
        assert len(server.requests) <= 1000 / 180


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503])
def test_a_refused_call_takes_no_tokens(status: int, tmp_path: Path) -> None:
    """Two refusals, then answers: all fit under the cap, which has no room for what was refused."""
    with serve(script=[status] * 2, headers={"Retry-After": "0"}) as server:
        options: dict[str, Any] = {"max_tokens": 3000, "max_failed_rows": ROWS}
        reason = stopped_by(pipeline_of(server, rows=20, concurrency=1), tmp_path, **options)
        assert not reason
        answered = sum(logged.is_answered for logged in server.requests)
        assert answered + (2 if status < 429 and status != 408 else 0) >= 18


def test_hedged_calls_are_both_paid(tmp_path: Path) -> None:
    """Of each call the first or the second answer is taken; the other is settled at the most that it can have taken."""
    with serve(latency_s=0.2, latency_sigma=1.0) as server:
        result = pipeline_of(server, rows=20, hedge_after_s=0.05).run(tmp_path, engine="local")
        sent = len(server.requests)
    (described,) = result.manifest["models"].values()
    assert described["calls_sent"] == sent
    assert 0 < described["calls_estimated"] <= sent - 20, "both may be answered at once"
    assert described["output_tokens"] >= described["calls_estimated"] * ANSWER_TOKENS


@step(inputs=["topic"], outputs=["said"])
async def hurried(row: Values, llm: Caller) -> dict[str, Any]:
    """Gives its call up, as a workflow does whose time is over."""
    try:
        async with asyncio.timeout(0.2):
            return {"said": await llm(row["topic"])}
    except TimeoutError:
        return {"said": None}


def test_a_call_that_its_row_gives_up_takes_what_was_reserved(tmp_path: Path) -> None:
    with serve(script=[SILENCE] * 400) as server:
        llm = LLM("openai/loopback", base_url=server.base_url, max_tokens=ANSWER_TOKENS, concurrency=4)
        with Pipeline("hurried") as pipeline:
            LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(ROWS)], name="seed") >> hurried("ask", llm=llm)
        assert "max_tokens=1000" in stopped_by(pipeline, tmp_path, max_tokens=1000)
        assert len(server.requests) <= 1000 / 180


@pytest.mark.parametrize("cap", [{"max_tokens": 60_000}, {"max_cost_usd": 6.0}], ids=str)
@pytest.mark.parametrize(
    "fields", [{}, {"extra": {"max_tokens": 50}}, {"extra": {"max_completion_tokens": 50}}], ids=str
)
def test_a_model_without_max_tokens_is_refused_under_a_cap(
    fields: dict[str, Any], cap: dict[str, Any], tmp_path: Path
) -> None:
    with serve(body=body({"prompt_tokens": 20, "completion_tokens": 16_000})) as server:
        pipeline = pipeline_of(server, rows=5, max_tokens=None, price=(100.0, 100.0), **fields)
        if fields:
            pipeline.run(tmp_path, engine="local", max_tokens=1_000_000)
        else:
            with pytest.raises(SpecError, match=r"step 'ask', model .* has no max_tokens.* --set ask.llm.max_tokens"):
                pipeline.run(tmp_path, engine="local", **cap)
            assert not server.requests
            pipeline.run(tmp_path, engine="local", max_calls=5)


def test_a_model_that_costs_nothing_needs_no_max_tokens_under_a_cap_of_money(tmp_path: Path) -> None:
    with serve() as server:
        pipeline = pipeline_of(server, rows=5, max_tokens=None, price=(0.0, 0.0))
        assert not stopped_by(pipeline, tmp_path, max_cost_usd=0.01)


def test_embeddings_need_no_max_tokens_under_a_cap(tmp_path: Path) -> None:
    with serve() as server:
        llm = LLM("openai/loopback", base_url=server.base_url, price=(1.0, 1.0))
        with Pipeline("vectors") as pipeline:
            seed = LoadDataFromDicts([{"text": f"topic {n}"} for n in range(ROWS)], name="seed")
            seed >> EmbeddingGeneration("embed", llm=llm)
        assert "max_cost_usd" in stopped_by(pipeline, tmp_path, max_cost_usd=0.001)
        assert 0 < sum(-(-len(logged.raw) // 4) for logged in server.requests) <= 1000


def test_prices_that_depend_on_length_are_those_of_each_call(tmp_path: Path) -> None:
    """Ten calls of 150,000 tokens are short ones, though together they have more than the 200,000 of a long one."""
    with serve(body=body({"prompt_tokens": 150_000, "completion_tokens": 10})) as server:
        llm = LLM("gemini/gemini-2.5-pro", base_url=server.base_url, api_key_env="", max_tokens=ANSWER_TOKENS)
        with Pipeline("long") as pipeline:
            seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(10)], name="seed")
            seed >> TextGeneration("ask", llm=llm, template="{{ topic }}", output="said")
        result = pipeline.run(tmp_path, engine="local")
    one = cost_usd(llm, 150_000, 10)
    assert one == pytest.approx(0.150 * 1.25 + 10 * 10 / 1e6)  # pyright: ignore[reportUnknownMemberType]
    told = result.manifest["steps"]["ask"]["cost_usd"]
    assert told == pytest.approx(10 * one)  # pyright: ignore[reportUnknownMemberType]
