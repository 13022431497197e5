"""What goes with a job to a cluster, and what is refused before anything does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from raypipe.cli.job_package import LARGEST_BYTES, Luggage, pack
from raypipe.cli.specs import Wanted, pipeline_of
from raypipe.errors import SpecError
from tests.cli.conftest import Command, tiny, written

PROGRAM = """
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromFiles, TextGeneration

with Pipeline("beside") as pipeline:
    LoadDataFromFiles(path="../inputs/*.jsonl") >> TextGeneration(llm=LLM("offline/stand-in"), template="{{ topic }}")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a neighbour."""
    for name in ("here", "inputs", "packed"):
        (tmp_path / name).mkdir()
    (tmp_path / "inputs" / "topics.jsonl").write_text('{"topic": "sea"}\n')
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def packed(wanted: Wanted, prices: Path | None = None) -> tuple[Luggage, set[str]]:
    folder = Path("../packed").absolute()
    made = pack(pipeline_of(wanted), wanted, prices, folder)
    return made, {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_goes_as_the_pipeline_that_it_stands_for(here: Path) -> None:
    plain = tiny()
    (here / "ask.md").write_text("Describe {{ part }}")
    plain["steps"][2] |= {"template": None, "template_file": "ask.md"}
    made, files = packed(Wanted(str(written(here / "tiny.yaml", plain)), models=["offline/other"]))
    assert files == {"pipeline.yaml"}
    assert made.wanted == Wanted("pipeline.yaml")
    text = (made.folder / made.start / "pipeline.yaml").read_text()
    assert "Describe {{ part }}" in text
    assert "offline/other" in text


def test_inputs_and_prices_lie_there_as_they_lie_here(here: Path) -> None:
    spec = str(written(here / "tiny.yaml", tiny()))
    (here.parent / "prices.yaml").write_text("offline/stand-in: [1, 1]\n")
    made, files = packed(Wanted(spec, input="../inputs/topics.jsonl"), here.parent / "prices.yaml")
    assert files == {"here/pipeline.yaml", "inputs/topics.jsonl", "prices.yaml"}
    assert (made.start, made.wanted.input, made.prices) == ("here", "../inputs/topics.jsonl", "../prices.yaml")


def test_an_absolute_path_is_one_of_the_clusters(here: Path) -> None:
    spec = str(written(here / "tiny.yaml", tiny()))
    made, files = packed(Wanted(spec, input=str(here.parent / "inputs" / "topics.jsonl")))
    assert files == {"pipeline.yaml"}
    assert made.wanted.input == str(here.parent / "inputs" / "topics.jsonl")


def test_a_python_file_goes_with_its_folder_and_what_its_loaders_read(here: Path) -> None:
    program = here / "program"
    for folder in (program / "prompts", program / ".git", program / "venv", program / "out" / ".raypipe"):
        folder.mkdir(parents=True)
    for path in ("prompts/ask.md", "words.py", ".git/config", ".env", "venv/pyvenv.cfg", "out/manifest.json"):
        (program / path).write_text("")
    (program / "beside.py").write_text(PROGRAM)
    made, files = packed(Wanted("program/beside.py:pipeline"))
    ours = {f"here/program/{path}" for path in ("beside.py", "words.py", "prompts/ask.md")}
    assert files == ours | {"inputs/topics.jsonl", "words.py"}, "workers find modules at the top"
    assert (made.start, made.wanted.spec) == ("here", "program/beside.py:pipeline")


def test_a_module_that_may_be_imported_goes_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "own_steps").mkdir()
    (here / "own_steps" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    spec = str(written(here / "tiny.yaml", tiny()))
    _, files = packed(Wanted(spec, allow_import=["own_steps.inner", "yaml"]))
    assert files == {"pipeline.yaml", "own_steps/__init__.py"}


def test_too_much_is_refused_by_the_name_of_the_largest(here: Path) -> None:
    spec = str(written(here / "tiny.yaml", tiny()))
    with (here.parent / "inputs" / "large.jsonl").open("wb") as file:
        file.truncate(LARGEST_BYTES)
    with pytest.raises(SpecError, match=r"the largest is \.\./inputs/large.jsonl .* by its absolute path there"):
        packed(Wanted(spec, input="../inputs"))


@pytest.mark.parametrize("out", [[], ["--out", "here"]], ids=str)
def test_a_folder_that_nodes_do_not_share_is_refused(command: Command, spec: Path, out: list[str]) -> None:
    result = command("submit", spec, *out, "--address", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "wants a folder that all nodes of the cluster share" in result.stderr


def test_an_unsound_pipeline_is_not_sent(command: Command, tmp_path: Path) -> None:
    broken = tiny() | {"steps": [{"name": "texts", "type": "TextGenaration"}]}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    result = command("submit", "broken.yaml", "--out", "/shared/out", "--address", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "TextGeneration" in result.stderr


def test_a_variable_that_is_not_there_stops_a_run_before_it_begins(command: Command, spec: Path) -> None:
    result = command("run", spec, "--engine", "local", "--env", "NOT_THERE_AT_ALL")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: environment variable 'NOT_THERE_AT_ALL': is not set where the run starts")
