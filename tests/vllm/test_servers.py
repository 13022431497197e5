"""A server that runs share: the first that asks starts it, it is started again when it dies, and ends when idle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raypipe.results import Result
from tests.acceptance.processes import ROOT
from tests.vllm.marks import MARKS

pytestmark = [*MARKS, pytest.mark.ray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.vllm.tiny import make_model

    folder = tmp_path_factory.mktemp("served")
    make_model(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    """What a program saw that let three runs ask one server, and killed it before the last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.vllm.serving", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_runs_share_the_server_that_the_first_has_started(seen: dict[str, Any]) -> None:
    assert len(seen["first"]) == 1
    assert seen["first"] == seen["second"]


def test_a_server_that_died_is_started_again_at_its_address(seen: dict[str, Any]) -> None:
    [[dead, port]], [[again, same_port]] = seen["second"], seen["third"]
    assert (dead != again, port) == (True, same_port)


def test_an_engine_does_not_outlive_its_server(seen: dict[str, Any]) -> None:
    assert len(seen["orphans"]) >= 1
    assert not any(seen["orphans"].values())


def test_every_row_has_its_answer(seen: dict[str, Any], folder: Path) -> None:
    assert seen
    tables = [Result(folder / name)["ask"].to_pandas() for name in ("first", "second", "third")]
    for table in tables:
        assert len(table) == 8
        assert list(table["generation"]) == list(tables[0]["generation"])


def test_a_server_that_nobody_uses_ends_with_its_engine(seen: dict[str, Any]) -> None:
    assert seen["left"] == []
    assert seen["actors"] == []
