"""A cap ends every shape of pipeline: stages, load groups, hedging, pools of models, workflows, retries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.model_pool import make_pool
from raypipe.contracts.step import Aggregate, Step
from raypipe.errors import StoppedError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, TextGeneration, step
from tests.acceptance.chain import topics
from tests.loopback import Loopback, serve

ROWS = 12
LONGEST = 2000
"""Tokens of an answer at most: far more than it has, so that reservations are much of what is left."""
Shape = Callable[[Step, LLM], Any]


def asking(name: str, llm: Any, column: str, **options: Any) -> Step:
    return TextGeneration(name, llm=llm, template=f"{name}: {{{{ {column} }}}}", output=name, **options)


def other(llm: LLM) -> LLM:
    """Another model: its workers come when those of the first have gone."""
    return llm.model_copy(update={"temperature": 0.5})


def two_stages(seed: Step, llm: LLM) -> None:
    gather = Aggregate("gather", by="all")
    seed >> asking("first", llm, "topic") >> gather >> asking("last", other(llm), "first")


def three_stages(seed: Step, llm: LLM) -> None:
    first, second = Aggregate("one", by=["topic"]), Aggregate("two", by="all")
    seed >> asking("first", llm, "topic") >> first >> asking("middle", other(llm), "first") >> second
    second >> asking("last", other(llm), "middle")


def chained(seed: Step, llm: LLM) -> None:
    seed >> asking("first", llm, "topic") >> asking("last", other(llm), "first")


def pool_of_models(seed: Step, llm: LLM) -> None:
    pool = make_pool([llm, llm.model_copy(update={"seed": 1})])
    gather = Aggregate("gather", by="all")
    seed >> asking("first", pool, "topic") >> gather >> asking("last", pool, "first")


@step(inputs=["topic"], outputs=["said"])
async def several(row: Values, llm: Caller) -> dict[str, Any]:
    said = [await llm(f"{row['topic']} {number}") for number in range(3)]
    return {"said": said[-1]}


def calls_in_a_row(seed: Step, llm: LLM) -> None:
    gather = Aggregate("gather", by="all")
    seed >> several("several", llm=llm) >> gather >> asking("last", other(llm), "said")


SHAPES: dict[str, tuple[Shape, dict[str, Any], dict[str, Any]]] = {
    "stages": (two_stages, {}, {}),
    "three stages": (three_stages, {}, {}),
    "load groups": (chained, {}, {"load_groups": [["first"], ["last"]]}),
    "hedged": (two_stages, {"hedge_after_s": 0.01}, {}),
    "pool": (pool_of_models, {}, {}),
    "calls in a row": (calls_in_a_row, {}, {}),
    "retries": (two_stages, {"max_tries": 3}, {}),
    "one at a time": (two_stages, {"concurrency": 1}, {}),
    "workers": (two_stages, {"replicas": 2, "concurrency": 4}, {}),
}
CAPS = [{"max_tokens": 2600}, {"max_tokens": 4200}, {"max_cost_usd": 0.0042}, {"max_calls": 1}, {"max_calls": ROWS + 1}]


def spent(server: Loopback) -> int:
    """Tokens of the answers, as the server counts them."""
    return sum(-(-len(logged.raw) // 4) + 4 for logged in server.requests if logged.is_answered)


def run_under(server: Loopback, shape: str, caps: dict[str, Any], out: Path, engine: str) -> bool:
    """Whether the run came to its end; else it was stopped by its cap."""
    build, fields, options = SHAPES[shape]
    llm = LLM("openai/loopback", base_url=server.base_url, max_tokens=LONGEST, price=(1.0, 1.0), **fields)
    with Pipeline("caps") as pipeline:
        build(LoadDataFromDicts([{"topic": topic} for topic in topics(ROWS)], name="seed"), llm)
    stopped = ""
    try:
        pipeline.run(out, engine=engine, **caps, **options)
    except StoppedError as error:
        stopped = str(error)
    assert not stopped or next(iter(caps)) in stopped
    return not stopped


@pytest.mark.timeout(120)
@pytest.mark.parametrize("caps", CAPS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_cap_ends_a_run_of_every_shape(shape: str, caps: dict[str, Any], tmp_path: Path) -> None:
    shares: dict[int | str, float] = {500: 0.3} if shape == "retries" else {}
    with serve(latency_s=0.02, shares=shares) as server:
        is_whole = run_under(server, shape, caps, tmp_path / "out", "local")
        sent = len(server.requests)
        assert sent <= caps.get("max_calls", sent)
        assert spent(server) <= caps.get("max_tokens", spent(server))
        if not is_whole:
            answered = {logged.digest for logged in server.requests if logged.is_answered}
            assert run_under(server, shape, {"max_calls": 10_000}, tmp_path / "out", "local")
            assert not answered & {logged.digest for logged in server.requests[sent:]} or shape == "hedged"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("shape", ["stages", "load groups", "workers"])
def test_a_cap_ends_a_run_on_ray(shape: str, tmp_path: Path) -> None:
    with serve(latency_s=0.02) as server:
        run_under(server, shape, CAPS[1], tmp_path / "out", "ray")
        assert spent(server) <= CAPS[1]["max_tokens"]
