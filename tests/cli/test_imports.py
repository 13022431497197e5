"""A file executes nothing of its own unless the modules that it may import from are named."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from tests.cli.conftest import Command

STRANGER = """
from pathlib import Path
from raypipe.steps import step

Path(__file__).with_name("executed").touch()

def loud(text):
    return text.upper()

def all_rows(rows):
    return rows

def first(steps):
    return steps[:1]

def long(row):
    return True

schema = {"type": "object", "properties": {"a": {"type": "string"}}}

@step(inputs=["topic"], outputs=["loud"])
def shouted(row):
    return {"loud": row["topic"].upper()}
"""
SEED: dict[str, Any] = {"name": "seed", "type": "LoadDataFromDicts", "data": [{"topic": "sea"}]}
ASK: dict[str, Any] = {"name": "ask", "type": "TextGeneration", "llm": "offline/stand-in", "template": "{{ topic }}"}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file beside it when it is executed."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("stranger", None)


def written(folder: Path, *steps: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "strange", "steps": [SEED, *steps]}))
    return path


@pytest.mark.parametrize(
    "steps",
    [
        [{"name": "own", "type": "stranger:shouted"}],
        [ASK | {"parse": "stranger:loud"}],
        [ASK | {"parse": "stranger.loud"}],
        [ASK | {"structured_output": "stranger:schema"}],
        [{"name": "keep", "type": "Filter", "keep": "stranger:long"}],
        [{"name": "own", "type": "Callback", "function": "stranger:all_rows"}],
        [ASK | {"custom": "stranger:all_rows"}],
        [ASK | {"when": "stranger:long"}],
    ],
    ids=["type", "parser", "dotted parser", "schema", "predicate", "callback", "custom", "when"],
)
def test_what_a_file_names_is_not_executed(stranger: Path, steps: list[dict[str, Any]]) -> None:
    path = written(stranger, *steps)
    with pytest.raises(SpecError, match="--allow-import stranger"):
        Pipeline.from_file(path)
    assert not (stranger / "executed").exists()


def test_nor_is_what_a_routing_names(stranger: Path) -> None:
    seed = SEED | {"routes": [{"to": ["ask"], "function": "stranger:first"}]}
    path = stranger / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "strange", "steps": [seed, ASK]}))
    with pytest.raises(SpecError, match="--allow-import stranger"):
        Pipeline.from_file(path)
    assert not (stranger / "executed").exists()


@pytest.mark.parametrize(
    "path", ["raypipe.steps.columns.min_hash_dedup:import_module", "raypipe.steps.llm.text_generation:Path.unlink"]
)
def test_modules_of_ours_are_no_way_around(stranger: Path, path: str) -> None:
    with pytest.raises(SpecError, match="--allow-import raypipe"):
        Pipeline.from_file(written(stranger, ASK | {"parse": path}))


def test_what_is_allowed_is_imported(stranger: Path) -> None:
    pipeline = Pipeline.from_file(written(stranger, {"name": "own", "type": "stranger:shouted"}), ["stranger"])
    result = pipeline.run(stranger / "out", engine="local")
    assert result["own"].to_arrow()["loud"].to_pylist() == ["SEA"]


def test_the_command_line_allows_it(command: Command, stranger: Path) -> None:
    path = written(stranger, {"name": "own", "type": "stranger:shouted"})
    refused = command("run", path, "--engine", "local", "--out", stranger / "out")
    assert refused.exit_code == 1
    assert "--allow-import stranger" in refused.stderr
    assert not (stranger / "executed").exists()
    assert (
        command("run", path, "--engine", "local", "--out", stranger / "out", "--allow-import", "stranger").exit_code
        == 0
    )


@pytest.fixture
def site(stranger: Path) -> Iterator[str]:
    """The folder of the module, served."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(stranger))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_comes_from_a_url_too(command: Command, stranger: Path, site: str) -> None:
    written(stranger, ASK)
    assert "ask: TextGeneration" in command("info", f"{site}/spec.yaml").stdout
    assert [step.name for step in Pipeline.from_file(f"{site}/spec.yaml").steps] == ["seed", "ask"]


def test_a_url_that_is_not_there_is_said(command: Command, site: str) -> None:
    result = command("info", f"{site}/other.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{site}/other.yaml: cannot be fetched: " in result.stderr


WRONG_PATHS = {
    "stranger:missing": "nothing to import there (module 'stranger' has no attribute 'missing')",
    "nowhere:first": "nothing to import there (No module named 'nowhere')",
    "stranger:schema": "is a dict, which cannot be called",
}


@pytest.mark.parametrize(("path", "said"), WRONG_PATHS.items())
@pytest.mark.parametrize("place", ["routes", "custom", "when", "function"])
def test_a_function_that_is_not_there_is_said_beforehand(
    command: Command, stranger: Path, place: str, path: str, said: str
) -> None:
    seed, ask = dict(SEED), dict(ASK)
    if place == "routes":
        seed["routes"] = [{"to": ["ask"], "function": path}]
    elif place == "function":
        ask = {"name": "ask", "type": "Callback", "function": path}
    else:
        ask[place] = path
    spec = stranger / "spec.yaml"
    spec.write_text(yaml.safe_dump({"name": "strange", "steps": [seed, ask]}))
    allowed = ["--allow-import", "stranger", "--allow-import", "nowhere"]
    found = command("validate", spec, *allowed)
    assert found.exit_code == 1
    assert f"dotted path {path!r}: {said}" in found.stderr
    assert f"step {'seed' if place == 'routes' else 'ask'!r}" in found.stderr
