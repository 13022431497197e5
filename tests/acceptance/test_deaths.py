"""A worker that dies mid-run is replaced: nothing is lost, and only what was in flight is sent again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import orjson
import psutil
import pytest

from raypipe.contracts.llm import Caller
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from raypipe.steps.tasks import TextGeneration
from tests.books import assert_balanced
from tests.loopback import Loopback, serve

ROWS = 600
CONCURRENCY = 32


def _kill_after(server: Loopback, requests: int, name: str, killed: list[int]) -> None:
    deadline = time.monotonic() + 100
    while len(server.requests) < requests and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
        except psutil.Error:
            continue


@step(outputs=["said"])
async def fatal(row: Values, llm: Caller) -> dict[str, str]:
    """Takes its worker down for two of the rows, after its call was answered."""
    said = await llm(f"say {row['n']}")
    if row["n"] in (77, 201):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"said": said}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_row_that_takes_its_worker_down_fails_alone(replicas: int, tmp_path: Path) -> None:
    with serve(latency_s=0.02) as server:
        model = LLM("vllm-server/x", base_url=server.base_url, concurrency=16, replicas=replicas)
        with Pipeline("poison") as pipeline:
            LoadDataFromDicts([{"n": number} for number in range(300)]) >> fatal("fatal", llm=model)
        result = pipeline.run(tmp_path / "out")
        sent = Counter(logged.digest for logged in server.requests)
    assert_balanced(pipeline.graph(), result)
    failures = result.failures.to_arrow().to_pylist()
    assert sorted(orjson.loads(row["row"])["n"] for row in failures) == [77, 201]
    assert {row["kind"] for row in failures} == {"worker_lost"}
    assert len(result["fatal"]) == 298
    assert len(sent) == 300


def kill_and_go_on(name: str, seed: int, tmp_path: Path) -> None:
    with serve(latency_s=0.05, latency_sigma=0.8) as server:
        model = LLM("vllm-server/x", base_url=server.base_url, concurrency=CONCURRENCY)
        with Pipeline("deaths") as pipeline:
            source = LoadDataFromDicts([{"n": number} for number in range(ROWS)])
            first = TextGeneration("first", llm=model, template="first {{ n }}", output="a")
            last = TextGeneration("last", llm=model, template="last {{ n }} {{ a }}", output="b")
            source >> first >> last
        killed: list[int] = []
        after = random.Random(seed).randrange(1, 2 * ROWS - 2 * CONCURRENCY)
        killer = threading.Thread(target=_kill_after, args=(server, after, name, killed))
        killer.start()
        result = pipeline.run(tmp_path / "out")
        killer.join()
        sent = Counter(logged.digest for logged in server.requests)
    assert killed
    assert_balanced(pipeline.graph(), result)
    assert len(result["last"]) == ROWS
    assert len(sent) == 2 * ROWS
    assert sent.total() - len(sent) <= CONCURRENCY


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["ReplicaActor", "ConductorUDF"])
def test_a_worker_killed_mid_run_costs_only_what_was_in_flight(name: str, tmp_path: Path) -> None:
    kill_and_go_on(name, 0, tmp_path)


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["ReplicaActor", "ConductorUDF"])
@pytest.mark.parametrize("seed", range(1, 20))
def test_workers_killed_at_many_moments(name: str, seed: int, tmp_path: Path) -> None:
    kill_and_go_on(name, seed, tmp_path)
