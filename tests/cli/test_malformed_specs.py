"""A file that is unsound is refused with a message that names the place, before Ray or anything else starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import Command, written
from tests.cli.damaged import SOUND, Damaged, damaged_files

_SAMPLE = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from raypipe.cli.commands import app
for path in sorted(Path(sys.argv[1]).iterdir()):
    for command in ("run", "validate", "plan", "dry-run", "info"):
        result = CliRunner().invoke(app, [command, str(path)])
        assert result.exit_code == 1, (path.name, command, result.output)
        assert result.stderr.startswith("error: "), (path.name, command, result.output)
        assert "Traceback" not in result.output, (path.name, command, result.output)
assert not {"ray", "rich", "pandas", "aiohttp"} & set(sys.modules)
"""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged=damaged_files())
def test_every_damage_is_named(command: Command, damaged: Damaged):
    before = "ray" in sys.modules
    Path("bad.yaml").write_bytes(damaged.content)
    result = command("validate", "bad.yaml")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    assert damaged.names in result.stderr
    assert "Traceback" not in result.output
    assert ("ray" in sys.modules) == before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(), st.text("{}[]:,-&*!|>'\"%@`#? \t\nab1", max_size=40).map(str.encode)))
def test_garbage_is_refused(command: Command, content: bytes):
    Path("bad.yaml").write_bytes(content)
    result = command("validate", "bad.yaml")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: bad.yaml")


def test_the_undamaged_file_is_sound(command: Command, tmp_path: Path):
    result = command("validate", written(tmp_path / "sound.yaml", SOUND))
    assert result.exit_code == 0
    assert "sound is sound: 4 steps in 1 stage, writes data/essays/, data/titles/" in result.stdout


@pytest.mark.parametrize("text", ['{"name": "a", "name": "b", "steps": []}', "name: a\nname: b\nsteps: []\n"])
def test_a_key_given_twice_is_refused_in_both_forms(command: Command, text: str):
    Path("bad.yaml").write_text(text)
    result = command("validate", "bad.yaml")
    assert result.exit_code == 1
    assert "key 'name' is given twice" in result.stderr


def test_json_with_tabs_and_escaped_characters_is_read(command: Command):
    steps = '"steps": [{"type": "LoadDataFromDicts", "data": []}]'
    Path("good.json").write_text('{\n\t"name": "a",\n\t"description": "\\ud83d\\ude00",\n\t' + steps + "\n}")
    result = command("info", "good.json")
    assert result.exit_code == 0
    assert "\U0001f600" in result.stdout


def test_no_command_loads_ray_for_a_bad_file(tmp_path: Path):
    folder = tmp_path / "bad"
    folder.mkdir()
    texts = ["- 1", "name: a", "{", "name: a\nsteps: [{type: Nothing}]", "name: a\nsteps:\n  - {type: KeepColumns}"]
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    subprocess.run([sys.executable, "-c", _SAMPLE, str(folder)], check=True, timeout=120)
