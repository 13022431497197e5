"""Where replicas live whose engines are larger than a node."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from raypipe.contracts.llm import LLM
from raypipe.models import SPREAD_ENGINE
from raypipe.models.vllm.devices import claimed
from raypipe.models.vllm.options import engine_options
from tests.acceptance.processes import ROOT


@pytest.mark.ray
def test_an_engine_larger_than_a_node_has_a_group_of_gpus_on_several() -> None:
    command = [sys.executable, "-m", "tests.execution.spread"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout)
    assert told["whole"] == "SPREAD", "two GPUs fit on a node, where Ray keeps them for the worker itself"
    assert told["forced"] == [{"GPU": 1.0}] * 2
    assert (told["bundles"], told["nodes"], told["is_first"]) == (3, 2, True)
    assert told["left"] == []


def test_an_engine_over_several_nodes_takes_its_gpus_from_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM("vllm/org/model", gpus=4)
    monkeypatch.setenv(SPREAD_ENGINE, "1")
    assert engine_options(llm)["distributed_executor_backend"] == "ray"
    assert claimed(llm).names == ()
