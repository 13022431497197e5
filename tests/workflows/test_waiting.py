"""Searches and tools that are told to wait: all rows wait, or the run stops and goes on later; never some of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import HttpRequestTool, Operator, WorkflowBuilder, WorkflowStep, Write
from tests.loopback import serve
from tests.workflows.web import Answer, Arrived, Web, serve_web

ROWS = 6


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "sk-canary-search")


def searching(url: str) -> Any:
    builder = WorkflowBuilder(topic="tea").set_search(base_url=url)
    return builder.search_step("about {{topic}}", outputs=[Write.new("found")])


def calling(url: str) -> Any:
    builder = WorkflowBuilder(topic="tea").add_custom_tool(HttpRequestTool(name="w", url=url, time_limit_s=1.5))
    return builder.generative_step("{{topic}}", Operator.FUNCTION_CALLING, id="a", outputs=[Write.new("found")])


KINDS = {"search": searching, "tool": calling}
FOUND = orjson.dumps({"organic": [{"title": "T", "link": "https://x/", "snippet": "s"}]})


def run(kind: str, web: Web, out: Path, max_time: float = 1.5) -> Result:
    with serve() as server:
        workflow = KINDS[kind](web.url).set_max_time(max_time).set_return_value("found").build()
        with Pipeline("waiting") as pipeline:
            seed = LoadDataFromDicts([{"topic": f"topic {number}"} for number in range(ROWS)], name="seed")
            llm = LLM("openai/loopback", base_url=server.base_url, concurrency=3)
            seed >> WorkflowStep("work", workflow=workflow, llm=llm, inputs=["topic"])
        return pipeline.run(out, engine="local")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "3"}), (503, {"retry-after-ms": "3000"})])
def test_a_wait_within_the_bound_costs_no_row(kind: str, status: int, headers: dict[str, str], tmp_path: Path) -> None:
    """It counts neither as time of the workflow nor as time of the tool."""

    def respond(request: Arrived) -> Answer:
        return (status, b"later", headers) if len(web.arrived) <= 3 else (200, FOUND)

    with serve_web(respond) as web:
        result = run(kind, web, tmp_path / "out")
    assert (len(result["work"]), result.failed_rows) == (ROWS, 0)
    assert len(web.arrived) == ROWS + 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["Tue, 31 Dec 2999 23:59:59 GMT", "79200", "1h", "33000000000"])
def test_too_long_a_wait_stops_the_run_and_touches_no_row(kind: str, status: int, value: str, tmp_path: Path) -> None:
    is_well = False

    def respond(request: Arrived) -> Answer:
        return (200, FOUND) if is_well or len(web.arrived) <= 2 else (status, b"later", {"Retry-After": value})

    with serve_web(respond) as web:
        with pytest.raises(InfrastructureError, match=r"asks to wait [\d,]+ s, and a run waits 900 s at most; run the"):
            run(kind, web, tmp_path / "out", max_time=8.0)
        refused, is_well = len(web.arrived) - 2, True
        result = run(kind, web, tmp_path / "out")
        assert (len(result["work"]), result.failed_rows) == (ROWS, 0)
        assert len(web.arrived) == ROWS + refused, "what was found is not looked for again"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_what_says_no_time_is_tried_again_a_few_times(kind: str, tmp_path: Path) -> None:
    with serve_web(lambda _: (429, b"slow down") if len(web.arrived) <= 3 else (200, FOUND)) as web:
        result = run(kind, web, tmp_path / "out", max_time=20.0)
    assert (len(result["work"]), result.failed_rows, len(web.arrived)) == (ROWS, 0, ROWS + 3)
