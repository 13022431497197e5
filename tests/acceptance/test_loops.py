"""A row that makes several calls, killed between two of them, goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.chain import topics
from tests.acceptance.loop import answer, looped
from tests.acceptance.processes import killed, table
from tests.loopback import Loopback, serve


def prompts(server: Loopback) -> list[str]:
    return [request.body["messages"][-1]["content"].partition(" ")[0] for request in server.requests]


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.full])])
def test_a_loop_killed_between_two_calls_sends_none_again(engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer, latency_s=0.5) as server:
        killed(server, tmp_path / "out", engine, 1, 3, program="loop")
        assert prompts(server)[:3] == ["write", "good?", "write"]
        result = looped(server.base_url, topics(1)).run(tmp_path / "out", engine=engine)
        # What was on its way when everything died is asked again, what had been answered is not.
        assert len(server.counts()) == 6
        assert len(server.requests) <= 7
        assert all(server.counts()[request.digest] == 1 for request in server.requests[:2])
    assert [row["poem"] for row in table(result, "work")] == ["+++"]


def test_a_limit_ends_the_loop_with_a_failure_that_names_it(tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        result = looped(server.base_url, topics(1), max_steps=4).run(
            tmp_path / "out", engine="local", max_failed_rows=1
        )
        assert prompts(server) == ["write", "good?"] * 2
    [failure] = result.failures.to_arrow().to_pylist()
    assert failure["kind"] == "limit" and "max_steps=4" in failure["message"]
