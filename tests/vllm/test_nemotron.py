"""The shipped pipeline against a real vLLM server with a tiny random model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from raypipe.files.model_choices import choose_in_spec, read_choice
from raypipe.files.schema import read_spec
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.vllm.marks import MARKS

CONFIG = Path(__file__).parents[2] / "configs" / "nemotron_qa.yaml"

pytestmark = MARKS


def _pipeline(base_url: str) -> Pipeline:
    spec = choose_in_spec(read_spec(CONFIG), read_choice("vllm-server/tiny", "model"))
    models = {name: options | {"base_url": base_url} for name, options in spec.models.items()}
    return Pipeline.from_spec(spec.model_copy(update={"models": models}), CONFIG.parent)


def _check_books(result: Result) -> None:
    """Every row that entered a step left it, failed there or was filtered there."""
    steps = result.manifest["steps"]
    names = list(steps)
    for name, figures in steps.items():
        assert figures["rows_in"] == figures["rows_done"] + figures["rows_failed"] + figures["rows_filtered"], name
    for above, below in pairwise(names):
        assert steps[below]["rows_in"] == steps[above]["rows_out"], below
    assert len(result["dataset"]) == steps["dataset"]["rows_out"]
    assert len(result.failures) == sum(figures["rows_failed"] for figures in steps.values())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_every_row_of_the_shipped_pipeline_is_accounted_for(base_url: str, tmp_path: Path) -> None:
    result = _pipeline(base_url).run(tmp_path / "out", max_failed_rows=1000)
    _check_books(result)
    steps = result.manifest["steps"]
    assert steps["subtopics"]["rows_out"] >= 1
    assert steps["judge"]["rows_done"] >= 1
    assert steps["subtopics"]["output_tokens"] > 0


def test_a_second_run_asks_nothing_that_was_answered(base_url: str, tmp_path: Path) -> None:
    first = _pipeline(base_url).run(tmp_path / "out", engine="local", max_failed_rows=1000)
    again = _pipeline(base_url).run(tmp_path / "out", engine="local", max_failed_rows=1000)
    _check_books(first)
    assert again["dataset"].to_arrow().equals(first["dataset"].to_arrow())
    assert again.manifest["legs"][-1]["calls_sent"] == 0
