"""Programs written for distilabel run after their imports were changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.loopback import serve

PROGRAMS = Path(__file__).parent / "programs"
MODELS = ["gpt-4-0125-preview", "mistral-large-2402", "gemini-1.0-pro"]
ROWS = 12

pytestmark = pytest.mark.ray


def folder_of(tmp_path: Path) -> Path:
    """A local folder in the place of a dataset on the hub."""
    folder = tmp_path / "instruction-dataset-mini"
    folder.mkdir()
    prompts = [f"prompt {number}" for number in range(ROWS)]
    pq.write_table(pa.table({"prompt": prompts, "completion": prompts, "meta": prompts}), folder / "train.parquet")
    return folder


def run(program: str, *arguments: str) -> dict[str, Any]:
    """What a program prints at its end, after it ended well and said nothing else."""
    keys = {"MISTRAL_API_KEY": "k", "VERTEX_ACCESS_TOKEN": "k", "OPENAI_API_KEY": "k"}
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    ended = subprocess.run(command, env=os.environ | keys, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    [line] = ended.stdout.splitlines()
    return json.loads(line)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("several_models.py", ["ray", "all"]), ("former_names.py", ["local"])],
    ids=["present", "former"],
)
def test_all_models_answer_each_row(tmp_path: Path, program: str, arguments: list[str]) -> None:
    with serve() as server:
        said = run(program, server.base_url, str(folder_of(tmp_path)), str(tmp_path / "out"), *arguments)
        assert sum(server.counts().values()) == 3 * ROWS
        assert {request.body["temperature"] for request in server.requests} == {0.7}
    assert said["subsets"] == ["combine_generations"]
    assert [row["instruction"] for row in said["rows"]] == [f"prompt {number}" for number in range(ROWS)]
    for row in said["rows"]:
        assert [name.partition("/")[2] for name in row["model_names"]] == MODELS
        assert len(row["generations"]) == 3


@pytest.mark.parametrize("mode", ["sampled", pytest.param("dataset", marks=pytest.mark.full)])
def test_two_models_by_chance_answer_each_row(tmp_path: Path, mode: str) -> None:
    with serve() as server:
        command = ["several_models.py", server.base_url, str(folder_of(tmp_path)), str(tmp_path / "out")]
        said = run(*command, "ray", mode)
        assert sum(server.counts().values()) == 2 * ROWS
        assert run(*command, "local", mode) == said, "each row takes the same way again, on the other engine too"
        assert sum(server.counts().values()) == 2 * ROWS
    chosen = [tuple(row["model_names"]) for row in said["rows"]]
    assert {len(set(names)) for names in chosen} == {2}
    assert {len(row["generations"]) for row in said["rows"]} == {2}
    assert len(set(chosen)) > 1
