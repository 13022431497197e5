"""Endpoints that behave oddly in several ways at once, under limits: runs end, rows add up, nothing is paid twice."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.chain import topics
from tests.endpoint_faults import FAULTS, Exchange, Fault, play
from tests.fuzz.audit import temporary_places, watched
from tests.fuzz.effort import EFFORT, bounded, explore

ROWS = 8
CONCURRENCY = 4


def mixed(faults: tuple[Fault, ...]) -> Fault:
    """One of several, chosen by the request."""

    async def choose(exchange: Exchange) -> None:
        await faults[zlib.crc32(exchange.body) // 7 % len(faults)].play(exchange)

    return Fault(
        " and ".join(fault.name for fault in faults),
        choose,
        may_pass=any(fault.may_pass for fault in faults),
        stops=any(fault.stops for fault in faults),
    )


def pipeline_of(url: str, **options: Any) -> Pipeline:
    times = {"timeout_s": 1.5, "connect_timeout_s": 1.0, "max_wait_s": 2.0, "max_tries": 2}
    llm = LLM("openai/loopback", base_url=url, concurrency=CONCURRENCY, max_tokens=50, **(times | options))
    with Pipeline("odd") as pipeline:
        seed = LoadDataFromDicts([{"topic": topic} for topic in topics(ROWS)], name="seed")
        first = TextGeneration("first", llm=llm, template="{{ topic }}", output="first")
        parts = TextGeneration("parts", llm=llm, template="{{ topic }}, {{ first }}", output="part", parse=halves)
        (
            seed
            >> first
            >> parts.scatter()
            >> TextGeneration("last", llm=llm, template="{{ topic }}: {{ part }}", output="last")
        )
    return pipeline


def halves(text: str) -> list[str]:
    """Two texts of one, unlike each other."""
    return [f"{text} a", f"{text} b"]


def ran(pipeline: Pipeline, out: Path, max_calls: int | None, engine: Any) -> Result | None:
    """The result, or `None` where the run stopped and may be gone on with."""
    said = ""
    try:
        with watched(out, *temporary_places(), engine=engine):
            return bounded(lambda: pipeline.run(out, engine=engine, max_failed_rows=1000, max_calls=max_calls))
    except (InfrastructureError, StoppedError) as caught:
        said = str(caught)
    assert " broke: " not in said, said
    return None


def assert_sound(
    faults: tuple[Fault, ...], every: int, max_calls: int | None, out: Path, engine: str = "local"
) -> None:
    with play(mixed(faults), every) as server:
        first = ran(pipeline_of(server.base_url), out, max_calls, engine)
        if first is not None:
            steps = first.manifest["steps"]
            for counts in steps.values():
                assert counts["rows_in"] == counts["rows_done"] + counts["rows_failed"] + counts["rows_filtered"]
            assert len(first["last"]) == steps["last"]["rows_out"]
            assert first.failed_rows == sum(counts["rows_failed"] for counts in steps.values())
        if max_calls is not None:
            assert server.seen.total() <= max_calls, "more was sent than the limit allows"
        answered = dict(server.answered)
        server.is_well = True
        patient = {"timeout_s": 60.0, "connect_timeout_s": 30.0, "max_wait_s": 60.0}  # it is well, though perhaps slow
        second = ran(pipeline_of(server.base_url, **patient), out, None, engine)
        assert second is not None
        assert second.failed_rows == 0 or any(fault.may_pass for fault in faults)
        assert {body: server.answered[body] for body in answered} == answered, "an answered call was sent again"
        assert set(answered.values()) <= {1}


@EFFORT
@pytest.mark.timeout(600)
def test_several_faults_at_once(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    some = st.lists(st.sampled_from(FAULTS), min_size=1, max_size=4, unique_by=lambda fault: fault.name).map(tuple)

    @given(some, st.sampled_from([1, 2, 3]), st.sampled_from([None, None, 1, 5, 11, 24]))
    def check(faults: tuple[Fault, ...], every: int, max_calls: int | None) -> None:
        assert_sound(faults, every, max_calls, tmp_path_factory.mktemp("odd") / "out")

    explore(check, 12, effort)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@EFFORT
@pytest.mark.timeout(600)
def test_several_faults_at_once_on_ray(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    some = st.lists(st.sampled_from(FAULTS), min_size=2, max_size=5, unique_by=lambda fault: fault.name).map(tuple)

    @given(some, st.sampled_from([None, 11]))
    def check(faults: tuple[Fault, ...], max_calls: int | None) -> None:
        assert_sound(faults, 2, max_calls, tmp_path_factory.mktemp("odd") / "out", "ray")

    explore(check, 2, min(effort, 20))
