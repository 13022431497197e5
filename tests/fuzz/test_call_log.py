"""Flipped bits in a call log cost what they hit: no other answer, no good call lost, and a run that ends well."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, index_with_segments, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import HEADER
from raypipe.errors import OutputError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.acceptance.chain import answer, chain, topics
from tests.calls.logs import OTHER, OWNER, frame_of, key, write
from tests.fuzz.effort import EFFORT, bounded, explore
from tests.loopback import Loopback, serve

ROWS = 4
CALLS = 3 * ROWS
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(answer=answer) as one:
        yield one


def pipeline(server: Loopback) -> Pipeline:
    return chain(server.base_url, topics(ROWS))


def files_of(calls: Path) -> list[Path]:
    return sorted(path for kind in ("*.calls", "*.parquet") for path in calls.glob(kind))


def flip(calls: Path, flips: list[tuple[float, int]]) -> set[Path]:
    """Flip bits anywhere in the files of a log, each octet as likely as any other; the files that were hit."""
    files = files_of(calls)
    ends, total = [], 0
    for path in files:
        total += path.stat().st_size
        ends.append(total)
    hit = set()
    for share, bit in flips:
        place = int(share * total)
        number = next(number for number, end in enumerate(ends) if place < end)
        content = bytearray(files[number].read_bytes())
        content[place - ends[number] + len(content)] ^= 1 << bit
        files[number].write_bytes(content)
        hit.add(files[number])
    return hit


def has_another_version(calls: Path) -> bool:
    heads = [path.read_bytes()[: len(HEADER)] for path in calls.glob("segment-*.calls")]
    return any(re.fullmatch(rb"raypipe calls [03-9]\n", head) for head in heads)


@pytest.fixture(scope="module", params=["compacted", "segments"])
def finished(request: pytest.FixtureRequest, server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, whose log is compacted, or as a kill before that leaves it."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    pipeline(server).run(out, engine="local")
    if request.param == "segments":
        [path] = (out / "calls").glob("calls-*.parquet")
        _as_segments(path)
    return out


def _as_segments(path: Path) -> None:
    writer = SegmentWriter(path.parent, OTHER)
    for row in pq.read_table(path).to_pylist():
        writer.write(frame_of(row.pop("key"), list(row.values())))
    writer.close()
    path.unlink()


@EFFORT
def test_a_run_over_a_flipped_log_gives_the_same_rows_and_asks_for_what_is_lost(
    effort: int, finished: Path, server: Loopback, tmp_path: Path
) -> None:
    expected = Result(finished)["third"].to_arrow().to_pylist()

    @given(flips=FLIPS)
    def check(flips: list[tuple[float, int]]) -> None:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(finished, out)
        flip(out / "calls", flips)
        since = len(server.requests)
        if has_another_version(out / "calls"):
            with pytest.raises(OutputError, match="has version"):
                bounded(lambda: pipeline(server).run(out, engine="local"))
            return
        result = bounded(lambda: pipeline(server).run(out, engine="local"))
        asked = len(server.requests) - since
        assert result["third"].to_arrow().to_pylist() == expected
        damaged = result.manifest["call_log"]["damaged"]
        lost = sum(damage["calls"] or 0 for damage in damaged)
        # A file has one row group; each flip in a segment costs a frame, or two where it hides where one ends.
        most = CALLS if finished.parent.name.startswith("compacted") else 2 * len(flips)
        assert asked <= min(most, CALLS if lost else 0)
        before = len(server.requests)
        again = bounded(lambda: pipeline(server).run(out, engine="local"))
        assert (len(server.requests), again.manifest["call_log"]) == (before, {"damaged": []})

    explore(check, 6, effort)


@EFFORT
def test_what_is_found_in_a_flipped_log_is_what_was_written(effort: int, tmp_path: Path) -> None:
    kept, calls = tmp_path / "kept", range(40)
    write(kept, calls)
    compact(kept, OWNER)
    write(kept, range(40, 80))

    @given(flips=FLIPS)
    def check(flips: list[tuple[float, int]]) -> None:
        folder = tmp_path / "calls"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        hit = flip(folder, flips)
        if has_another_version(folder):
            with pytest.raises(OutputError, match="has version"):
                compact(folder, OWNER)
            return
        found = _found(folder, range(80))
        assert all(text == f"text {number}" for number, text in found.items())
        lost = set(range(80)) - set(found)
        assert len(lost & set(calls)) in (0, 40 if any(path.suffix == ".parquet" for path in hit) else 0)
        assert len(lost - set(calls)) <= 2 * len(flips)
        damaged = compact(folder, OWNER)
        index = load_index(folder, is_kept=True)
        assert _found(folder, range(80)) == found
        told = sum(damage.calls or 0 for damage in (*damaged, *index.damaged))
        assert told >= len(lost - set(calls)) or not damaged

    explore(check, 40, effort)


def _found(folder: Path, calls: range) -> dict[int, Any]:
    reader = CallReader(index_with_segments(load_index(folder), folder, OWNER))
    found = {number: reader.find(key(number)) for number in calls}
    return {number: answer.text for number, answer in found.items() if answer is not None}
