"""A node that is lost takes nothing with it but its calls in flight."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from raypipe.results import Result
from tests.acceptance.chain import CONCURRENCY, answer, asked, chain, topics
from tests.acceptance.processes import ROOT, table
from tests.loopback import serve

ROWS = 300


def lose_a_node(tmp_path: Path, seed: int) -> None:
    with serve(answer=answer, latency_s=0.1) as server:
        undisturbed = table(chain(server.base_url, topics(ROWS)).run(tmp_path / "whole", engine="local"))
        seen = len(server.requests)
        command = [sys.executable, "-m", "tests.acceptance.two_nodes", "--url", server.base_url]
        after = seen + random.Random(seed).randrange(50, 3 * ROWS - 150)
        command += ["--out", str(tmp_path / "out"), "--rows", str(ROWS), "--after", str(after)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        counts = Counter(asked(server, since=seen))
    assert ended.returncode == 0, ended.stderr[-2000:]
    lost = re.search(r"lost (\d+) workers", ended.stdout)
    assert lost is not None
    assert int(lost[1]) > 0, "there was nothing to lose"
    assert table(Result(tmp_path / "out")) == undisturbed
    assert counts.total() - len(counts) <= CONCURRENCY


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_node_is_lost(tmp_path: Path) -> None:
    lose_a_node(tmp_path, 0)


@pytest.mark.ray
@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_node_is_lost_at_many_moments(seed: int, tmp_path: Path) -> None:
    lose_a_node(tmp_path, seed)
