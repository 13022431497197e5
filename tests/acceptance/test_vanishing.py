"""A run whose folder or call log is taken away ends within seconds, and says so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.errors import RaypipeError
from tests.acceptance.chain import answer, chain, topics
from tests.loopback import serve

MOST_S = 30.0
"""Until the run has ended; alone on its machine it takes about three seconds."""


def renamed(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}-elsewhere"))


def replaced(path: Path) -> None:
    renamed(path)
    path.mkdir()


@pytest.mark.parametrize("taken", ["out", "calls", "out/.raypipe"])
@pytest.mark.parametrize("take", [shutil.rmtree, renamed, replaced], ids=["removed", "renamed", "replaced"])
def test_a_folder_that_vanishes_ends_the_run(tmp_path: Path, taken: str, take: Callable[[Path], None]) -> None:
    taken_at: list[float] = []

    def slow(body: dict[str, object]) -> str:
        if len(server.requests) > 50 and not taken_at:
            taken_at.append(time.monotonic())
            take(tmp_path / taken)
        return answer(body)

    with serve(answer=slow, latency_s=0.2) as server:
        pipeline = chain(server.base_url, topics(5000))
        with pytest.raises(RaypipeError, match=r"was removed, renamed or replaced|No such file or directory") as caught:
            pipeline.run(tmp_path / "out", engine="local", calls=tmp_path / "calls")
    assert time.monotonic() - taken_at[0] < MOST_S
    assert str(tmp_path / taken.partition("/")[0]) in str(caught.value)
    assert len(server.requests) < 5000
    assert (tmp_path / taken).exists() == (take is replaced), "nothing is in the way of what is put back"


@pytest.mark.parametrize("taken", ["out", "out/.raypipe"])
def test_a_short_run_whose_folder_vanishes_does_not_count_as_done(tmp_path: Path, taken: str) -> None:
    def slow(body: dict[str, object]) -> str:
        if (tmp_path / taken).exists():
            shutil.rmtree(tmp_path / taken)
        return answer(body)

    with serve(answer=slow) as server, pytest.raises(RaypipeError, match=r"out.*No such file or directory"):
        chain(server.base_url, topics(3)).run(tmp_path / "out", engine="local", calls=tmp_path / "calls")
