"""`--fresh` says what it would drop, and drops it only where somebody said yes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.calls.index import load_index
from tests.acceptance.processes import ROOT
from tests.cli.conftest import Command

RUN = ["--engine", "local", "--out", "here"]
DROPPED = "replace 6 rows of the pipeline 'tiny' and drop 9 answered calls"


def test_without_a_terminal_nothing_is_dropped_unless_it_is_said(command: Command, spec: Path) -> None:
    assert command("run", spec, *RUN, "--fresh").exit_code == 0, "there is nothing to drop yet"
    calls = [path.name for path in Path("here/calls").iterdir()]
    refused = command("run", spec, *RUN, "--fresh")
    assert refused.exit_code == 1
    assert f"--fresh: would {DROPPED} (" in refused.stderr
    assert "tokens as far as the manifest knows) in here; add --yes if that is wanted" in refused.stderr
    assert [path.name for path in Path("here/calls").iterdir()] == calls
    allowed = command("run", spec, *RUN, "--fresh", "--yes")
    assert ", 9 calls sent, $0" in allowed.stdout
    assert [path.name for path in Path("here/calls").iterdir()] != calls


def test_a_log_that_is_shared_is_not_dropped(command: Command, spec: Path) -> None:
    command("run", spec, *RUN, "--calls", "shared")
    refused = command("run", spec, *RUN, "--calls", "shared", "--fresh")
    assert "--fresh: would replace 6 rows of the pipeline 'tiny' in here; add --yes" in refused.stderr
    assert command("run", spec, *RUN, "--calls", "shared", "--fresh", "--yes").exit_code == 0
    assert len(load_index(Path("shared").absolute())) == 9 + 9


@pytest.mark.parametrize(("answer", "code", "sent"), [("y", 0, ", 9 calls sent"), ("n", 1, ""), ("\x04", 1, "")])
def test_in_a_terminal_it_asks(command: Command, spec: Path, answer: str, code: int, sent: str) -> None:
    command("run", spec, *RUN)
    here, there = pty.openpty()
    words = [sys.executable, "-m", "raypipe.cli", "run", str(spec), *RUN, "--fresh"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdin=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as run:
        os.close(there)
        os.write(here, f"{answer}\n".encode())
        said, asked = run.communicate(timeout=120)
        os.close(here)
    assert f"--fresh would {DROPPED}" in asked.decode()
    assert "go on? [y/N]" in asked.decode()
    assert run.returncode == code
    assert sent in said.decode()
    assert len(load_index(Path("here/calls").absolute())) == 9


def test_what_goes_on_after_a_stop_does_not_drop_anything_again(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "here"
    words = [sys.executable, "-m", "raypipe.cli", "run", spec, "--engine", "local", "--out", out, "--max-calls", "5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for more in (), ("--fresh", "--yes"):
        ended = subprocess.run([*words, *more], capture_output=True, text=True, env=environment, check=False)
        assert ended.returncode == 4, ended.stderr
        [hint] = [line for line in ended.stderr.splitlines() if line.startswith("to go on")]
        assert hint.endswith(f"--out {out} --max-calls 5")
