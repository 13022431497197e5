"""The README tells the truth: its programs run, and the dataset loads as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.contracts.step import Step
from raypipe.pipeline import Pipeline

README = (Path(__file__).parents[1] / "README.md").read_text()
CONFIG = Path(__file__).parents[1] / "configs" / "nemotron_qa.yaml"
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_shipped_pipeline_makes_what_load_dataset_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the dev extra brings datasets")
    Pipeline.from_file(CONFIG).run(tmp_path / "out" / "nemotron-qa", engine="local")
    [program] = [program for program in PROGRAMS if "load_dataset" in program]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict[str, object] = {}
    exec(program, names)
    assert len(names["pairs"]) == 50  # type: ignore[arg-type]


@pytest.mark.ray
def test_the_pipeline_in_python_runs_as_a_script(tmp_path: Path) -> None:
    [program] = [program for program in PROGRAMS if "nemotron-qa-python" in program]
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ pairs; 0 failed rows", done.stdout)
    assert done.stderr == ""


def test_the_function_with_several_calls_is_a_step() -> None:
    [program] = [program for program in PROGRAMS if "async def debate" in program]
    names: dict[str, object] = {}
    exec(program, names)
    from raypipe.models import LLM

    assert isinstance(names["debate"]("debated", llm=LLM("offline/stand-in")), Step)  # type: ignore[operator]


def test_the_branches_meet_in_two_answers_for_each_row(tmp_path: Path) -> None:
    from raypipe.models import LLM

    [program] = [program for program in PROGRAMS if "sample_n_steps" in program]
    names: dict[str, object] = {"LLM": LLM}
    exec(program, names)
    result = names["pipeline"].run(tmp_path / "out", engine="local")  # type: ignore[attr-defined]
    assert [len(row["generations"]) for row in result["grouped"].to_arrow().to_pylist()] == [2, 2]


def test_a_workflow_writes_for_each_row(tmp_path: Path) -> None:
    from raypipe.models import LLM
    from raypipe.steps import LoadDataFromDicts

    [program] = [program for program in PROGRAMS if "WorkflowStep(" in program]
    names: dict[str, object] = {"Pipeline": Pipeline, "LLM": LLM, "LoadDataFromDicts": LoadDataFromDicts}
    exec(program, names)
    result = names["written"].run(tmp_path / "out", engine="local")  # type: ignore[attr-defined]
    assert [row["topic"] for row in result["writing"].to_arrow().to_pylist()] == ["tides", "volcanoes"]
    assert result.failed_rows == 0


def test_a_function_asks_with_tools(tmp_path: Path) -> None:
    from raypipe.models import LLM
    from raypipe.steps import LoadDataFromDicts, step

    [program] = [program for program in PROGRAMS if "CustomTool" in program]
    names: dict[str, object] = {"__name__": "reckoning", "step": step}
    exec(program, names)
    with Pipeline("reckoned") as pipeline:
        reckoned = names["reckon"]("reckoned", llm=LLM("offline/stand-in"))  # type: ignore[operator]
        LoadDataFromDicts([{"question": "How large is a room of 3 by 4 metres?"}]) >> reckoned
    result = pipeline.run(tmp_path / "out", engine="local")
    assert result.failed_rows == 0
    assert result.manifest["steps"]["reckoned"]["calls_sent"] == 2


def test_a_program_in_the_words_of_dria(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [program] = [program for program in PROGRAMS if "StepTemplate" in program]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(program, names)
    assert len(names["output"]["result"]) == 6  # type: ignore[index]
