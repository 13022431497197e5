"""The index over many calls is made once, kept, mapped by all, and never leads to another call's answer."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.calls import index as index_module
from raypipe.calls.compacted import ROW_GROUP, SCHEMA, CompactedWriter
from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, KnownCalls, load_index
from raypipe.calls.segment_files import in_use
from tests.calls.logs import OTHER, OWNER, key, known, texts, write

MANY = index_module._KEPT_CALLS + 5 * ROW_GROUP


def fill(folder: Path, number: int, calls: range) -> Path:
    """A compacted file, as a run with so many calls leaves it."""
    folder.mkdir(exist_ok=True)
    writer = CompactedWriter(folder)
    for start in range(calls.start, calls.stop, ROW_GROUP):
        some = range(start, min(calls.stop, start + ROW_GROUP))
        values = {
            "key": [key(one) for one in some],
            "step": ["step"] * len(some),
            "row_id": [key(one).hex() for one in some],
            "text": [f"text {one}" for one in some],
            "finish_reason": ["stop"] * len(some),
            "model": ["m"] * len(some),
        }
        rest = {field.name: pa.nulls(len(some), field.type) for field in SCHEMA if field.name not in values}
        writer.write(pa.table(values | rest, schema=SCHEMA))
    path = writer.finish(number, {})
    writer.close()
    assert path is not None
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "calls"
    fill(folder, 1, range(MANY))
    return folder


@pytest.fixture
def log(large: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(large, tmp_path / "calls"))


SOME = [0, 1, 999, 70_000]


def kept(folder: Path) -> set[Path]:
    return set(folder.glob("*.index"))


def test_a_small_log_keeps_no_index(tmp_path: Path) -> None:
    write(tmp_path, range(50))
    compact(tmp_path, OWNER)
    load_index(tmp_path, is_kept=True)
    assert not kept(tmp_path)


def test_an_index_is_made_once_and_mapped_by_later_runs_and_workers(log: Path) -> None:
    load_index(log)
    assert not kept(log)  # a forecast changes nothing
    first = load_index(log, is_kept=True)
    [path] = kept(log)
    assert pq.read_table(log, columns=["key"]).num_rows == MANY  # readers of a folder of Parquet files pass over it
    inode = path.stat().st_ino
    again = load_index(log, is_kept=True)
    assert [one.stat().st_ino for one in kept(log)] == [inode]
    assert [part.path for part in (*first.parts, *again.parts)] == [path, path]
    travelled = pickle.dumps(again)
    assert len(travelled) < 10_000
    worker = pickle.loads(travelled)
    assert worker.parts[0].path == path
    for one in (first, again, worker):
        reader = CallReader(one)
        assert {number: answer.text for number in SOME if (answer := reader.find(key(number)))} == texts(SOME)
        assert reader.find(key(MANY + 1)) is None


def test_a_worker_makes_again_what_another_run_has_replaced(log: Path) -> None:
    travelled = pickle.dumps(load_index(log, is_kept=True))
    for path in kept(log):
        path.unlink()
    reader = CallReader(pickle.loads(travelled))
    assert {number: answer.text for number in SOME if (answer := reader.find(key(number)))} == texts(SOME)


def test_parts_grow_and_are_few(log: Path) -> None:
    load_index(log, is_kept=True)
    before = kept(log)
    start = MANY
    for number in range(2, 9):
        fill(log, number, range(start, start + 100))
        start += 100
        index = load_index(log, is_kept=True)
        assert len(index) == start
        assert len(index.parts) <= 2
        assert kept(log) == before  # a few calls are read anew
        assert CallReader(index).find(key(start - 1)) is not None
    fill(log, 9, range(start, start + MANY))
    assert len(load_index(log, is_kept=True).parts) == 1
    compact(log, OWNER)
    assert len(kept(log)) == 1 and kept(log) != before
    reader = CallReader(load_index(log))
    assert {number for number in [*SOME, start, start + MANY - 1] if reader.find(key(number)) is None} == set()


def test_of_equal_keys_in_several_parts_the_last_logged_wins(log: Path) -> None:
    load_index(log, is_kept=True)
    write(log, [1, 2], "new")
    compact(log, OWNER)
    write(log, [2], "newest")
    compact(log, OWNER)
    index = load_index(log, is_kept=True)
    assert len(index.parts) == 2
    assert known(log, [0, 1, 2]) == {0: "text 0", 1: "new", 2: "newest"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.9, 0.99999, 1.0])
def test_a_damaged_index_is_made_again(log: Path, share: float) -> None:
    load_index(log, is_kept=True)
    [path] = kept(log)
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)
    assert known(log, SOME) == texts(SOME)
    load_index(log, is_kept=True)
    compact(log, OWNER)
    assert path not in kept(log)
    assert known(log, SOME) == texts(SOME)


def test_an_index_that_is_damaged_later_leads_to_no_other_answer(log: Path) -> None:
    """While it is mapped."""
    index = load_index(log, is_kept=True)
    [path] = kept(log)
    with path.open("r+b") as file:
        rows = np.memmap(file, np.uint32, "r+", 16 * (-(-MANY // 8) * 8), (MANY,))
        rows[:] = rows[::-1].copy()
        rows.flush()
    reader = CallReader(index)
    answers = {number: reader.find(key(number)) for number in range(0, MANY, 997)}
    assert all(answer is None or answer.text == f"text {number}" for number, answer in answers.items())


def test_an_index_that_another_run_may_use_is_not_removed(log: Path) -> None:
    load_index(log, is_kept=True)
    [path] = kept(log)
    for old in log.glob("calls-*"):
        old.unlink()
    with in_use(log, OTHER):
        compact(log, OWNER)
        assert kept(log) == {path}
    compact(log, OWNER)
    assert not kept(log)


def test_a_run_goes_on_when_another_merges_the_files_that_it_knows(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, [number])
        compact(tmp_path, OWNER)
    worker = KnownCalls(load_index(tmp_path), tmp_path, OWNER, frozenset())
    assert worker.find("step", key(0)) is not None
    for number in range(40, 70):
        write(tmp_path, [number], owner=OTHER)
        compact(tmp_path, OTHER)
    found = {number: answer.text for number in range(40) if (answer := worker.find("step", key(number)))}
    assert found == texts(range(40))


def test_a_full_disk_costs_the_file_of_the_index_alone(log: Path) -> None:
    os.chmod(log, 0o500)
    try:
        index = load_index(log, is_kept=True)
    finally:
        os.chmod(log, 0o700)
    assert CallReader(index).find(key(1)) is not None
