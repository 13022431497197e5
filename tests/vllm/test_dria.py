"""Pipelines in Dria's words against a real vLLM server with a tiny random model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from raypipe.dria import Dria
from raypipe.errors import RowError
from raypipe.models import LLM
from tests.books import assert_balanced
from tests.dria.shipped import nemotron
from tests.dria.substituted import loaded
from tests.vllm.marks import MARKS

pytestmark = MARKS


def client(base_url: str, folder: Path) -> Dria:
    llm = LLM("vllm-server/tiny", base_url=base_url, max_tokens=48, temperature=1.0)
    return Dria(default=llm, engine="local", out=folder)


def figures(pipeline: Any) -> dict[str, Any]:
    """What each step did, after every row was looked for."""
    assert_balanced(pipeline.graph.graph(), pipeline.result)
    return pipeline.result.manifest["steps"]


def test_every_row_of_the_shipped_pipeline_is_accounted_for(base_url: str, tmp_path: Path) -> None:
    """Noise is hardly ever in the form that was asked for."""
    with nemotron() as module:
        pipeline = module.NemotronQA(client(base_url, tmp_path)).build("tides", "3", "2")
        with suppress(RowError):
            pipeline.execute_sync()
        first = figures(pipeline)
        assert first["Answers.2"]["rows_done"] > 0
        assert all("no RESPONSE A and RESPONSE B" in failure["message"] for failure in pipeline.failures)
        assert len(pipeline.result["default"]) + len(pipeline.failures) == first["Answers.2"]["rows_out"]
        with suppress(RowError):
            pipeline.execute_sync()
    assert pipeline.result.manifest["legs"][-1]["calls_sent"] == 0


def test_every_row_of_a_program_of_dria_is_accounted_for(base_url: str, tmp_path: Path) -> None:
    with loaded(tmp_path / "programs") as programs:
        pipeline = programs.nemotron_qa.NemotronQA(client(base_url, tmp_path / "out")).build("tides", "3", "2")
        rows = pipeline.execute_sync()
    steps = figures(pipeline)
    names = ["NemotronSubtopicStep.0", "NemotronQuestionStep.1", "NemotronAnswerStep.2"]
    for name, above in zip(names[1:], names, strict=False):
        assert steps[name]["rows_in"] == steps[f"{above}.callback"]["rows_out"] > 0
    assert (len(rows), pipeline.failures) == (steps["dataset"]["rows_out"], [])
