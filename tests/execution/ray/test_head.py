"""What a run on Ray stands on is lost: that is said within a minute."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raypipe.execution.ray.session import load
from tests.acceptance.processes import ROOT

RAYS_OWN_S = 5.0 + 5 * 3.0
"""After which Ray takes a node for dead whose address nobody listens at: it looks 5 times, at first after 5 s."""


def test_the_bounds_that_are_shipped_keep_to_a_minute() -> None:
    """What is played here waits less long."""
    load()
    from raypipe.execution.ray import head

    assert head._GONE_S == 25.0
    assert RAYS_OWN_S + head._GONE_S + head._LOOK_EVERY_S + head._ANSWER_S < 60


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
