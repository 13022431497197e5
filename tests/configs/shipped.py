"""The shipped pipelines, run as a test needs them.

Knows nothing of what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.files.overrides import override_spec, read_override
from raypipe.files.schema import read_spec
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.books import Row, assert_balanced

CONFIGS = Path(__file__).parents[2] / "configs"
SPECS = sorted(
    path
    for path in CONFIGS.rglob("*")
    if path.suffix in (".yaml", ".yml") or (path.suffix == ".json" and path.parent == CONFIGS)
)
"""The pipelines; JSON in a folder there may be anything."""


def shipped(
    name: str,
    settings: Sequence[str] = (),
    data: Sequence[dict[str, Any]] = (),
    answers: Mapping[str, dict[str, Any]] | None = None,
) -> Pipeline:
    """The pipeline `name` with options changed, on its own rows or on `data`.

    `answers` are those of some of its models, each by a text in the prompt.
    """
    spec = read_spec(CONFIGS / f"{name}.yaml")
    for model, fixed in (answers or {}).items():
        spec.models[model]["options"] = {"answers": fixed}
    for setting in settings:
        spec = override_spec(spec, [read_override(setting)])
    pipeline = Pipeline.from_spec(spec, CONFIGS)
    if not data:
        return pipeline
    from raypipe.steps import LoadDataFromDicts

    return pipeline.replaced({"seed": LoadDataFromDicts(data, name="seed")})


def ran(pipeline: Pipeline, folder: Path, engine: Any = "local") -> Result:
    """The result of a run in which no row failed and none was lost."""
    result = pipeline.run(folder / "out", engine=engine)
    assert_balanced(pipeline.graph(), result)
    assert result.failed_rows == 0
    return result


def rows_of(result: Result) -> list[Row]:
    """The rows of the dataset, with their lineage."""
    return result["dataset"].to_arrow().to_pylist()
