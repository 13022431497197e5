"""Whatever ends a worker, what it wrote is in the store once, or on its disk for the next run to find."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, index_with_segments, load_index
from raypipe.calls.remote import folder_here, forget, segments, send, send_left
from raypipe.calls.segment_files import SegmentWriter, segment_paths
from raypipe.calls.segments import CallOrigin, make_frame
from raypipe.calls.writer import CallLogWriter
from raypipe.contracts.llm import Completion, Usage
from raypipe.errors import OutputError
from raypipe.identity import digest
from raypipe.storage.paths import RemotePath, open_parquet_at, parse_path

OWNER, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
def calls(bucket: str) -> Iterator[RemotePath]:
    place = parse_path(f"{bucket}/out/calls")
    assert isinstance(place, RemotePath)
    yield place
    shutil.rmtree(folder_here(place), ignore_errors=True)


def key(number: int) -> bytes:
    return digest(number.to_bytes(4, "little"))


def completion(number: int) -> Completion:
    return Completion(f"text {number}", "stop", Usage(1, 3), "some-model")


def opened(calls: RemotePath, owner: str = OWNER) -> SegmentWriter:
    return SegmentWriter(folder_here(calls), owner)


def append(writer: SegmentWriter, *numbers: int) -> None:
    for number in numbers:
        writer.write(make_frame(key(number), CallOrigin("step", key(number), 0, 0), completion(number), 0.25))


def die(writer: SegmentWriter) -> None:
    """Let go of the segments as a killed process does, without a word."""
    writer.close()


def pieces(calls: RemotePath) -> list[str]:
    return [place.name for place in calls.glob("segment-*")]


def found(calls: RemotePath, owner: str = OWNER) -> list[int]:
    """The calls that a substitute for a worker knows."""
    reader = CallReader(index_with_segments(load_index(calls), calls, owner))
    answers = {number: reader.find(key(number)) for number in range(20)}
    assert all(answer in (None, completion(number)) for number, answer in answers.items())
    return [number for number, answer in answers.items() if answer is not None]


def compacted(calls: RemotePath) -> list[str]:
    paths = list(calls.glob("calls-*.parquet"))
    return [text for path in paths for text in open_parquet_at(path).read(["text"]).column(0).to_pylist()]


def test_only_what_is_new_is_sent(calls: RemotePath) -> None:
    writer = opened(calls)
    send(writer.stem, calls)
    assert pieces(calls) == []
    append(writer, 1, 2)
    send(writer.stem, calls)
    send(writer.stem, calls)
    assert len(pieces(calls)) == 1
    writer.sync()  # from now on it writes to its other segment
    append(writer, 3)
    send(writer.stem, calls)
    assert len(pieces(calls)) == 2
    writer.close()
    shutil.rmtree(folder_here(calls))  # as another machine sees it
    assert found(calls) == [1, 2, 3]
    compact(calls, OWNER)
    assert sorted(compacted(calls)) == ["text 1", "text 2", "text 3"]
    assert pieces(calls) == []
    assert found(calls) == [1, 2, 3]


def test_what_a_worker_had_not_sent_is_found_on_its_machine(calls: RemotePath) -> None:
    writer = opened(calls)
    append(writer, 1)
    send(writer.stem, calls)
    append(writer, 2)
    assert found(calls) == [1, 2]
    assert len(segments(calls, OWNER)) == 2  # no piece is read beside the segments that it is of
    die(writer)
    compact(calls, OWNER)
    assert sorted(compacted(calls)) == ["text 1", "text 2"]
    assert list(folder_here(calls).iterdir()) == []


def test_a_frame_that_is_cut_is_not_sent_and_those_before_it_are(calls: RemotePath) -> None:
    writer = opened(calls)
    append(writer, 1, 2)
    [path] = [path for path in segment_paths(writer.stem) if path.stat().st_size > 100]
    die(writer)
    os.truncate(path, path.stat().st_size - 1)
    compact(calls, OWNER)
    assert compacted(calls) == ["text 1"]


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_worker_that_died_as_it_sent_counts_once(calls: RemotePath, is_noted: bool) -> None:
    writer = opened(calls)
    append(writer, 1)
    send(writer.stem, calls)
    if not is_noted:
        writer.stem.with_name(writer.stem.name + ".sent").unlink()
    append(writer, 2)
    die(writer)
    send_left(calls, OWNER, is_over=False)
    assert len(pieces(calls)) == 1 + is_noted
    compact(calls, OWNER)
    assert sorted(compacted(calls)) == ["text 1", "text 2"]


def test_workers_of_another_run_are_left_alone(calls: RemotePath) -> None:
    theirs, dead = opened(calls, OTHER), opened(calls, OTHER)
    append(theirs, 1)
    append(dead, 2)
    die(dead)
    compact(calls, OWNER)
    assert compacted(calls) == []
    assert len(pieces(calls)) == 1  # of the dead one, so that it is not lost with this machine
    assert found(calls, OTHER) == [1, 2]
    theirs.close()
    compact(calls, OTHER)
    assert sorted(compacted(calls)) == ["text 1", "text 2"]


def test_a_worker_that_lives_is_waited_for(calls: RemotePath) -> None:
    writer = opened(calls)
    append(writer, 1)
    with pytest.raises(OutputError, match="a worker of an earlier run still writes to it"):
        compact(calls, OWNER, wait_s=0.1)
    writer.close()
    compact(calls, OWNER, wait_s=0.1)
    assert compacted(calls) == ["text 1"]


def test_segments_that_were_sent_long_ago_are_removed_from_a_machine(calls: RemotePath) -> None:
    writer = opened(calls, OTHER)
    append(writer, 1)
    die(writer)
    send_left(calls, OWNER, is_over=False)
    for path in folder_here(calls).iterdir():
        os.utime(path, (1, 1))
    send_left(calls, OWNER, is_over=False)
    assert list(folder_here(calls).iterdir()) == []
    assert found(calls, OTHER) == [1]


def test_a_log_is_forgotten_here_and_there(calls: RemotePath) -> None:
    for number in (1, 2):
        writer = opened(calls)
        append(writer, number)
        if number == 1:
            send(writer.stem, calls)
        die(writer)
    forget(calls)
    assert found(calls) == []


def test_a_worker_that_closes_has_sent_everything(calls: RemotePath) -> None:
    asyncio.run(written_by_scribe(calls))
    shutil.rmtree(folder_here(calls))
    assert found(calls) == [1, 2]


async def written_by_scribe(calls: RemotePath, before_end: Callable[[], object] = lambda: None) -> None:
    log_writer = CallLogWriter(calls, OWNER)
    log_writer.open()
    for number in (1, 2):
        await log_writer.append(key(number), CallOrigin("step", key(number), 0, 0), completion(number), 0.25)
    before_end()
    await asyncio.to_thread(log_writer.close)


def test_a_store_that_is_away_at_the_end_loses_nothing(calls: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    here = folder_here(calls)
    with pytest.raises(OutputError, match=f"the call log {calls} cannot be written: the store cannot be reached"):
        asyncio.run(written_by_scribe(calls, lambda: monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")))
    assert len(list(here.glob("segment-*.calls"))) == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    compact(calls, OWNER)
    assert sorted(compacted(calls)) == ["text 1", "text 2"]
