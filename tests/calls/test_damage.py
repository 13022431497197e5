"""Damage is told by file and number of calls, kept aside, and costs only itself."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.calls.compacted import ROW_GROUP, SCHEMA
from raypipe.calls.compacted_file import open_compacted
from raypipe.calls.compaction import compact
from raypipe.calls.damage import Damage, take_notes
from raypipe.calls.index import CallReader, KnownCalls, index_with_segments, load_index
from raypipe.calls.segments import HEADER, SegmentReader
from raypipe.errors import OutputError
from tests.calls.logs import OWNER, filled, frame, key, known, texts, write


def starts_of(content: bytes) -> list[int]:
    starts, place = [], len(HEADER)
    while place < len(content):
        starts.append(place)
        place += 8 + int.from_bytes(content[place : place + 4], "little")
    return starts


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


@pytest.mark.parametrize("at", [0, 3, 4, 7, 8, 23, 24, 40, -1], ids=str)
@pytest.mark.parametrize("hit", [0, 4, 9])
def test_a_damaged_frame_costs_itself_wherever_it_is_hit(at: int, hit: int, tmp_path: Path) -> None:
    """Length, CRC, key, fields; first, in the middle, last."""
    write(tmp_path, range(10))
    path = filled(tmp_path)
    content = path.read_bytes()
    starts = [*starts_of(content), len(content)]
    place = starts[hit] + at if at >= 0 else starts[hit + 1] - 1
    overwrite(path, place, bytes([content[place] ^ 0xFF]))
    rest = texts(number for number in range(10) if number != hit)
    is_length = 0 <= at < 4  # what it says can be told from the next frame, so that nothing is lost
    assert known(tmp_path, range(10)) == (texts(range(10)) if is_length else rest)
    damaged = compact(tmp_path, OWNER)
    assert known(tmp_path, range(10)) == (texts(range(10)) if is_length else rest)
    assert not list(tmp_path.glob("segment-*"))
    if not is_length:
        [damage] = damaged
        assert (damage.file, damage.calls, damage.kept) == (path.name, 1, f"damaged/{path.name}")
        assert (tmp_path / damage.kept).stat().st_size == len(content)


def test_a_hole_of_many_frames_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, range(100))
    path = filled(tmp_path)
    content = path.read_bytes()
    starts = starts_of(content)
    overwrite(path, starts[20], os.urandom(starts[50] - starts[20] + 3))
    with caplog.at_level(logging.WARNING, "raypipe"):
        [damage] = compact(tmp_path, OWNER)
    assert known(tmp_path, range(100)) == texts([*range(20), *range(51, 100)])
    assert damage.calls is not None and damage.calls >= 1
    said = f"has {starts[51] - starts[20]:,} bytes that cannot be read"
    assert f"the file {path.name} of the call log {said}" in caplog.text
    assert f"it is kept in damaged/{path.name}" in caplog.text


def test_what_looks_like_frames_is_read_in_linear_time(tmp_path: Path) -> None:
    """Each octet of these 3 MB might begin a frame that is as long as all of them."""
    block = (2 << 20).to_bytes(4, "little") + b"\0" * 20 + b"["
    path = tmp_path / f"segment-{OWNER}-{'0' * 32}-a.calls"
    path.write_bytes(HEADER + frame(0) + block * (1 << 17) + frame(1))
    reads = 0
    found: list[bytes] = []

    class Counted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read(self, size: int = -1) -> bytes:
            nonlocal reads
            content = self._file.read(size)
            reads += len(content)
            return content

        def seek(self, *where: int) -> int:
            return self._file.seek(*where)

    with path.open("rb") as file:
        reader = SegmentReader(Counted(file))  # type: ignore[arg-type]
        while block := reader.read():
            found += [one for one, _ in block.frames()]
    assert found == [key(0), key(1)]
    assert reads < 20 * path.stat().st_size


def test_a_frame_that_was_never_written_whole_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    path = filled(tmp_path)
    content = path.read_bytes()
    begin = starts_of(content)[-1]
    for end in range(begin, len(content)):
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        for file in tmp_path.glob("calls-*"):
            file.unlink()
        path.write_bytes(content[:end])
        assert compact(tmp_path, OWNER) == []
        assert known(tmp_path, range(3)) == texts(range(2))


@pytest.mark.parametrize("name", [f"segment-{OWNER}-{'0' * 32}-a.calls", "calls-00000000000000000007-1.parquet"])
def test_an_unknown_version_is_an_error_that_deletes_nothing(name: str, tmp_path: Path) -> None:
    if name.endswith("calls"):
        (tmp_path / name).write_bytes(b"raypipe calls 17\n" + frame(0))
    else:
        about = {b"raypipe.calls": b'{"version": 17, "columns": [], "checksums": ""}'}
        pq.write_table(SCHEMA.empty_table().replace_schema_metadata(about), tmp_path / name)
    before = (tmp_path / name).read_bytes()
    work = partial(compact, tmp_path, OWNER) if name.endswith("calls") else partial(load_index, tmp_path, is_kept=True)
    with pytest.raises(OutputError, match=f"{name} has version 17 of the call log, which this raypipe does not know"):
        work()
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_segment_with_a_damaged_header_is_read(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    path = filled(tmp_path)
    overwrite(path, 3, b"\0")
    assert known(tmp_path, range(3)) == texts(range(3))
    [damage] = compact(tmp_path, OWNER)
    assert (damage.calls, damage.kept) == (0, f"damaged/{path.name}")
    assert known(tmp_path, range(3)) == texts(range(3))


# Compacted files.


def compacted(folder: Path, numbers: range) -> Path:
    before = set(folder.glob("calls-*"))
    write(folder, numbers)
    assert compact(folder, OWNER) == []
    [path] = set(folder.glob("calls-*")) - before
    return path


def _wrong_key(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "key", table.column("key").cast(pa.binary())), path)


FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by one octet": lambda path: os.truncate(path, path.stat().st_size - 1),
    "foreign": lambda path: path.write_bytes(b"something else entirely" * 100),
    "foreign Parquet": lambda path: pq.write_table(pa.table({"a": [1]}), path),
    "wrong key": _wrong_key,
    "missing column": lambda path: pq.write_table(pq.read_table(path).drop_columns(["model"]), path),
    "wrong type": lambda path: pq.write_table(pq.read_table(path).set_column(5, "text", pa.array([1] * 40)), path),
    "metadata": lambda path: overwrite(path, path.stat().st_size - 40, b"\xff"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_read_is_set_aside_and_told(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = compacted(tmp_path, range(40))
    compacted(tmp_path, range(40, 50))
    FILES[what](first)
    content = first.read_bytes()
    assert known(tmp_path, range(50)) == texts(range(40, 50))  # a forecast changes nothing
    assert first.exists()
    with caplog.at_level(logging.WARNING, "raypipe"):
        index = load_index(tmp_path, is_kept=True)
    [damage] = index.damaged
    assert (damage.file, damage.calls) == (first.name, 40)
    assert f"the file {first.name} of the call log " in caplog.text and "40 calls lost" in caplog.text
    assert (tmp_path / "damaged" / first.name).read_bytes() == content
    assert known(tmp_path, range(50)) == texts(range(40, 50))
    assert load_index(tmp_path, is_kept=True).damaged == ()


def test_a_cut_file_of_version_1_is_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "calls-01795949869087377712-fd3c170d.parquet"
    path.write_bytes(b"PAR1 and no more")
    [damage] = load_index(tmp_path, is_kept=True).damaged
    assert (damage.file, damage.calls) == (path.name, None)
    assert "an unknown number of calls lost" in damage.describe()


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    calls = range(2 * ROW_GROUP + 100)
    kept = compacted(tmp_path / "calls", calls)
    content = kept.read_bytes()
    rng = random.Random(7)
    lost = []
    for _ in range(25):
        kept.write_bytes(content)
        flipped(kept, rng.randrange(8 * len(content)))
        reader = CallReader(load_index(tmp_path / "calls"))
        found = {number: reader.find(key(number)) for number in calls}
        lost.append(sum(answer is None for answer in found.values()))
        assert all(answer is None or answer.text == f"text {number}" for number, answer in found.items())
        assert lost[-1] in (0, ROW_GROUP, 100, len(calls))
    assert max(lost) > 0


def test_a_damaged_row_group_is_told_once_and_the_rest_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = range(2 * ROW_GROUP)
    path = compacted(tmp_path, calls)
    column = pq.ParquetFile(path).metadata.row_group(0).column(5)
    overwrite(path, column.data_page_offset + column.total_compressed_size // 2, b"\xff\xff\xff\xff")
    index = load_index(tmp_path, is_kept=True)
    assert len(index) == len(calls)
    with caplog.at_level(logging.WARNING, "raypipe"):
        worker = KnownCalls(index, tmp_path, OWNER, frozenset())
        found = {number for number in calls if worker.find("step", key(number)) is not None}
    assert found == set(calls[ROW_GROUP:])
    assert caplog.text.count(path.name) == 1
    [damage] = compact(tmp_path, OWNER)
    assert (damage.file, damage.calls, damage.kept) == (path.name, ROW_GROUP, f"damaged/{path.name}")
    assert known(tmp_path, calls) == texts(calls[ROW_GROUP:])
    assert worker.find("step", key(ROW_GROUP)) is not None  # whose file is another one now
    assert compact(tmp_path, OWNER) == []


def test_a_group_whose_keys_are_damaged_costs_itself(tmp_path: Path) -> None:
    calls = range(2 * ROW_GROUP)
    path = compacted(tmp_path, calls)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    overwrite(path, column.data_page_offset + 200, b"\xff\xff\xff\xff")
    index = load_index(tmp_path, is_kept=True)
    assert [(damage.file, damage.calls) for damage in index.damaged] == [(path.name, ROW_GROUP)]
    assert known(tmp_path, calls) == texts(calls[:ROW_GROUP])
    assert load_index(tmp_path, is_kept=True).damaged == ()


def test_notes_of_several_workers_are_one_for_each_file(tmp_path: Path) -> None:
    from raypipe.calls.damage import note

    for count in (1, 5, 3):
        note(tmp_path, OWNER, Damage("a", "is odd", count))
    note(tmp_path, "ffffffffffff", Damage("b", "is odd"))
    assert take_notes(tmp_path, OWNER) == [Damage("a", "is odd", 5)]
    assert take_notes(tmp_path, OWNER) == []


def test_a_file_with_other_row_groups_is_read(tmp_path: Path) -> None:
    """As somebody may have made who joined logs by hand."""
    path = compacted(tmp_path, range(100))
    table = pq.read_table(path).replace_schema_metadata()
    path.unlink()
    pq.write_table(table.drop_columns(["more"]), tmp_path / "calls-00000000000000000001-mine.parquet", row_group_size=7)
    assert known(tmp_path, range(100)) == texts(range(100))
    index = index_with_segments(load_index(tmp_path, is_kept=True), tmp_path, OWNER)
    assert (len(index), index.damaged) == (100, ())
    opened = open_compacted(tmp_path / "calls-00000000000000000001-mine.parquet")
    assert not isinstance(opened, Damage)
    assert opened.place(8) == (1, 1)
