"""A run is stopped while an engine loads, or a server does: it is heard, and nothing of the engine stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.processes import ROOT, await_end
from tests.vllm.marks import MARKS

pytestmark = MARKS

FIRST_S, SECOND_S, ALLOWANCE = 5.0, 2.0, 2.0
PROGRAM = """
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration

engine = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28, "max_model_len": 512, "dtype": "float32"}
with Pipeline("loading") as pipeline:
    llm = LLM("{kind}/{model}", engine=engine, serve={serve}, max_tokens=4)
    LoadDataFromDicts([{"instruction": "say"}]) >> TextGeneration("said", llm=llm)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.vllm.tiny import make_model

    return make_model(tmp_path_factory.mktemp("stopped") / "tiny")


@pytest.mark.parametrize(
    ("engine", "phase", "kind", "times"),
    [
        # What a second signal does does not depend on what loads: tests/acceptance/test_phases.py.
        pytest.param("local", "LOAD", "vllm", 1, marks=pytest.mark.full),
        ("local", "LOAD", "vllm", 2),
        pytest.param("ray", "RUN", "vllm", 1, marks=pytest.mark.ray),
        pytest.param("ray", "RUN", "vllm", 2, marks=[pytest.mark.ray, pytest.mark.full]),
        pytest.param("ray", "SERVE", "vllm-server", 1, marks=pytest.mark.ray),
        pytest.param("ray", "SERVE", "vllm-server", 2, marks=[pytest.mark.ray, pytest.mark.full]),
    ],
)
def test_an_engine_that_loads_holds_up_no_end(
    engine: str, phase: str, kind: str, times: int, model: Path, tmp_path: Path
) -> None:
    program, trace = tmp_path / "loading.py", tmp_path / "trace"
    program.write_text(
        PROGRAM.replace("{model}", str(model)).replace("{kind}", kind).replace("{serve}", str(kind != "vllm"))
    )
    words = ["run", f"{program}:pipeline", "--engine", engine, "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.traced", str(trace), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not trace.exists() or f"begin {phase}" not in trace.read_text():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        time.sleep(6.0)
        family = psutil.Process(process.pid).children(recursive=True)
        for number in range(times):
            time.sleep(0.3 * number)
            process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4, said
    assert time.monotonic() - began < ALLOWANCE * (FIRST_S if times == 1 else SECOND_S)
    assert not await_end(family)
