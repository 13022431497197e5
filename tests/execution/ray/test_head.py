"""What a run on Ray stands on is lost: that is said within a minute."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.processes import ROOT


@pytest.mark.ray
@pytest.mark.parametrize(
    ("what", "said"),
    [("node", "the Ray node that this process belongs to is gone"), ("head", "is gone or frozen: it has not answered")],
)
def test_a_frozen_head_or_a_lost_node_is_said(what: str, said: str) -> None:
    command = [sys.executable, "-m", "tests.execution.heads", what]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    was_quiet, seconds, told = ended.stdout.strip().split("|", 2)
    assert was_quiet == "True" and said in told and int(seconds) < 60, ended.stdout
