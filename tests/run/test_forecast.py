"""What a run would reuse and send is known before it, and finding out changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.run.forecast import CHANGED, NEW_ROW, NEW_STEP, NOT_CACHED
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.chain import answer, chain, topics
from tests.loopback import Behaviour, Loopback, serve

ROWS = 6


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serve(answer=answer) as one:
        yield one


def figures(pipeline: Pipeline, out: Path) -> dict[str, tuple[int, dict[str, int]]]:
    return {name: (step.reused, dict(step.to_send)) for name, step in pipeline.forecast(out).steps.items()}


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_before_the_first_run_the_first_step_sends_all(server: Loopback, tmp_path: Path) -> None:
    expected = {"first": (0, {NEW_STEP: ROWS}), "second": (0, {}), "third": (0, {})}
    assert figures(chain(server.base_url, topics(ROWS)), tmp_path / "out") == expected
    assert not server.requests
    assert not (tmp_path / "out").exists()


def test_after_a_run_all_is_reused_and_nothing_changes(server: Loopback, tmp_path: Path) -> None:
    chain(server.base_url, topics(ROWS)).run(tmp_path / "out", engine="local")
    seen, before = len(server.requests), state(tmp_path)
    assert figures(chain(server.base_url, topics(ROWS)), tmp_path / "out") == dict.fromkeys(
        ("first", "second", "third"), (ROWS, {})
    )
    assert len(server.requests) == seen
    assert state(tmp_path) == before


def test_the_reason_is_told(server: Loopback, tmp_path: Path) -> None:
    chain(server.base_url, topics(ROWS)).run(tmp_path / "out", engine="local")
    edited = figures(chain(server.base_url, topics(ROWS), "edited: {{ second }}"), tmp_path / "out")
    assert edited["third"] == (0, {CHANGED: ROWS})
    longer = chain(server.base_url, topics(ROWS + 1)).forecast(tmp_path / "out")
    assert (longer.steps["first"].reused, longer.steps["first"].to_send) == (ROWS, {NEW_ROW: 1})
    assert longer.after == {"first": (), "second": ("first",), "third": ("first",)}
    assert "step second: 6 calls reused, 0 rows would send, more behind 'first'" in list(longer.describe())


def test_a_step_that_forgets_asks_anew(server: Loopback, tmp_path: Path) -> None:
    with Pipeline("forgetful") as pipeline:
        llm = LLM("openai/loopback", base_url=server.base_url)
        ask = TextGeneration("ask", llm=llm, template="about {{ topic }}", use_cache=False)
        LoadDataFromDicts([{"topic": topic} for topic in topics(ROWS)], name="seed") >> ask
    pipeline.run(tmp_path / "out", engine="local")
    assert figures(pipeline, tmp_path / "out") == {"ask": (0, {NOT_CACHED: ROWS})}


def test_calls_of_a_run_that_was_cut_are_reused(tmp_path: Path) -> None:
    with serve(Behaviour(answer=answer, script=[*[200] * 4, *[401] * 100])) as server:
        pipeline = chain(server.base_url, topics(40))
        with pytest.raises(InfrastructureError):
            pipeline.run(tmp_path / "out", engine="local")
        first = pipeline.forecast(tmp_path / "out").steps["first"]
    assert first.reused == 4
    assert first.to_send == {NEW_ROW: 36}
