"""The command as a process: what it loads, and how Ctrl+C ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson

from tests.cli.conftest import tiny, written

_MAIN = "from raypipe.cli import main; main()"
_LOADED = """
import sys
from raypipe.cli import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(*sorted({"ray", "rich", "pandas", "aiohttp", "datasets"} & set(sys.modules)), file=sys.stderr)
"""
_ASLEEP = """
import time
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, step

@step(inputs=["n"], outputs=["m"])
def doze(row):
    open("asleep", "w").close()
    time.sleep(600)

with Pipeline("asleep") as pipeline:
    LoadDataFromDicts([{"n": 1}], name="seed") >> doze("doze")
"""


def test_a_small_run_loads_neither_ray_nor_pandas_nor_rich(tmp_path: Path):
    spec = written(tmp_path / "tiny.yaml", tiny())
    command = [sys.executable, "-c", _LOADED, "run", str(spec), "--engine", "local", "--out", "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == ""
    assert orjson.loads((tmp_path / "here/manifest.json").read_bytes())["leaves"]["texts"]["rows"] == 6


def test_help_loads_nothing_but_the_options(tmp_path: Path):
    code = _LOADED + "assert not {'pydantic', 'numpy', 'yaml'} & set(sys.modules)"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == ""
    assert "Exit codes:" in done.stdout


def test_ctrl_c_ends_a_run_at_once_even_when_a_step_is_asleep(tmp_path: Path):
    (tmp_path / "asleep.py").write_text(_ASLEEP)
    command = [sys.executable, "-c", _MAIN, "run", "asleep.py", "--engine", "local", "--out", "here"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "asleep").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 4
    told, resume = errors.splitlines()
    assert (out, told) == ("", f"error: stopped on request; 0 finished rows are in {tmp_path / 'here'}")
    assert resume.startswith("to go on: raypipe run asleep.py")
