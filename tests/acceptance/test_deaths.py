"""A worker that dies mid-run is replaced: nothing is lost, and only what was in flight is sent again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration
from tests.books import assert_balanced
from tests.loopback import Loopback, serve

ROWS = 600
CONCURRENCY = 32
LAG = 16
"""Answers that the server had given but the worker had not yet read when it died."""


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


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["ReplicaActor", "ConductorUDF"])
def test_a_worker_killed_mid_run_costs_only_what_was_in_flight(name: str, tmp_path: Path) -> None:
    with serve(latency_s=0.05, latency_sigma=0.8) as server:
        model = LLM("vllm-server/x", base_url=server.base_url, concurrency=CONCURRENCY)
        with Pipeline("deaths") as pipeline:
            seed = LoadDataFromDicts([{"n": number} for number in range(ROWS)])
            first = TextGeneration("first", llm=model, template="first {{ n }}", output="a")
            last = TextGeneration("last", llm=model, template="last {{ n }} {{ a }}", output="b")
            seed >> first >> last
        killed: list[int] = []
        killer = threading.Thread(target=_kill_after, args=(server, ROWS // 2, name, killed))
        killer.start()
        result = pipeline.run(tmp_path / "out")
        killer.join()
        sent = Counter(logged.digest for logged in server.requests)
    assert killed
    assert_balanced(pipeline.graph(), result)
    assert len(result["last"]) == ROWS
    assert len(sent) == 2 * ROWS
    assert sent.total() - len(sent) <= CONCURRENCY + LAG
