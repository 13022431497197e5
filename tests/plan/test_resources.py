"""What a step wants for its workers is kept for them, and what there is not is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, StepResources, step

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@step(inputs=["number"], outputs=["cpus"])
def kept(row: Values) -> dict[str, Any]:
    import ray

    return {"cpus": ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)}


def pipeline(**wishes: Any) -> Pipeline:
    with Pipeline("wishes") as made:
        seed = LoadDataFromDicts([{"number": number} for number in range(3)], name="seed")
        seed >> kept("kept", resources=StepResources(**wishes))
    return made


def test_a_worker_has_the_processors_that_its_step_wants(tmp_path: Path) -> None:
    result = pipeline(cpus=0.5).run(tmp_path / "out")
    assert result["kept"].to_arrow()["cpus"].to_pylist() == [0.5, 0.5, 0.5]


def test_a_run_that_has_no_room_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="the workers want 4000 CPUs"):
        pipeline(cpus=2000, replicas=2).run(tmp_path / "out")
