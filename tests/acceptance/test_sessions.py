"""One process may run as often as it likes, each time with a Ray of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT

_TWICE = """
import sys
from pathlib import Path
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration

with Pipeline("often") as pipeline:
    seed = LoadDataFromDicts([{"instruction": f"say {number}"} for number in range(6000)])
    seed >> TextGeneration("said", llm=LLM("offline/stand-in"))
for engine in ("local", "ray", "ray"):
    print(len(pipeline.run(Path(sys.argv[1]), engine=engine)["said"]))
"""


@pytest.mark.ray
def test_ray_may_be_started_again(tmp_path: Path) -> None:
    """The second run knows calls that fill more than a message, so that Ray keeps them as an object."""
    command = [sys.executable, "-c", _TWICE, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (ended.stdout.split(), ended.returncode) == (["6000"] * 3, 0), ended.stderr[-2000:]
    assert ended.stderr == ""
