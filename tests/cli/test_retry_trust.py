"""`raypipe retry` runs, reads and asks nothing that only the run folder names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Command, tiny, written
from tests.loopback import serve

PROGRAM = """
from pathlib import Path
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration

Path(__file__).with_name("executed").touch()

def number(text):
    return {"generation": float(text) if text != "fine" or not Path(__file__).with_name("mended").exists() else text}

with Pipeline("program") as pipeline:
    seed = LoadDataFromDicts([{"topic": "sea"}])
    llm = LLM("offline/stand-in", options={"answers": {"Write": "fine"}})
    seed >> TextGeneration("texts", llm=llm, template="Write {{ topic }}", parse=number, outputs=["generation"])
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def executed(program: Path) -> bool:
    mark = program.with_name("executed")
    was_there = mark.exists()
    mark.unlink(missing_ok=True)
    return was_there


def failing() -> dict[str, Any]:
    plain = tiny()
    plain["models"]["writer"]["options"]["answers"]["Write"] = "not a number"
    plain["steps"][2] |= {"parse": "json"}
    return plain


def run(command: Command, spec: Path, *words: object, code: int = 3) -> None:
    result = command("run", spec, "--engine", "local", "--out", "out", *words)
    assert result.exit_code == code, result.output


def test_a_python_file_is_run_where_this_command_line_names_it(command: Command, program: Path) -> None:
    run(command, program)
    assert executed(program)
    program.with_name("mended").touch()
    refused = command("retry", "out", "--engine", "local")
    assert refused.exit_code == 1
    assert not executed(program)
    out = Path("out").absolute()
    assert f"name the Python file that was run: raypipe retry {out} --spec {program}" in refused.stderr
    retried = command("retry", "out", "--engine", "local", "--spec", program)
    assert retried.exit_code == 0, retried.output
    assert executed(program)


@pytest.mark.parametrize("damage", ["manifest", "pipeline"])
def test_a_folder_names_no_code(command: Command, spec: Path, program: Path, damage: str) -> None:
    written(spec, failing())
    run(command, spec)
    if damage == "manifest":
        manifest = json.loads(Path("out/manifest.json").read_text())
        manifest["origin"] |= {"spec": f"{program}:pipeline", "allow_import": ["program"], "settings": ["texts.x=1"]}
        Path("out/manifest.json").write_text(json.dumps(manifest))
    else:
        plain = yaml.safe_load(Path("out/pipeline.yaml").read_text())
        plain["steps"][2]["parse"] = "program:number"
        Path("out/pipeline.yaml").write_text(yaml.safe_dump(plain))
    sys.path.insert(0, str(program.parent))
    try:
        result = command("retry", "out", "--engine", "local")
        assert result.exit_code == (3 if damage == "manifest" else 1), result.output
        assert not executed(program)
        assert damage == "manifest" or "--allow-import program" in result.stderr
    finally:
        sys.path.remove(str(program.parent))
        sys.modules.pop("program", None)


def test_a_file_needs_nothing_more(command: Command, spec: Path) -> None:
    plain = failing()
    (spec.parent / "write.md").write_text("Write {{ part }}")
    plain["steps"][2] |= {"template": None, "template_file": "write.md"}
    written(spec, plain)
    run(command, spec, "--model", "writer=offline/other")
    retried = command(
        "retry", "out", "--set", "texts.parse=text", "--model", "writer=offline/third", "--engine", "local"
    )
    assert retried.exit_code == 0, retried.output
    assert "failed before, 0 after" in retried.output


def test_an_input_is_named_again(command: Command, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"topic": "fog"}\n')
    written(spec, failing())
    run(command, spec, "--input", "rows.jsonl")
    refused = command("retry", "out", "--set", "texts.parse=text", "--engine", "local")
    assert refused.exit_code == 1
    assert f"--allow-files {tmp_path}" in refused.stderr
    assert "--input rows.jsonl" in refused.stderr
    for words in (["--input", "rows.jsonl"], ["--allow-files", "."]):
        assert command("retry", "out", "--set", "texts.parse=text", "--engine", "local", *words).exit_code == 0


def test_a_folder_names_no_host_and_no_key(command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-strangers")
    written(spec, failing())
    run(command, spec)
    plain = yaml.safe_load(Path("out/pipeline.yaml").read_text())
    with serve(answer=lambda body: "1") as server:
        evil = {"uri": "openai/x", "base_url": server.base_url, "api_key_env": "AWS_SECRET_ACCESS_KEY"}
        plain["models"] = {name: evil for name in plain["models"]}
        Path("out/pipeline.yaml").write_text(yaml.safe_dump(plain))
        refused = command("retry", "out", "--engine", "local")
        assert refused.exit_code == 1
        assert "--allow-host 127.0.0.1" in refused.stderr
        assert server.requests == []


def test_calls_kept_elsewhere_are_named_again(command: Command, spec: Path, tmp_path: Path) -> None:
    written(spec, failing())
    run(command, spec, "--calls", "log")
    refused = command("retry", "out", "--set", "texts.parse=text", "--engine", "local")
    assert refused.exit_code == 1
    assert f"add --calls {tmp_path / 'log'}" in refused.stderr
    words = ["--set", "texts.parse=text", "--engine", "local", "--calls", "log"]
    assert command("retry", "out", *words).exit_code == 0
