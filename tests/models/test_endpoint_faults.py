"""Whatever an endpoint answers, the run ends, its rows add up, and no call that was answered is sent again."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.errors import CallError, InfrastructureError, StoppedError
from raypipe.identity import canonical_json
from raypipe.models import open_model
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.chain import topics
from tests.endpoint_faults import FAULTS, Fault, play

ROWS = 12
INT64 = 2**63


def llm_of(url: str) -> LLM:
    """Patient enough to try twice, no longer."""
    times = {"timeout_s": 1.5, "connect_timeout_s": 1.0, "max_wait_s": 2.0, "max_tries": 2}
    return LLM("openai/loopback", base_url=url, concurrency=4, max_tokens=50, **times)


def run_of(url: str, out: Path, engine: str) -> Result | None:
    """The result, or `None` where the run stopped and may be gone on with."""
    with Pipeline("odd") as pipeline:
        seed = LoadDataFromDicts([{"topic": topic} for topic in topics(ROWS)], name="seed")
        seed >> TextGeneration("ask", llm=llm_of(url), template="{{ topic }}", output="answer")
    stopped = ""
    try:
        return pipeline.run(out, engine=engine)
    except (InfrastructureError, StoppedError) as error:
        stopped = str(error)
    assert " broke: " not in stopped
    return None


def assert_kept(fault: Fault, out: Path, engine: str) -> None:
    with play(fault) as server:
        first = run_of(server.base_url, out, engine)
        assert first is not None or fault.stops
        if first is not None:
            assert len(first["ask"]) + first.failed_rows == ROWS
            assert set(first.failures.to_arrow()["kind"].to_pylist()) <= {
                "auth", "broken_answer", "not_found", "quota", "rate_limit", "refused", "rejected", "server", "timeout",
                "unreachable",
            }  # fmt: skip
        answered = dict(server.answered)
        server.is_well = True
        second = run_of(server.base_url, out, engine)
        assert second is not None
        refused = second.failures.to_arrow()["kind"].to_pylist()
        assert set(refused) <= ({"refused"} if fault.name.startswith("refusal: ") else set[str]())
        assert len(second["ask"]) + len(refused) == ROWS
        assert {body: server.answered[body] for body in answered} == answered
        assert set(answered.values()) <= {1}


ALWAYS = re.compile(
    "(usage|model|finish_reason|content|choices|tool_calls): (missing|null|huge|an object)|(200|429) with 5,000"
    "|429, .*22h|503, .*2999|status (204|206|301|304|401|429|499|500|529|599)$"
    "|.*(gzip|deep|silence|one byte a second|without end|reset|cut|length|surrogate|NaN|events|TLS|html)"
)
"""By name: those of each kind that are run each time; the adapter alone meets all of them."""


def _run_of_each() -> list[Any]:
    full = pytest.mark.full
    return [pytest.param(one, marks=() if ALWAYS.match(one.name) else full, id=one.name) for one in FAULTS]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("fault", _run_of_each())
def test_a_run_ends_and_the_next_one_asks_only_for_what_is_missing(fault: Fault, tmp_path: Path) -> None:
    assert_kept(fault, tmp_path / "out", "local")


ON_RAY = (
    "usage: huge",
    "finish_reason: a number",
    "429, Retry-After '22h'",
    "a reset within the body",
    "model: an object",
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", [one for one in FAULTS if one.name in ON_RAY], ids=lambda fault: fault.name)
def test_the_same_on_ray(fault: Fault, tmp_path: Path) -> None:
    assert_kept(fault, tmp_path / "out", "ray")


def test_there_are_many_and_each_has_its_own_name() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 60
    assert set(ON_RAY) <= set(names)


async def completed(fault: Fault) -> list[Any]:
    """What the adapter makes of it, asked for text, with tools, and as it stands."""
    tool = {"name": "look", "description": "", "parameters": {"type": "object", "properties": {}}}
    messages = ({"role": "user", "content": "Say something."},)
    found: list[Any] = []
    with play(fault, every=1) as server:
        model = open_model(llm_of(server.base_url))
        await model.open()
        for request in (Request(messages), Request(messages, tools=(tool,))):
            try:
                found.append(await asyncio.wait_for(model.complete(model.payload(request)), 20))
            except CallError as error:
                found.append(error)
        model.endpoint_limits()
        await model.close()
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_adapter_gives_a_sound_completion_or_a_classified_error(fault: Fault) -> None:
    for one in asyncio.run(completed(fault)):
        assert isinstance(one, CallError) or fault.may_pass
        if isinstance(one, Completion):
            assert [type(value) for value in (one.text, one.finish_reason, one.model)] == [str, str, str]
            assert all(type(count) is int and 0 <= count < INT64 for count in one.usage)
            canonical_json(one.text)
