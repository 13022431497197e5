"""The shipped pipeline on engines of this machine: shared, loaded one after the other, killed, and repeated."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from raypipe.results import Result
from tests.acceptance.processes import ROOT, table
from tests.vllm.marks import MARKS

pytestmark = [*MARKS, pytest.mark.ray]

WRITING = 500
"""Bytes in the call log from which on an engine is at work."""


@dataclass
class Watched:
    """What was seen of a run's engines."""

    out: Path
    pids: set[int] = field(default_factory=set)
    most_at_once: int = 0
    pids_before_the_kill: set[int] = field(default_factory=set)

    @property
    def result(self) -> Result:
        return Result(self.out)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def _command(models: tuple[Path, Path], out: Path, engine: str, cpus: float = 0.0) -> list[str]:
    writer, judge = models
    command = [sys.executable, "-m", "tests.vllm.program", "--writer", str(writer), "--judge", str(judge)]
    return [*command, "--out", str(out), "--engine", engine, "--cpus", str(cpus)]


def _engines(process: psutil.Process) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in process.children(recursive=True):
        try:
            if child.name().startswith("VLLM::EngineCor") and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests.vllm.tiny import make_model

    folder = tmp_path_factory.mktemp("models")
    return make_model(folder / "writer"), make_model(folder / "judge", seed=1)


@pytest.fixture(scope="module")
def watched(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run on Ray whose two models have no room at once, and whose first engine is killed while it is at work."""
    out = tmp_path_factory.mktemp("watched") / "out"
    seen = Watched(out)
    said = out.with_name("said.txt")
    with (
        said.open("w") as file,
        subprocess.Popen(_command(models, out, "ray", 1.0), cwd=ROOT, env=_environment(), stderr=file) as run,
    ):
        while run.poll() is None:
            engines = _engines(psutil.Process(run.pid))
            seen.pids |= {engine.pid for engine in engines}
            seen.most_at_once = max(seen.most_at_once, len(engines))
            logged = sum(path.stat().st_size for path in out.glob("calls/segment-*.calls"))
            if logged > WRITING and not seen.pids_before_the_kill:
                seen.pids_before_the_kill = {engine.pid for engine in engines}
                for engine in engines:
                    engine.kill()
            time.sleep(0.1)
    assert run.returncode == 0, said.read_text()[-3000:]
    return seen


def test_no_row_is_lost_with_an_engine(watched: Watched) -> None:
    steps = watched.result.manifest["steps"]
    for name, figures in steps.items():
        assert figures["rows_in"] == figures["rows_done"] + figures["rows_failed"] + figures["rows_filtered"], name
    for above, below in pairwise(steps):
        assert steps[below]["rows_in"] == steps[above]["rows_out"], below
    assert steps["judge"]["rows_done"] >= 1
    assert not any("worker_lost" in failure["kind"] for failure in watched.result.failures.to_arrow().to_pylist())


def test_steps_that_name_one_model_share_its_engine(watched: Watched) -> None:
    assert len(watched.pids_before_the_kill) == 1
    assert len(watched.pids) == 3, "the writers' engine, the one in its place, the judge's"


def test_models_without_room_for_both_are_loaded_one_after_the_other(watched: Watched) -> None:
    assert watched.most_at_once == 1


def test_the_manifest_says_what_the_engines_did(watched: Watched) -> None:
    killed, judge = watched.result.manifest["models"].values()
    for figures in (killed, judge):
        [engine] = figures["engines"].values()
        assert engine["output_tokens"] > 0
        assert engine["most_running"] >= 1
        assert 0 < engine["most_kv_cache_usage"] <= 1
        assert engine["load_s"] > 1
    [engine] = judge["engines"].values()
    assert engine["output_tokens"] == judge["output_tokens"]


# Two engines are loaded only to compare; both executors are compared by tests/execution/test_contract.py.
@pytest.mark.full
def test_an_undisturbed_run_makes_the_same_rows(watched: Watched, models: tuple[Path, Path], tmp_path: Path) -> None:
    command = _command(models, tmp_path / "out", "local")
    ended = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr == ""
    assert table(Result(tmp_path / "out"), "dataset") == table(watched.result, "dataset")


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = _command((tmp_path / "empty", tmp_path / "empty"), tmp_path / "out", "local")
    ended = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=200)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode != 0
    assert "cannot be loaded: " in last
    assert "; name a folder with a model in it" in last
