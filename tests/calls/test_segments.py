"""Whatever happens to a call log, what was written whole is found and nothing else is."""

from __future__ import annotations

import fcntl
import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.calls.compacted import SCHEMA
from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, index_with_segments, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import HEADER, CallOrigin, SegmentReader, make_frame, parse_fields, read_segment
from raypipe.contracts.llm import Completion, Usage
from raypipe.errors import OutputError
from raypipe.identity import digest

OWNER = "0123456789ab"
TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=5)


def key(number: int) -> bytes:
    return digest(number.to_bytes(4, "little"))


def completion(text: str) -> Completion:
    return Completion(text, "stop", Usage(len(text), 3), "some-model")


def write(folder: Path, entries: dict[bytes, str] | list[tuple[bytes, str]], owner: str = OWNER) -> None:
    writer = SegmentWriter(folder, owner)
    for one, text in entries.items() if isinstance(entries, dict) else entries:
        writer.write(make_frame(one, CallOrigin("step", digest(one), 0, 0), completion(text), 0.25))
    writer.close()


def segment(folder: Path) -> Path:
    [path] = (path for path in folder.glob("segment-*.calls") if path.stat().st_size > len(HEADER))
    return path


def texts_in(content: bytes) -> list[str]:
    return [fields[4] for _, fields in read_segment(io.BytesIO(content))]


def frame_starts(content: bytes) -> list[int]:
    starts, place = [], len(HEADER)
    while place < len(content):
        starts.append(place)
        place += 8 + int.from_bytes(content[place : place + 4], "little")
    return starts


def written(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> bytes:
    folder = tmp_path_factory.mktemp("calls")
    write(folder, [(key(number), text) for number, text in enumerate(texts)])
    return segment(folder).read_bytes()


@settings(max_examples=25)
@given(texts=TEXTS)
def test_a_torn_tail_loses_the_torn_frame_alone(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    content = written(tmp_path_factory, texts)
    for end in range(frame_starts(content)[-1], len(content)):
        assert texts_in(content[:end]) == texts[:-1]
    assert texts_in(content) == texts


@settings(max_examples=25)
@given(texts=TEXTS, share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_costs_its_frame_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], share: float, flip: int
) -> None:
    content = bytearray(written(tmp_path_factory, texts))
    starts = frame_starts(bytes(content))
    place = len(HEADER) + int(share * (len(content) - len(HEADER)))
    content[place] ^= flip
    hit = sum(start <= place for start in starts) - 1
    reader = SegmentReader(io.BytesIO(bytes(content)))
    found = []
    while block := reader.read():
        found += [parse_fields(body)[4] for _, body in block.frames()]  # type: ignore[index]
    assert found in (texts, texts[:hit] + texts[hit + 1 :])
    assert reader.lost_calls == len(texts) - len(found)


@pytest.mark.parametrize("content", [b"", HEADER[:5], b"something else entirely, not a call log"])
def test_a_file_without_the_header_holds_nothing(content: bytes) -> None:
    assert texts_in(content) == []


def test_a_torn_segment_is_compacted_up_to_the_tear(tmp_path: Path) -> None:
    write(tmp_path, {key(0): "whole", key(1): "torn"})
    path = segment(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    compact(tmp_path, OWNER)
    reader = CallReader(load_index(tmp_path))
    assert reader.find(key(0)) == completion("whole")
    assert reader.find(key(1)) is None


def test_ten_thousand_calls_are_found_after_compaction(tmp_path: Path) -> None:
    for part in range(4):
        write(tmp_path, {key(number): f"text {number}" for number in range(part * 2500, part * 2500 + 2500)})
        if part % 2:
            compact(tmp_path, OWNER)
    assert not list(tmp_path.glob("segment-*"))
    index = load_index(tmp_path)
    assert (len(index), len(index.files)) == (10_000, 2)
    [part] = index.parts
    assert np.all(part.high[:-1] <= part.high[1:])
    reader = CallReader(index)
    for number in range(10_000):
        assert reader.find(key(number)) == completion(f"text {number}")
    assert all(reader.find(key(number)) is None for number in range(10_000, 11_000))


def test_keys_that_share_a_half_are_told_apart(tmp_path: Path) -> None:
    keys = [b"A" * 8 + bytes([number]) * 8 for number in (3, 1, 2)] + [bytes([4]) * 8 + b"A" * 8]
    write(tmp_path, {one: one.hex() for one in keys})
    compact(tmp_path, OWNER)
    reader = CallReader(load_index(tmp_path))
    assert [reader.find(one) for one in keys] == [completion(one.hex()) for one in keys]
    assert reader.find(b"A" * 8 + b"B" * 8) is None


def test_the_last_of_equal_keys_wins(tmp_path: Path) -> None:
    write(tmp_path, [(key(1), "first"), (key(2), "other"), (key(1), "second")])
    compact(tmp_path, OWNER)
    assert CallReader(load_index(tmp_path)).find(key(1)) == completion("second")
    write(tmp_path, {key(1): "third"})
    compact(tmp_path, OWNER)
    reader = CallReader(load_index(tmp_path))
    assert reader.find(key(1)) == completion("third")
    assert reader.find(key(2)) == completion("other")


def test_compacted_calls_say_where_they_were_asked(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, OWNER)
    writer.write(make_frame(key(1), CallOrigin("answers", b"r" * 16, 2, 3), completion("é\x00😀\n"), 0.5))
    writer.close()
    compact(tmp_path, OWNER)
    table = pq.read_table(next(iter(tmp_path.glob("calls-*.parquet"))))
    assert table.schema.equals(SCHEMA)
    row = table.to_pylist()[0]
    assert row.pop("ended_at") > 0
    assert row == {
        "key": key(1),
        "step": "answers",
        "row_id": (b"r" * 16).hex(),
        "ordinal": 2,
        "sample": 3,
        "text": "é\x00😀\n",
        "finish_reason": "stop",
        "input_tokens": 4,
        "output_tokens": 3,
        "model": "some-model",
        "latency_s": 0.5,
        "more": None,
    }


def test_segments_without_a_call_leave_no_file(tmp_path: Path) -> None:
    write(tmp_path, {})
    compact(tmp_path, OWNER)
    assert list(tmp_path.iterdir()) == []
    compact(tmp_path / "nothing there", OWNER)
    assert len(load_index(tmp_path / "nothing there")) == 0


def test_an_index_can_be_told_to_know_nothing(tmp_path: Path) -> None:
    write(tmp_path, {key(1): "known"})
    compact(tmp_path, OWNER)
    assert CallReader(load_index(tmp_path, known=False)).find(key(1)) is None


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Any]:
    """Makes writers that live until the test ends or closes them."""
    made: list[SegmentWriter] = []

    def make(owner: str) -> SegmentWriter:
        writer = SegmentWriter(tmp_path, owner)
        writer.write(make_frame(key(1), CallOrigin("step", b"r" * 16, 0, 0), completion("alive"), 0.1))
        made.append(writer)
        return writer

    yield make
    for writer in made:
        with suppress(OSError):
            writer.close()


def test_a_living_writer_of_another_owner_is_left_alone(tmp_path: Path, living: Any) -> None:
    living("ffffffffffff")
    theirs = set(tmp_path.iterdir())
    write(tmp_path, {key(2): "ended"}, owner="eeeeeeeeeeee")
    compact(tmp_path, OWNER)
    assert set(tmp_path.glob("segment-*")) == theirs
    reader = CallReader(load_index(tmp_path))
    assert reader.find(key(2)) == completion("ended")
    assert reader.find(key(1)) is None


def test_a_segment_that_another_run_takes_meanwhile_is_its(tmp_path: Path) -> None:
    """Runs may share a log; what one of them has tidied is not missed by the other."""
    write(tmp_path, {key(1): "one"})
    taken = segment(tmp_path)
    errors: list[BaseException] = []

    def tidied() -> None:
        try:
            compact(tmp_path, OWNER)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with taken.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=tidied)
        thread.start()
        thread.join(0.2)
        taken.unlink()
    thread.join(20)
    assert errors == []
    assert not list(tmp_path.glob("calls-*.parquet"))


def test_a_living_writer_of_the_same_owner_is_waited_for(tmp_path: Path, living: Any) -> None:
    writer = living(OWNER)
    closing = threading.Timer(0.3, writer.close)
    closing.start()
    compact(tmp_path, OWNER)
    closing.join()
    assert CallReader(load_index(tmp_path)).find(key(1)) == completion("alive")


def test_a_writer_of_the_same_owner_that_does_not_end_is_reported(tmp_path: Path, living: Any) -> None:
    living(OWNER)
    write(tmp_path, {key(2): "ended"})
    before = set(tmp_path.iterdir())
    with pytest.raises(OutputError, match="a worker of an earlier run still writes to it"):
        compact(tmp_path, OWNER, wait_s=0.2)
    assert set(tmp_path.iterdir()) == before


def test_what_a_living_writer_has_written_can_be_looked_up(tmp_path: Path, living: Any) -> None:
    write(tmp_path, {key(0): "compacted"})
    compact(tmp_path, OWNER)
    writer = living(OWNER)
    for number in range(2, 6):
        writer.sync()
        writer.write(make_frame(key(number), CallOrigin("step", b"r" * 16, 0, 0), completion(f"text {number}"), 0.1))
    reader = CallReader(index_with_segments(load_index(tmp_path), tmp_path, OWNER))
    assert reader.find(key(0)) == completion("compacted")
    assert reader.find(key(1)) == completion("alive")
    assert [reader.find(key(number)) for number in range(2, 6)] == [completion(f"text {n}") for n in range(2, 6)]
    others = CallReader(index_with_segments(load_index(tmp_path), tmp_path, "ffffffffffff"))
    assert others.find(key(1)) is None
    writer.close()
    compact(tmp_path, OWNER)
    assert len(load_index(tmp_path)) == 6


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "calls").write_text("a file stands here")
    with pytest.raises(OutputError, match="cannot be written"):
        SegmentWriter(tmp_path / "calls", OWNER)
