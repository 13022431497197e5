"""A disk that is full stops the run with one sentence, and nothing that was paid is lost."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import OutputError, StoppedError
from tests.acceptance.chain import answer, asked, chain, topics
from tests.acceptance.processes import table
from tests.loopback import serve

ROWS = 300
MOST = (8 << 20) - 110_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MiB, most of which is taken."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    (folder / "taken").write_bytes(bytes(MOST))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(engine: Any, small_disk: Path) -> None:
    out = small_disk / "out"
    with serve(answer=answer, latency_s=0.01) as server:
        pipeline = chain(server.base_url, topics(ROWS))
        with pytest.raises(
            (OutputError, StoppedError), match=r"cannot be written|disk of the call log is full"
        ) as stopped:
            pipeline.run(out, engine=engine)
        assert "\n" not in str(stopped.value)
        cut_off = len(server.requests)
        assert 0 < cut_off < 3 * ROWS
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        assert len(table(pipeline.run(out, engine=engine))) == ROWS
        counts = Counter(asked(server))
    assert (len(counts), counts.total()) == (3 * ROWS, 3 * ROWS), "nothing is repeated"


def test_rows_that_find_no_room_lose_no_call_that_is_in_flight(engine: Any, small_disk: Path, tmp_path: Path) -> None:
    with (small_disk / "taken").open("ab") as taken:
        taken.write(bytes((1 << 20) + 60_000))
    many, calls = 1024 + 300, tmp_path / "calls"
    with serve(answer=answer, latency_s=0.3) as server:
        pipeline = chain(server.base_url, topics(many), concurrency=256)
        with pytest.raises(OutputError, match="No space left on device"):
            pipeline.run(small_disk / "out", engine=engine, calls=calls)
        assert len(server.requests) < 3 * many
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        assert len(table(pipeline.run(small_disk / "out", engine=engine, calls=calls))) == many
        counts = Counter(asked(server))
    assert (len(counts), counts.total()) == (3 * many, 3 * many), "nothing is repeated"


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    with serve(answer=answer) as server:
        for where in ({"out": folder / "out"}, {"out": tmp_path / "out", "calls": folder / "calls"}):
            with pytest.raises(OutputError, match=r"cannot be written|is a file"):
                chain(server.base_url, topics(3)).run(**where, engine="local")
        assert server.requests == []
