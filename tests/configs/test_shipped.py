"""Whatever pipeline is shipped runs as it is, says nothing but what it did, and has an end with any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from raypipe.files.schema import read_spec, spec_of
from raypipe.pipeline import Pipeline
from raypipe.row import OUTPUT_LINEAGE
from raypipe.steps import TextGeneration
from tests.configs.shipped import CONFIGS, SPECS

README = (CONFIGS.parent / "README.md").read_text()
CHARACTERS_A_TOKEN = 4


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS.parent))


every_spec = pytest.mark.parametrize("path", SPECS, ids=name_of)


@every_spec
@pytest.mark.parametrize("command", ["validate", "plan", "dry-run", "info"])
def test_what_is_asked_about_it_is_answered_without_a_word_more(path: Path, command: str) -> None:
    from raypipe.cli.commands import app

    result = CliRunner().invoke(app, [command, str(path)])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "warning" not in result.stdout.lower()


@every_spec
def test_it_runs_as_a_user_runs_it(path: Path, tmp_path: Path) -> None:
    from raypipe.cli.commands import app

    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(path), "--engine", "local", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output.lower()
    for leaf in (out / "data").iterdir():
        rows = pq.read_table(leaf).to_pylist()
        assert rows
        assert not [(name, row) for row in rows for name, value in row.items() if is_empty(value)]
        assert set(OUTPUT_LINEAGE) <= rows[0].keys()
        assert len({row["_row_id"] for row in rows}) == len(rows)


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


@every_spec
def test_the_readme_says_how_it_is_run(path: Path) -> None:
    assert f"raypipe run {name_of(path)}" in README


def longest(schema: dict[str, Any]) -> int:
    """Most characters that JSON under the schema takes, with a space after each separator."""
    kind = schema.get("type")
    if kind == "object":
        return 2 + sum(len(name) + 6 + longest(part) for name, part in schema["properties"].items())
    if kind == "array":
        return 2 + schema["maxItems"] * (2 + longest(schema["items"]))
    if kind == "string":
        return 2 + (max(map(len, schema["enum"])) if "enum" in schema else schema["maxLength"])
    if kind == "boolean":
        return 5
    assert kind == "integer"
    assert 0 <= schema["minimum"] <= schema["maximum"] <= 9
    return 1


def structured() -> list[Any]:
    found: list[Any] = []
    for path in SPECS:
        for step in Pipeline.from_file(path).steps:
            if isinstance(step, TextGeneration) and step.structured_output is not None:
                found.append(pytest.param(step, id=f"{name_of(path)}:{step.name}"))
    return found


@pytest.mark.parametrize("step", structured())
def test_every_answer_is_bounded_and_in_english_ends_before_max_tokens(step: TextGeneration) -> None:
    assert step.llm is not None and step.llm.max_tokens is not None
    assert longest(step.structured_output) <= CHARACTERS_A_TOKEN * step.llm.max_tokens


@every_spec
def test_every_model_has_a_bound(path: Path) -> None:
    assert all(step.llm.max_tokens for step in Pipeline.from_file(path).steps if step.llm is not None)


def all_in_one() -> Pipeline:
    """The shipped pipelines side by side, on two models: Ray is slow to begin, and so is each of its workers."""
    models = {"any": "offline/any", "rival": "offline/rival"}
    steps: list[dict[str, Any]] = []
    for path in SPECS:
        for one in read_spec(path).steps:
            changed: dict[str, Any] = {"name": f"{path.stem}-{one.name}"}
            if one.after is not None:
                changed["after"] = [f"{path.stem}-{name}" for name in one.after]
            if "llm" in one.options:
                changed["llm"] = "rival" if one.options["llm"] == "rival" else "any"
            if "template_file" in one.options:
                changed["base_dir"] = str(path.parent)
            steps.append({"type": one.type} | one.options | changed)
    return Pipeline.from_spec(spec_of({"name": "all", "models": models, "steps": steps}, "all"), CONFIGS)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_makes_the_same_rows_as_one_process(tmp_path: Path) -> None:
    pipeline = all_in_one()
    ray, local = (pipeline.run(tmp_path / engine, engine=engine) for engine in ("ray", "local"))
    assert len(ray) == len(SPECS)
    for leaf, rows in local.items():
        assert len(rows) and rows.to_arrow().equals(ray[leaf].to_arrow()), leaf
