"""An endpoint that asks to wait is waited for by all rows or by none; no header holds a run up without a word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.chain import topics
from tests.loopback import Behaviour, Loopback, serve

ROWS = 30


def pipeline_of(*urls: str, rows: int = ROWS, **fields: Any) -> Pipeline:
    members = [LLM("openai/loopback", base_url=url, **({"concurrency": 4, "max_tries": 2} | fields)) for url in urls]
    with Pipeline("waits") as pipeline:
        seed = LoadDataFromDicts([{"topic": topic} for topic in topics(rows)], name="seed")
        seed >> TextGeneration("ask", llm=members, template="{{ topic }}", output="answer")
    return pipeline


TOO_LONG = [
    {"Retry-After": "Tue, 31 Dec 2999 23:59:59 GMT"},
    {"Retry-After": "79200"},
    {"Retry-After": "3600"},
    {"Retry-After": "22h"},
    {"Retry-After": "5" * 12},
    {"retry-after-ms": "79200000"},
    {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "6h0m0s"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h"},
]


def in_an_hour(unit: float) -> dict[str, str]:
    return {"Retry-After": str(int((time.time() + 3600) * unit))}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [*TOO_LONG, 1.0, 1e3, 1e6], ids=str)
def test_too_long_a_wait_stops_the_run_and_touches_no_row(headers: Any, status: int, tmp_path: Path) -> None:
    """Ten rows are answered before: they are kept and not asked again."""
    headers = headers if isinstance(headers, dict) else in_an_hour(headers)
    script = [200] * 10 + [status] * 1000
    with serve(Behaviour(script=script, headers=headers)) as server:
        with pytest.raises(InfrastructureError, match=r"asks to wait [\d,]+ s, until .* UTC, longer than max"):
            pipeline_of(server.base_url).run(tmp_path / "out", engine="local")
        assert len(server.requests) <= 10 + 4, "nobody is asked once it is known"
        refused = len(server.requests) - 10
        server.behaviour = Behaviour()
        result = pipeline_of(server.base_url).run(tmp_path / "out", engine="local")
        assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)
        assert len(server.requests) == ROWS + refused


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(240)
def test_too_long_a_wait_stops_the_run_on_ray(tmp_path: Path) -> None:
    with serve(Behaviour(script=[200] * 10 + [429] * 1000, headers={"Retry-After": "22h"})) as server:
        with pytest.raises(InfrastructureError, match="asks to wait 79,200 s"):
            pipeline_of(server.base_url, replicas=2).run(tmp_path / "out", engine="ray")
        refused = len(server.requests) - 10
        server.behaviour = Behaviour()
        result = pipeline_of(server.base_url, replicas=2).run(tmp_path / "out", engine="ray")
        assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)
        assert len(server.requests) == ROWS + refused


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "value", ["-5", "nan", "inf", "1e999", "9" * 5000, "²", "٣", "", "soon", "1, 2", "Mon, 99 Foo", "1700000000"]
)
def test_what_names_no_time_is_no_header(value: str, tmp_path: Path) -> None:
    names = ("Retry-After", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-reset-requests")
    with serve(Behaviour(script=[429, 429], headers=dict.fromkeys(names, value))) as server:
        result = pipeline_of(server.base_url, rows=8).run(tmp_path / "out", engine="local")
    assert (len(result["ask"]), result.failed_rows) == (8, 0)


@pytest.mark.timeout(60)
def test_an_endpoint_that_asks_again_and_again_stops_the_run(tmp_path: Path) -> None:
    with serve(Behaviour(shares={429: 1.0}, headers={"Retry-After": "1"})) as server:
        with pytest.raises(InfrastructureError, match="again and again, for longer than max_wait_s=3"):
            pipeline_of(server.base_url, max_wait_s=3.0).run(tmp_path / "out", engine="local")
        server.behaviour = Behaviour()
        result = pipeline_of(server.base_url, max_wait_s=3.0).run(tmp_path / "out", engine="local")
    assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)


@pytest.mark.timeout(60)
def test_one_row_that_is_always_refused_fails_alone(tmp_path: Path) -> None:
    """The others are answered meanwhile: it is no state of the endpoint."""

    class Choosy(Loopback):
        def _fault(self, ordinal: int, seed: int, now: float) -> int | str:
            return 429 if b"topic 7" in self.requests[ordinal].raw else 200

    with serve(Behaviour(headers={"Retry-After": "1"}, latency_s=0.3), kind=Choosy) as server:
        result = pipeline_of(server.base_url, max_wait_s=3.0, rows=60).run(tmp_path / "out", engine="local")
    assert (len(result["ask"]), result.failed_rows) == (59, 1)


@pytest.mark.timeout(60)
def test_a_pool_of_models_goes_on_with_the_others(tmp_path: Path) -> None:
    with serve(shares={429: 1.0}, headers={"Retry-After": "22h"}) as away, serve() as there:
        result = pipeline_of(away.base_url, there.base_url).run(tmp_path / "out", engine="local")
        assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)
        assert len(away.requests) <= 4


@pytest.mark.timeout(60)
def test_a_pool_of_models_that_are_all_away_stops(tmp_path: Path) -> None:
    far = {"shares": {429: 1.0}, "headers": {"Retry-After": "22h"}}
    with serve(**far) as one, serve(**far) as two:
        with pytest.raises(InfrastructureError, match="asks to wait 79,200 s"):
            pipeline_of(one.base_url, two.base_url).run(tmp_path / "out", engine="local")
        assert len(one.requests) + len(two.requests) <= 8
        one.behaviour = two.behaviour = Behaviour()
        result = pipeline_of(one.base_url, two.base_url).run(tmp_path / "out", engine="local")
    assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize("refused", [4, 1])
def test_a_wait_within_the_bound_is_waited_by_all_rows(status: int, refused: int, tmp_path: Path) -> None:
    """Also by those that nobody has told so."""
    script = [200] * 5 + [status] * refused
    with serve(Behaviour(script=script, headers={"Retry-After": "3"}, latency_s=0.2)) as server:
        result = pipeline_of(server.base_url).run(tmp_path / "out", engine="local")
        assert (len(result["ask"]), result.failed_rows) == (ROWS, 0)
        told = max(logged.ended for logged in server.requests if logged.status == status)
        assert not [logged for logged in server.requests if told + 0.3 < logged.started < told + 2.5]
